//! The page.

use std::collections::BTreeSet;

use super::bounds::{Bound, Verdict, bounds};
use super::measures::{self, Better, MEASURES};
use super::{
    figure, find, groups, keys, number, parts, place_of_contestant, reason, round_trips, slug,
    thousands,
};
use crate::record::{Machine, Results, Row, Unit};

const INTRODUCTION: &str = "\
# Benchmarks

Two questions decide which lock library to choose: what does an operation cost, and how soon does a waiter get its turn?
`cargo xtask bench` answers both over real servers, and wrote this page; the figures are in [results.json](results.json).

- **Who takes part.** `tooz` is this library; `raw` is the bare client's round trip over the same kind of connection, the
  limit of what is possible; `threaded raw` is the same client with its connection on a thread of its own, like ours,
  called from another thread: it shows what that alone costs; the others are the Python original and the crates that are
  alternatives. Each is a process of its own, called from the main task of a multi-thread runtime if it has one; those
  marked `spawned` are called from a task of such a runtime, those marked `current-thread` from a runtime of that kind.
- **One run.** The contestants take turns at the same server, a little at a time and each time in another order, so that
  the machine's noise hits all alike.
- **A cell** has the median and, in brackets, the 99th percentile (with fewer than a hundred runs: the worst); where more
  is better, it has the least instead. The line below has the same median in writes of `raw`, called in the same way, for
  example 2.05 ×, and the number of runs.
- **Compare ratios, not times.** Servers and clients share the few cores of a machine that has other work, over loopback.
  Its times are longer and vary more than on a quiet one, and are shorter than over a network. What remains valid is how
  many round trips an operation costs, who is ahead of whom, and how it grows. Differences of a tenth are noise.
";

/// Why bounds are not met, where that is known.
const UNMET: &str = "
### Where they are not met

- **The engine's thread.** Every call goes to the thread that owns the connections and back, so that a busy runtime starves no
  heartbeat and a dropped future leaves nothing behind ([decision 1](../decisions/0001-one-engine-thread.md)). With caller, engine
  and server on two cores, each crossing may have to wake a sleeping core, which here takes longer than Redis takes to
  answer. `threaded raw` shows the floor: the bare client, when called from another thread, takes three to seven times as
  long from a spawned task or a current-thread runtime, whose own thread would otherwise poll the connection. An acquisition
  and a release are two such calls. So with a backend that answers in microseconds the bounds hold from the main task or not at
  all. From the other callers an acquisition with its release takes 2.4 writes of `threaded raw` over memcached, 3 over
  PostgreSQL, and 3 to 4 over Redis.
- **What a lock needs beyond a bare write.** Over Redis, scripts compare, queue and count the fencing token: 16 µs of the
  server's time each, a SET under 1 µs. Over MySQL and MariaDB an acquisition looks for shared holders and writes the row of its
  token: about 200 µs of the server's time, a GET_LOCK alone 50. Over Consul both are transactions, which take longer than the
  PUT that they are compared with. Over etcd they are transactions of several operations. Over ZooKeeper an acquisition creates a
  node and reads who is before it, in one go, and a release deletes it: the crate's own lock takes as long. Over `file` and `ipc`,
  where a raw write is one system call of a microsecond, a lock looks at its queue, creates what others see, and is watched.
- **Hand-offs: two bare clients need about three writes too.** Where there is a row `raw`, one client tells another through
  the server, and that one writes: that alone takes from 2.3 writes (MySQL) to 3.4 (Redis), because a push to a sleeping
  process costs more than a round trip of one that is awake. Ours adds the release's own work and the engine's crossings;
  over MySQL and MariaDB the row of the token; over etcd v3 the transaction of the next holder. And the one that releases asks
  again at once, which keeps both cores busy just then: if it first pauses for 5 ms, hand-offs take 20 to 40 % less. Over `file`
  and `ipc` the push is to a sleeping process, which costs a hundred times the system call that it is compared with.
- **Ahead of others, in another contest.** Over Redis `distributed-lock`, `rslock` and Python poll, as over files, and rarely hand
  over: see how often the holder changes, how evenly, and the worst wait. The same holds for etcd's lock RPC. Over PostgreSQL and
  MySQL `distributed-lock` is the server's own lock with one connection for each lock, without a token. Python's `ipc` waits for
  semaphores in the kernel, which wakes the next directly, without a queue or a token.
- **No push.** memcached and MySQL tell nobody of changes: events come by polling, every 0.25 s by default. memcached's
  times to live are whole seconds, and may last a whole second too long. Its waiters poll, and get their turns in no
  order: one of each process asks at a time, and if no other waits in that process, the one that releases acquires again before
  others ask.
- **Members.** A member is its record and the proof that it lives. Over MySQL and MariaDB the one query asks the server for each
  member's own lock; over memcached the one request names a key for each, where the bare client reads one value of the same size;
  over Redis the script looks at each member's time to live. Over ZooKeeper a `sync` goes before each read, so that a lagging
  server returns nothing old; Python reads without one.
- **A time to live is not shortened.** Where Python learns of a death, or leads after one, sooner than the time to live, the dead
  process's last heartbeat was older.
- **Every lock is a key.** Renewing 10,000 locks of Redis and memcached touches 10,000 keys in few requests: the server's own work
  takes the time. The API of etcd v2 has no batches, and the session is renewed before its locks: one more round trip.
  `ipc` looks at each lock's semaphores. Over Consul a renewal also reads whether each lock is still there; over `file` it looks
  for the session's own file. Python's does neither.
- **The start asks more.** A coordinator checks what it is connected to (version, schema, whether the server takes writes) and
  announces its session before it reports that it has started; a crate's client only connects, or not even that before its first
  use.
- **Memory.** A coordinator brings the engine's thread with a runtime of its own; a lock over ZooKeeper has a guard, a lease and a
  watch, while the crate's has a path.
- **Worst waits** are single readings, one or two for each contestant: one slow step of the machine decides them.
";

/// The page, that shows the pictures of these names.
pub(super) fn page(results: &Results, pictures: &[&str]) -> String {
    let mut page = INTRODUCTION.to_owned();
    page += &machine(&results.machine);
    page += &bounds_section(&bounds(results));
    for (name, about, good) in MEASURES {
        let text = format!("\n{about}\n{good}\n");
        page += &section(results, name, &text, pictures);
    }
    for name in unknown(results) {
        page += &section(results, name, "", pictures);
    }
    page
}

fn machine(machine: &Machine) -> String {
    let Machine { date, processor, cores, kernel, distribution, rust, .. } = machine;
    let memory = figure(machine.memory as f64, Unit::Bytes);
    let servers: Vec<_> = machine
        .servers
        .iter()
        .map(|(name, version)| format!("| {} | {} |\n", code(name), text(version)))
        .collect();
    format!(
        "\n## The machine\n\n| | |\n|---|---|\n| date | {date} |\n| processor | {}, {cores} cores |\n| memory | {memory} |\n\
         | system | {}, Linux {kernel} |\n| compiler | {} |\n{}",
        text(processor),
        text(distribution),
        text(rust),
        servers.concat()
    )
}

fn bounds_section(bounds: &[Bound]) -> String {
    let count = |met| bounds.iter().filter(|bound| bound.met() == met).count();
    let [met, unmet, untold] = [Some(true), Some(false), None].map(count);
    let mut section = format!(
        "\n## Bounds\n\nWhat this library holds itself to. {met} are met, {unmet} are not, {untold} are not \
         measured.\n\n| bound | backend | measured | limit | met? |\n|---|---|---|---|---|\n"
    );
    for of_rule in bounds.chunk_by(|a, b| a.rule == b.rule) {
        let mut lines: Vec<(Vec<String>, String)> = Vec::new();
        for bound in of_rule {
            let (backend, outcome) = (code(&bound.backend), outcome(bound));
            // What was not measured for one reason takes one line.
            let alike = |line: &&mut (_, String)| bound.met().is_none() && line.1 == outcome;
            match lines.iter_mut().find(alike) {
                Some((backends, _)) => backends.push(backend),
                None => lines.push((vec![backend], outcome)),
            }
        }
        let rules = std::iter::once(of_rule[0].rule).chain(std::iter::repeat(""));
        for (rule, (backends, outcome)) in rules.zip(lines) {
            section += &line(rule.to_owned(), vec![backends.join(", "), outcome]);
        }
    }
    section + UNMET
}

/// The last three cells of a bound.
fn outcome(bound: &Bound) -> String {
    match &bound.verdict {
        Verdict::Measured { measured, limit, met } => {
            let met = if *met { "yes" } else { "**no**" };
            format!("{} | {} | {met}", text(measured), text(limit))
        }
        Verdict::NotMeasured(Some(why)) => format!("not measured: {} | |", text(why)),
        Verdict::NotMeasured(None) => "not measured | |".to_owned(),
    }
}

/// Measures that the page knows nothing of.
fn unknown(results: &Results) -> BTreeSet<&str> {
    keys(results)
        .map(|[.., measure]| measure)
        .filter(|name| measures::place(name) == usize::MAX)
        .collect()
}

fn section(results: &Results, name: &str, about: &str, pictures: &[&str]) -> String {
    let mut heading = name.to_owned();
    if let Some(first) = heading.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    let mut section = format!("\n## {}\n{about}", text(&heading));
    let mut view = View { results, measure: name, notes: Vec::new() };
    let mut shown = false;
    for (group, backends) in groups(results) {
        if let Some(table) = view.table(&backends) {
            shown = true;
            section += &format!("\n{table}");
        }
        section += &picture(&format!("{}-{group}.svg", slug(name)), name, pictures);
    }
    // One of all backends.
    section += &picture(&format!("{}.svg", slug(name)), name, pictures);
    if !shown {
        section += "\nNot measured.\n";
    }
    section + &view.footnotes()
}

fn picture(file: &str, name: &str, pictures: &[&str]) -> String {
    let there = pictures.contains(&file);
    if there {
        format!("\n![{}: the table above as a picture]({file})\n", text(name))
    } else {
        String::new()
    }
}

/// A measure's tables, and the notes beneath them.
struct View<'a> {
    results: &'a Results,
    measure: &'a str,
    notes: Vec<&'a str>,
}

impl<'a> View<'a> {
    /// The figures over some backends: beside each other, or below each other if the measure
    /// depends on a size.
    fn table(&mut self, backends: &[&'a str]) -> Option<String> {
        let backends: Vec<_> = backends
            .iter()
            .copied()
            .filter(|backend| !self.contestants(&[*backend]).is_empty())
            .collect();
        let sizes = self.sizes();
        if backends.is_empty() {
            return None;
        }
        if sizes.is_empty() {
            let columns = backends.iter().map(|backend| backend_name(backend)).collect();
            let mut table = header("contestant", columns);
            for contestant in self.contestants(&backends) {
                let cells: Vec<_> =
                    backends.iter().map(|backend| self.cell(backend, contestant, None)).collect();
                table += &line(text(contestant), cells);
            }
            return Some(table);
        }
        let of = measures::sized_by(self.measure);
        let columns = sizes.iter().map(|size| format!("{of}: {}", thousands(*size))).collect();
        let mut table = header("backend | contestant", columns);
        for backend in backends {
            for contestant in self.contestants(&[backend]) {
                let cells: Vec<_> =
                    sizes.iter().map(|size| self.cell(backend, contestant, Some(*size))).collect();
                table += &line(format!("{} | {}", code(backend), text(contestant)), cells);
            }
        }
        Some(table)
    }

    fn sizes(&self) -> BTreeSet<u64> {
        let rows = self.results.rows.iter().filter(|row| row.measure == self.measure);
        rows.filter_map(|row| row.size).collect()
    }

    /// Those that were measured, or would have been, over any of the backends.
    fn contestants(&self, backends: &[&str]) -> Vec<&'a str> {
        let here = keys(self.results)
            .filter(|[backend, _, measure]| *measure == self.measure && backends.contains(backend));
        let found: BTreeSet<_> =
            here.map(|[_, contestant, _]| (place_of_contestant(contestant), contestant)).collect();
        found.into_iter().map(|(_, contestant)| contestant).collect()
    }

    fn cell(&mut self, backend: &str, contestant: &str, size: Option<u64>) -> String {
        let key = [backend, contestant, self.measure];
        if let Some(row) = find(self.results, key, size) {
            return figures(self.results, row);
        }
        let Some(why) = reason(self.results, key) else {
            return String::new();
        };
        let known = self.notes.iter().position(|note| *note == why);
        let place = known.unwrap_or_else(|| {
            self.notes.push(why);
            self.notes.len() - 1
        });
        format!("— <sup>{}</sup>", place + 1)
    }

    /// Why cells are empty, and what else went wrong.
    fn footnotes(&self) -> String {
        let notes = self.notes.iter().enumerate();
        let mut lines: Vec<_> =
            notes.map(|(place, why)| format!("{}. {}\n", place + 1, text(why))).collect();
        let of_measure =
            self.results.missing.iter().filter(|[_, _, measure, _]| *measure == self.measure);
        let others: Vec<_> = of_measure
            .filter(|[.., why]| !self.notes.contains(&why.as_str()))
            .map(|[backend, contestant, _, why]| {
                format!("- {}, {}: {}\n", code(backend), text(contestant), text(why))
            })
            .collect();
        if !lines.is_empty() && !others.is_empty() {
            lines.push("\n".to_owned());
        }
        lines.extend(others);
        if lines.is_empty() { String::new() } else { format!("\n{}", lines.concat()) }
    }
}

fn header(first: &str, columns: Vec<String>) -> String {
    let rules = "|---".repeat(first.split('|').count() + columns.len());
    format!("{}{rules}|\n", line(first.to_owned(), columns))
}

fn line(first: String, cells: Vec<String>) -> String {
    format!("| {first} | {} |\n", cells.join(" | "))
}

/// As in "252 µs (p99 410)", with the round trips and the runs below.
fn figures(results: &Results, row: &Row) -> String {
    let (name, value) = match measures::better(&row.measure) {
        Better::More => ("least", row.least),
        Better::Less => ("p99", row.p99),
    };
    let mut cell = figure(row.median, row.unit);
    if row.runs > 1 {
        let (number, unit) = parts(value, row.unit);
        // The unit is told once if it is the same.
        let number =
            if parts(row.median, row.unit).1 == unit { number } else { format!("{number} {unit}") };
        cell += &format!(" ({name} {number})");
    }
    let trips = round_trips(results, row).filter(|_| measures::is_round_trips(&row.measure));
    let trips = trips.map(|trips| format!("{} ×, ", number(trips))).unwrap_or_default();
    let runs = if row.runs == 1 { "run" } else { "runs" };
    format!("{cell}<br>{trips}{} {runs}", thousands(row.runs as u64))
}

fn backend_name(name: &str) -> String {
    if name == "none" { "no backend".to_owned() } else { code(name) }
}

/// A backend's name as code, and what follows a comma as text.
fn code(name: &str) -> String {
    match name.split_once(',') {
        Some((name, rest)) => format!("`{name}`,{rest}"),
        None => format!("`{name}`"),
    }
}

/// A text of anyone's, fit for a line of a table.
fn text(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let escaped = line.replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;");
    escaped.replace('[', "\\[").replace('*', "\\*").replace('`', "\\`")
}
