//! What a worker is asked and answers, one line of JSON each.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tooz_core::{Error, ErrorKind};

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) id: u64,
    pub(crate) call: Call,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Reply {
    pub(crate) id: u64,
    pub(crate) result: Result<Value, Failure>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Call {
    Start { url: String, member: String },
    Stop,
    Heartbeat,
    Acquire { name: String, shared: bool, time: Option<Duration> },
    Permit { name: String, permits: u32, time: Option<Duration> },
    Campaign { group: String, time: Option<Duration> },
    Release { name: String },
    Check { name: String },
    Verify { name: String },
    WatchPause { name: String },
    Join { group: String, capabilities: Value },
    Leave { group: String },
    Members { group: String },
    Contend(Contention),
}

/// Many tasks that want the same, and write down in a folder what happens while they hold it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Contention {
    pub(crate) wanted: Wanted,
    pub(crate) tasks: usize,
    pub(crate) time: Duration,
    pub(crate) folder: PathBuf,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Wanted {
    Lock(String),
    Permit(String, u32),
    All(Vec<String>),
}

/// How a guard behaved when its process was stopped and continued.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Pause {
    /// How long nothing ran.
    pub(crate) length: Duration,
    /// Whether the very first `check` after it failed.
    pub(crate) check_failed: bool,
    /// How long after it `lost` fired, if it did within a second.
    pub(crate) lost_after: Option<Duration>,
}

/// An [`Error`] of another process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    kind: String,
    message: String,
}

impl Failure {
    pub(crate) fn process_gone() -> Self {
        Self { kind: "ProcessGone".into(), message: "the worker process is gone".into() }
    }

    pub(crate) fn is(&self, kind: ErrorKind) -> bool {
        self.kind == format!("{kind:?}")
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { kind: format!("{:?}", error.kind()), message: error.to_string() }
    }
}

/// So that cases can use `?` on it.
impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let what = format!("in a worker: {}: {}", failure.kind, failure.message);
        Self::new(ErrorKind::Backend, what)
    }
}
