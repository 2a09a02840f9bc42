//! One row for each backend and version of the original: how both sides reach it, and what it
//! cannot do.
//!
//! A row is run when the setup has a driver (`cargo xtask mixed-fleet` looks), so a new driver only
//! needs its row to be true.

use std::time::Duration;

use super::cases::Case;

/// A version of the original.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Python {
    V9_1,
    /// For the drivers that 9.0 dropped, and Redis's keys, which 9.0 spelled anew.
    V8_1,
}

impl Python {
    /// Names its interpreter.
    pub(crate) fn variable(self) -> &'static str {
        match self {
            Self::V9_1 => "TOOZ_PYTHON",
            Self::V8_1 => "TOOZ_PYTHON_8_1",
        }
    }

    pub(crate) fn version(self) -> &'static str {
        match self {
            Self::V9_1 => "9.1",
            Self::V8_1 => "8.1",
        }
    }
}

/// A backend beside a version of the original.
#[derive(Debug)]
pub(crate) struct Row {
    /// The setup, as `cargo xtask test-backends --list` calls it.
    pub(crate) setup: &'static str,
    pub(crate) python: Python,
    /// URL options of both sides for short times to live.
    pub(crate) short: &'static str,
    /// What they make of it; `None` where nothing is timed.
    pub(crate) short_ttl: Option<Duration>,
    /// URL options that only our side needs: the table tells them.
    pub(crate) ours: &'static str,
    /// The longest that a killed process may count as alive, or keep what it held, with the short
    /// times to live; the machine's own slowness included.
    pub(crate) dead_after: Duration,
    /// The default time to live.
    pub(crate) default_ttl: Option<Duration>,
    /// Names of locks that both sides must spell alike.
    pub(crate) names: &'static [&'static str],
    /// Areas (`groups`) and cases (`locks::shared`) that cannot be, and why.
    pub(crate) cannot: &'static [(&'static str, &'static str)],
}

/// Of times to live of a few seconds: two of them, and what a busy machine takes.
const SOON: Duration = Duration::from_secs(15);

/// For sessions that live with their connection.
const AT_ONCE: Duration = Duration::from_secs(10);

const ASCII: &[&str] = &["plain", "it's", "a.b-c_d"];

const NO_ELECTIONS: (&str, &str) = ("elections", "the original has none here");
const LOCKS_ONLY: [(&str, &str); 4] = [
    ("groups", "the original has locks alone here"),
    ("events", "the original has locks alone here"),
    NO_ELECTIONS,
    ("partitioner", "the original has locks alone here"),
];

/// Every row, in the order of the table.
pub(crate) const ROWS: &[Row] = &[
    Row {
        setup: "file",
        python: Python::V9_1,
        short: "timeout=3",
        short_ttl: Some(Duration::from_secs(3)),
        ours: "",
        dead_after: SOON,
        default_ttl: Some(Duration::from_secs(10)),
        names: &["plain", "it's", "ключ", "a b", "a/b"],
        cannot: &[NO_ELECTIONS, ("groups::update", "the original cannot change capabilities here")],
    },
    Row {
        setup: "ipc",
        python: Python::V9_1,
        short: "",
        short_ttl: None,
        ours: "",
        dead_after: AT_ONCE,
        default_ttl: None,
        names: &["plain", "it's", "ключ", "a b", "a/b"],
        cannot: &[
            ("groups::members", "the original has groups without members here"),
            ("groups::capabilities", "the original has groups without members here"),
            ("groups::update", "the original has groups without members here"),
            ("groups::death", "the original has groups without members here"),
            ("groups::kept", "the original has groups without members here"),
            ("events", "the original has groups without members here"),
            NO_ELECTIONS,
            ("partitioner", "the original has groups without members here"),
        ],
    },
    Row {
        setup: "zookeeper",
        python: Python::V9_1,
        short: "timeout=3",
        short_ttl: Some(Duration::from_secs(3)),
        ours: "",
        dead_after: SOON,
        default_ttl: Some(Duration::from_secs(10)),
        names: ASCII,
        cannot: &[],
    },
    Row {
        setup: "redis",
        python: Python::V9_1,
        short: "timeout=3",
        short_ttl: Some(Duration::from_secs(3)),
        ours: "",
        dead_after: SOON,
        default_ttl: Some(Duration::from_secs(30)),
        names: &["plain", "it's", "ключ", "a b"],
        cannot: &[REDIS_LEADER],
    },
    Row {
        setup: "redis",
        python: Python::V8_1,
        short: "timeout=3",
        short_ttl: Some(Duration::from_secs(3)),
        ours: "",
        dead_after: SOON,
        default_ttl: Some(Duration::from_secs(30)),
        names: &["plain", "it's", "ключ", "a b"],
        cannot: &[REDIS_LEADER],
    },
    Row {
        setup: "memcached",
        python: Python::V9_1,
        // Python renews every two seconds, and the server counts whole ones.
        short: "timeout=4",
        short_ttl: Some(Duration::from_secs(4)),
        ours: "",
        dead_after: SOON,
        default_ttl: Some(Duration::from_secs(30)),
        names: ASCII,
        cannot: &[],
    },
    Row {
        setup: "etcd3-http",
        python: Python::V9_1,
        short: "timeout=3",
        short_ttl: Some(Duration::from_secs(3)),
        ours: "",
        dead_after: SOON,
        default_ttl: Some(Duration::from_secs(30)),
        names: &["plain", "it's", "ключ", "a b", "a/b"],
        cannot: &[NO_ELECTIONS],
    },
    Row {
        setup: "etcd",
        python: Python::V8_1,
        short: "timeout=3",
        short_ttl: Some(Duration::from_secs(3)),
        ours: "",
        dead_after: SOON,
        default_ttl: Some(Duration::from_secs(30)),
        names: &["plain", "it's", "a b", "a/b"],
        cannot: &LOCKS_ONLY,
    },
    Row {
        setup: "consul",
        python: Python::V8_1,
        short: "ttl=10",
        short_ttl: Some(Duration::from_secs(10)),
        ours: "",
        // A session ends within twice its time, and its locks are free 15 s later.
        dead_after: Duration::from_secs(50),
        default_ttl: Some(Duration::from_secs(15)),
        names: ASCII,
        cannot: &[
            NO_ELECTIONS,
            ("groups::death::python", ENDLESS),
            ("events::death::python", ENDLESS),
        ],
    },
    Row {
        setup: "postgresql",
        python: Python::V9_1,
        short: "",
        short_ttl: None,
        ours: "layout=python",
        dead_after: AT_ONCE,
        default_ttl: None,
        names: &["plain", "it's", "ключ", "a b", "a/b"],
        cannot: &[LOCKS_ONLY[0], LOCKS_ONLY[1], LOCKS_ONLY[2], LOCKS_ONLY[3]],
    },
    Row {
        setup: "mariadb",
        python: Python::V9_1,
        short: "",
        short_ttl: None,
        ours: "layout=python",
        dead_after: AT_ONCE,
        default_ttl: None,
        names: &["plain", "it's", "ключ", "a b", "a/b"],
        cannot: &[
            ("locks::shared", "GET_LOCK has no readers"),
            LOCKS_ONLY[0],
            LOCKS_ONLY[1],
            LOCKS_ONLY[2],
            LOCKS_ONLY[3],
        ],
    },
];

/// Of Consul.
const ENDLESS: &str = "the original's members are bound to no session, and stay for ever";

const REDIS_LEADER: (&str, &str) =
    ("elections::names", "the original neither writes nor reads who leads");

impl Row {
    /// `redis::locks::free` beside 8.1 is `redis::locks::free::python_8_1`.
    pub(crate) fn test_name(&self, case: &str) -> String {
        format!("{}::{case}::python_{}", self.setup, self.python.version().replace('.', "_"))
    }

    /// Why a case cannot be.
    pub(crate) fn excuse(&self, case: &Case) -> Option<&'static str> {
        if case.is_timed() && self.default_ttl.is_none() {
            return Some("nothing is timed here");
        }
        let covers = |what: &str| {
            case.name
                .strip_prefix(what)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        self.cannot.iter().find(|(what, _)| covers(what)).map(|(_, why)| *why)
    }
}
