//! The setups: a driver over one kind of deployment each. [`SETUPS`] is the one place that names
//! them; the conformance suite, the mixed fleets, the benchmarks and `cargo xtask` read it, and
//! `docs/capability-matrix.md` is written from it.

mod table;

use std::time::Duration;

pub use self::table::SETUPS;

/// A driver over one kind of deployment.
#[derive(Debug)]
pub struct Setup {
    /// The name on the command line and in front of every test.
    pub name: &'static str,
    /// The scheme of its URL.
    pub scheme: &'static str,
    /// The workspace's crate that drives it.
    pub driver: &'static str,
    /// The server it needs, one of `xtask/src/servers`; `None` where this machine is enough.
    pub server: Option<&'static str>,
    /// Areas of the conformance suite that cannot be here, and why.
    pub excused: &'static [(&'static str, &'static str)],
    /// What mixed fleets of ours and of the original need to know: one for each of its versions.
    pub beside_python: &'static [BesidePython],
    /// What the benchmarks need to know, where there are any.
    pub benchmark: Option<Benchmark>,
}

/// A version of the original, and what is true of a mixed fleet with it.
#[derive(Debug)]
pub struct BesidePython {
    /// The version.
    pub python: Python,
    /// URL options of both sides for short times to live.
    pub short: &'static str,
    /// What they make of it; `None` where nothing is timed.
    pub short_ttl: Option<Duration>,
    /// URL options that only our side needs: the table of the mixed fleets tells them.
    pub ours: &'static str,
    /// The longest that a killed process may count as alive, or keep what it held, with the short
    /// times to live; the machine's own slowness included.
    pub dead_after: Duration,
    /// The default time to live.
    pub default_ttl: Option<Duration>,
    /// Names of locks that both sides must spell alike.
    pub names: &'static [&'static str],
    /// Areas (`groups`) and cases (`locks::shared`) that cannot be, and why.
    pub cannot: &'static [(&'static str, &'static str)],
}

/// Who contends in the benchmarks beside ours, and how.
#[derive(Debug)]
pub struct Benchmark {
    /// The version of the original that has a driver.
    pub python: Option<Python>,
    /// Other crates, as the tables call them.
    pub crates: &'static [&'static str],
    /// URL options for a short time to live.
    pub short: &'static str,
    /// What they make of it. It is zero where a death is seen by the end of a connection or of a
    /// process.
    pub ttl: Duration,
}

/// A version of the original.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Python {
    /// The latest.
    V9_1,
    /// For the drivers that 9.0 dropped, and Redis's keys, which 9.0 spelled anew.
    V8_1,
}

impl Python {
    /// The environment variable that names its interpreter.
    pub const fn variable(self) -> &'static str {
        match self {
            Self::V9_1 => "TOOZ_PYTHON",
            Self::V8_1 => "TOOZ_PYTHON_8_1",
        }
    }

    /// Its number, without the patch level.
    pub const fn version(self) -> &'static str {
        match self {
            Self::V9_1 => "9.1",
            Self::V8_1 => "8.1",
        }
    }
}

impl Setup {
    /// The URL of a server at `address`.
    pub fn url(&self, address: &str) -> String {
        format!("{}://{address}", self.scheme)
    }

    /// The environment variable that gives tests its URL.
    pub fn url_variable(&self) -> String {
        self.variable("URL")
    }

    /// The environment variable that tells tests where they may harm it.
    pub fn control_variable(&self) -> String {
        self.variable("CONTROL")
    }

    fn variable(&self, what: &str) -> String {
        format!("TOOZ_TEST_{what}_{}", self.name.to_uppercase().replace('-', "_"))
    }

    /// Its row of the capability matrix, with these areas as columns.
    pub fn matrix_row<'a>(&self, areas: impl Iterator<Item = &'a str>) -> String {
        let mut row = format!("| `{}` |", self.name);
        for area in areas {
            match self.excused.iter().find(|(excused, _)| *excused == area) {
                Some((_, why)) => row.push_str(&format!(" no: {why} |")),
                None => row.push_str(" yes |"),
            }
        }
        row
    }
}

/// The setup called `name`.
///
/// # Errors
/// A text that names those there are.
pub fn find(name: &str) -> Result<&'static Setup, String> {
    SETUPS.iter().find(|setup| setup.name == name).ok_or_else(|| {
        let known: Vec<_> = SETUPS.iter().map(|setup| setup.name).collect();
        format!("no setup is called `{name}`; there are {}", known.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_fit_an_environment_variable() {
        let mut names: Vec<_> = SETUPS.iter().map(|setup| setup.name).collect();
        for name in &names {
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            );
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), SETUPS.len());
    }

    #[test]
    fn an_unknown_setup_is_told_the_known_ones() {
        let error = find("oracle").unwrap_err();
        assert!(
            error.contains("`oracle`") && error.contains("zookeeper-ensemble, redis"),
            "{error}"
        );
    }

    #[test]
    fn a_url_is_the_scheme_and_the_address() {
        let setup = find("etcd3-http").unwrap();
        assert_eq!(setup.url("127.0.0.1:20001"), "etcd3+http://127.0.0.1:20001");
        assert_eq!(setup.url_variable(), "TOOZ_TEST_URL_ETCD3_HTTP");
    }

    #[test]
    fn a_row_of_the_matrix_has_a_cell_for_each_area() {
        let row = find("memory").unwrap().matrix_row(["locks", "processes"].into_iter());
        assert_eq!(row, "| `memory` | yes | no: lives in one process |");
    }
}
