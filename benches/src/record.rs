//! What was measured.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::statistics::{Key, figures};

/// The bare client's name.
pub const RAW: &str = "raw";
/// The name of the bare client behind a thread of its own.
pub const THREADED_RAW: &str = "threaded raw";

/// Whether a contestant of that name is a bare client, called from wherever: it has no lock.
pub fn is_raw(contestant: &str) -> bool {
    [RAW, THREADED_RAW].iter().any(|raw| contestant.starts_with(raw))
}

/// One figure of one contestant over one backend.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Row {
    /// As the setup is named: `redis`, `zookeeper`, `etcd3-http`.
    pub backend: String,
    /// `tooz`, `tooz, current-thread`, `raw`, `raw, current-thread`, `Python tooz 9.1`,
    /// `distributed-lock`, `rslock`, ...
    pub contestant: String,
    /// As its heading says: `acquire and release`, `hand-off`, ...
    pub measure: String,
    /// What the measure depends on, if anything: waiters, members, locks, processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    pub unit: Unit,
    pub median: f64,
    pub p99: f64,
    pub least: f64,
    /// How many values these are of.
    pub runs: usize,
}

/// What the figures count.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Times; shown as ns, µs, ms or s.
    Nanoseconds,
    Bytes,
    /// Requests, or how many a second.
    Count,
    /// A share or an index between 0 and 1.
    Ratio,
}

/// Where and when it was measured.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Machine {
    pub date: String,
    pub processor: String,
    pub cores: usize,
    pub memory: u64,
    pub kernel: String,
    pub distribution: String,
    pub rust: String,
    /// The servers' names and versions.
    pub servers: Vec<(String, String)>,
}

/// A whole run.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Results {
    pub machine: Machine,
    pub rows: Vec<Row>,
    /// What was not measured, and why: backend, contestant, measure, reason.
    pub missing: Vec<[String; 4]>,
}

/// What a run writes its figures into.
#[derive(Debug, Default)]
pub struct Book {
    rows: Vec<Row>,
    missing: Vec<[String; 4]>,
}

impl Book {
    /// Figures of these values, if there are any.
    pub fn note(&mut self, key: &Key<'_>, unit: Unit, values: Vec<f64>) {
        if let Some(figures) = figures(values) {
            let row = figures.row(key, unit);
            println!("{row}");
            self.rows.push(row);
        }
    }

    /// No figures, for this reason.
    pub fn miss(&mut self, key: &Key<'_>, why: &str) {
        println!("{key}: {why}");
        let missing = [key.backend, key.contestant, key.measure, why].map(str::to_owned);
        if !self.missing.contains(&missing) {
            self.missing.push(missing);
        }
    }

    pub fn into_results(self, machine: Machine) -> Results {
        Results { machine, rows: self.rows, missing: self.missing }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backend, contestant, measure, size, median, p99, runs, .. } = self;
        let key = Key { backend, contestant, measure, size: *size };
        write!(f, "{key}: {median:.0} (p99 {p99:.0}, {runs} runs)")
    }
}
