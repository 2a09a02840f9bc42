//! What is measured, and how.

mod alone;
mod elections;
mod footprint;
mod groups;
mod hand_off;
mod locks;
mod waiters;

use std::sync::atomic::{AtomicU32, Ordering};

use tooz_benches::protocol::{Answer, Ask};
use tooz_benches::record::{Book, Unit};
use tooz_benches::statistics::Key;

use crate::contestant::{Contestant, Entrant};
use crate::setups::Setup;

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As the documentation shows it.
    Full,
    /// Whether it works at all.
    Quick,
}

impl Form {
    fn choose<T>(self, full: T, quick: T) -> T {
        match self {
            Self::Full => full,
            Self::Quick => quick,
        }
    }
}

/// A measure over one backend.
type Measure = fn(&Setup, Form, &mut Book) -> anyhow::Result<()>;

/// In the order of the run. Those whose contestants alternate come first, on a young server.
const MEASURES: &[(&str, Measure)] = &[
    ("locks", locks::cost),
    ("groups", groups::steps),
    ("start", footprint::start),
    ("events", groups::events),
    ("elections", elections::failover),
    ("hand-off", hand_off::measure),
    ("waiters", waiters::measure),
    ("renewal", locks::renewal),
    ("members", groups::members),
    ("memory", footprint::memory),
];

/// Measures all of it, or those that `TOOZ_BENCH_MEASURES` names.
pub(crate) fn run(setups: &[Setup], form: Form, book: &mut Book) -> anyhow::Result<()> {
    let named = std::env::var("TOOZ_BENCH_MEASURES").unwrap_or_default();
    let wanted = |name: &str| named.is_empty() || named.split(',').any(|other| other == name);
    for (name, measure) in MEASURES.iter().filter(|(name, _)| wanted(name)) {
        for setup in setups {
            println!("\n== {name}: {}", setup.name);
            measure(setup, form, book)?;
        }
    }
    if wanted("alone") {
        println!("\n== alone");
        alone::measure(form, book)?;
    }
    Ok(())
}

/// A name that nothing else uses, so that no measure meets what another left.
fn fresh(kind: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("bench-{kind}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A name's letters and digits, which every backend takes.
fn slug(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).collect()
}

/// What each of them answered.
type Answers = Vec<(String, Vec<Answer>)>;

fn merge(all: &mut Answers, more: Answers) {
    for (name, answers) in more {
        match all.iter_mut().find(|(other, _)| *other == name) {
            Some((_, known)) => known.extend(answers),
            None => all.push((name, answers)),
        }
    }
}

/// Entrants that are asked in turn. One that fails is asked no more.
struct Round<'a> {
    setup: &'a Setup,
    measure: &'static str,
    entrants: Vec<Entrant>,
}

impl<'a> Round<'a> {
    fn of<'c>(
        setup: &'a Setup,
        measure: &'static str,
        contestants: impl Iterator<Item = &'c Contestant>,
        book: &mut Book,
    ) -> Self {
        let mut entrants = Vec::new();
        for contestant in contestants {
            match contestant.enter(&fresh("member")) {
                Ok(entrant) => entrants.push(entrant),
                Err(error) => {
                    let key = Key::of(setup.name, &contestant.name, measure);
                    book.miss(&key, &format!("{error:#}"));
                }
            }
        }
        Self { setup, measure, entrants }
    }

    /// Asks each for the same, so many times, each time another first.
    fn alternate(
        &mut self,
        times: usize,
        book: &mut Book,
        ask: impl Fn(&Entrant) -> Ask,
    ) -> Answers {
        let mut all = Answers::new();
        for _ in 0..times {
            self.entrants.retain_mut(|entrant| match entrant.ask(&ask(entrant)) {
                Ok(answer) => {
                    merge(&mut all, vec![(entrant.name.clone(), vec![answer])]);
                    true
                }
                Err(error) => {
                    let key = Key::of(self.setup.name, &entrant.name, self.measure);
                    book.miss(&key, &format!("{error:#}"));
                    false
                }
            });
            if !self.entrants.is_empty() {
                self.entrants.rotate_left(1);
            }
        }
        all
    }
}

fn times(answers: &[Answer]) -> Vec<f64> {
    answers.iter().flat_map(|answer| &answer.times).map(|&time| time as f64).collect()
}

/// Notes what a measure of one contestant gave, or why it gave nothing.
fn settle(book: &mut Book, key: &Key<'_>, unit: Unit, result: anyhow::Result<Vec<f64>>) {
    match result {
        Ok(values) => book.note(key, unit, values),
        Err(error) => book.miss(key, &format!("{error:#}")),
    }
}
