//! What the figures are held against.

use super::measures::{self, Better};
use super::{CALLERS, GROUPS, figure, find, number, reason, thousands};
use crate::record::{Results, Row, Unit, is_raw};

/// A bound on one backend.
#[derive(Debug, PartialEq)]
pub(crate) struct Bound {
    pub(crate) rule: &'static str,
    /// The backend, and from where it is called unless that is the usual place.
    pub(crate) backend: String,
    pub(crate) verdict: Verdict,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    Measured {
        measured: String,
        limit: String,
        met: bool,
    },
    /// Why, if that is known.
    NotMeasured(Option<String>),
}

impl Bound {
    /// Whether it is met, if that is known.
    pub(crate) fn met(&self) -> Option<bool> {
        match self.verdict {
            Verdict::Measured { met, .. } => Some(met),
            Verdict::NotMeasured(_) => None,
        }
    }
}

/// What it says, on which backends, called from where, and how it is checked.
type Rule = (&'static str, fn(&str) -> bool, &'static [&'static str], fn(&Scope<'_>) -> Check);

/// The verdict, or else why it could not be measured.
type Check = Result<Verdict, Option<String>>;

const MAIN: &[&str] = &[""];
const ALL: &[&str] = &CALLERS;

const RULES: &[Rule] = &[
    ("acquire and release ≤ 2.3 raw writes + 2 engine hops", has_lock_bound, ALL, |on| {
        let (write, hop) = (on.write()?, on.hop()?);
        let made_of = format!("2.3 × {} + 2 × {}", time(write), time(hop));
        on.at_most("acquire and release", None, 2.3 * write + 2.0 * hop, &made_of)
    }),
    ("acquire and release ≤ 2.8 raw writes", has_lock_bound, ALL, |on| {
        on.at_most_writes("acquire and release", None, 2.8)
    }),
    ("acquire and release ≤ 3 raw writes + an engine hop", is_local, ALL, |on| {
        let (write, hop) = (on.write()?, on.hop()?);
        let made_of = format!("3 × {} + {}", time(write), time(hop));
        on.at_most("acquire and release", None, 3.0 * write + hop, &made_of)
    }),
    ("hand-off between 2 processes ≤ 3 raw writes where the backend pushes", pushes, MAIN, |on| {
        on.at_most_writes("hand-off", Some(2), 3.0)
    }),
    ("hand-off between 2 processes: the least of all contestants", any, MAIN, |on| {
        let ours = on.ours("hand-off", Some(2))?;
        let rival = best_rival(on.results, ours).ok_or_else(|| Some(ALONE.to_owned()))?;
        let limit = format!("{} ({})", time(rival.median), rival.contestant);
        Ok(verdict(time(ours.median), limit, ahead(ours, rival)))
    }),
    ("requests per hand-off of 1,000 waiters ≤ 1.25 times those of 10", is_server, MAIN, |on| {
        let few = on.ours("requests per hand-off", Some(10))?.median;
        let made_of = format!("1.25 × {}", number(few));
        on.at_most("requests per hand-off", Some(1000), 1.25 * few, &made_of)
    }),
    ("members with capabilities of 1,000 ≤ 3 times the raw read", any, MAIN, |on| {
        let raw = on.row("raw", "members with capabilities", Some(1000))?.median;
        let made_of = format!("3 × {}", time(raw));
        on.at_most("members with capabilities", Some(1000), 3.0 * raw, &made_of)
    }),
    ("join to event ≤ 3 raw writes", any, MAIN, |on| {
        on.at_most_writes("join to event", None, 3.0)
    }),
    ("leader killed to next leader ≤ time to live + 50 ms", any, MAIN, |on| {
        let ttl = on.ours("time to live", None)?.median;
        let made_of = format!("{} + 50 ms", time(ttl));
        on.at_most("leader killed to next leader", None, ttl + 50e6, &made_of)
    }),
    ("renewal of 10,000 locks ≤ a tenth of 10,000 raw writes", any, MAIN, |on| {
        on.at_most_writes("renewal", Some(10_000), 1000.0)
    }),
    ("ahead of every other contestant on every row", any, MAIN, |on| on.ahead_everywhere()),
];

/// What two runs of the same differ by.
const NOISE: f64 = 1.1;

const ALONE: &str = "no other contestant";

fn any(_: &str) -> bool {
    true
}

fn is_local(backend: &str) -> bool {
    GROUPS[0].1.contains(&backend)
}

fn is_server(backend: &str) -> bool {
    !is_local(backend)
}

fn has_lock_bound(backend: &str) -> bool {
    is_server(backend) && !["etcd", "etcd3-http"].contains(&backend)
}

/// Whether waiters are told, and need not look.
fn pushes(backend: &str) -> bool {
    backend != "memcached"
}

/// All bounds, rule by rule.
pub(crate) fn bounds(results: &Results) -> Vec<Bound> {
    let backends = GROUPS.iter().flat_map(|(_, backends)| *backends).copied();
    let backends: Vec<_> = backends.filter(|name| !["none", "memory"].contains(name)).collect();
    let mut bounds = Vec::new();
    for (rule, holds, callers, check) in RULES {
        for backend in backends.iter().filter(|backend| holds(backend)) {
            for caller in *callers {
                let scope = Scope { results, backend, caller };
                let verdict = check(&scope).unwrap_or_else(Verdict::NotMeasured);
                bounds.push(Bound { rule, backend: format!("{backend}{caller}"), verdict });
            }
        }
    }
    bounds
}

/// Where the figures of a bound are looked up.
struct Scope<'a> {
    results: &'a Results,
    backend: &'a str,
    /// What stands behind a contestant's name, so that like is compared with like.
    caller: &'a str,
}

impl<'a> Scope<'a> {
    fn row(&self, who: &str, measure: &str, size: Option<u64>) -> Result<&'a Row, Option<String>> {
        let key = [self.backend, &format!("{who}{}", self.caller), measure];
        find(self.results, key, size).ok_or_else(|| reason(self.results, key).map(str::to_owned))
    }

    fn ours(&self, measure: &str, size: Option<u64>) -> Result<&'a Row, Option<String>> {
        self.row("tooz", measure, size)
    }

    /// What everything is counted in.
    fn write(&self) -> Result<f64, Option<String>> {
        Ok(self.row("raw", "write", None)?.median)
    }

    /// The engine's hop, which depends on no backend.
    fn hop(&self) -> Result<f64, Option<String>> {
        Ok(Scope { backend: "memory", ..*self }.ours("engine hop", None)?.median)
    }

    fn at_most(&self, measure: &str, size: Option<u64>, limit: f64, made_of: &str) -> Check {
        let ours = self.ours(measure, size)?;
        let text = format!("{} ({made_of})", figure(limit, ours.unit));
        Ok(verdict(figure(ours.median, ours.unit), text, ours.median <= limit))
    }

    fn at_most_writes(&self, measure: &str, size: Option<u64>, times: f64) -> Check {
        let write = self.write()?;
        self.at_most(measure, size, times * write, &format!("{times} × {}", time(write)))
    }

    fn ahead_everywhere(&self) -> Check {
        let is_ours = |row: &&Row| row.backend == self.backend && row.contestant == "tooz";
        let ours: Vec<_> = self.results.rows.iter().filter(is_ours).collect();
        let against = |row: &&'a Row| Some((*row, best_rival(self.results, row)?));
        let pairs: Vec<_> = ours.iter().filter_map(against).collect();
        if pairs.is_empty() {
            return Err((!ours.is_empty()).then(|| ALONE.to_owned()));
        }
        let behind = pairs.iter().filter(|(ours, rival)| !ahead(ours, rival));
        let behind: Vec<_> = behind.map(|(ours, rival)| loss(ours, rival)).collect();
        let mut measured = (pairs.len() - behind.len()).to_string();
        if !behind.is_empty() {
            measured = format!("{measured}; not in {}", behind.join(", "));
        }
        Ok(verdict(measured, format!("all {}", pairs.len()), behind.is_empty()))
    }
}

fn verdict(measured: String, limit: String, met: bool) -> Verdict {
    Verdict::Measured { measured, limit, met }
}

fn time(nanoseconds: f64) -> String {
    figure(nanoseconds, Unit::Nanoseconds)
}

/// The best of the others with the same measure of the same size.
fn best_rival<'a>(results: &'a Results, ours: &Row) -> Option<&'a Row> {
    let competes = |row: &&Row| {
        let name = row.contestant.split(',').next().unwrap_or_default();
        name != "tooz"
            && !is_raw(name)
            && (&row.backend, &row.measure, row.size) == (&ours.backend, &ours.measure, ours.size)
    };
    let rivals = results.rows.iter().filter(competes);
    let by_median = |a: &&Row, b: &&Row| a.median.total_cmp(&b.median);
    match measures::better(&ours.measure) {
        Better::Less => rivals.min_by(by_median),
        Better::More => rivals.max_by(by_median),
    }
}

/// Ahead, or behind by no more than noise is.
fn ahead(row: &Row, other: &Row) -> bool {
    match measures::better(&row.measure) {
        Better::Less => row.median <= other.median * NOISE,
        Better::More => row.median * NOISE >= other.median,
    }
}

/// Where, and by whom, ours is beaten.
fn loss(ours: &Row, rival: &Row) -> String {
    let size = ours.size.map(|size| format!(" of {}", thousands(size))).unwrap_or_default();
    let [our_figure, its_figure] = [ours, rival].map(|row| figure(row.median, row.unit));
    format!("{}{size} ({our_figure}; {} {its_figure})", ours.measure, rival.contestant)
}
