//! What is run: each setup beside each version of the original that it has.

use std::ops::Deref;

use tooz_setups::{BesidePython, SETUPS, Setup};

use super::cases::Case;

/// A setup beside a version of the original.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) setup: &'static Setup,
    beside: &'static BesidePython,
}

/// Every row, in the order of the table.
pub(crate) fn rows() -> impl Iterator<Item = Row> {
    SETUPS.iter().flat_map(of)
}

/// The rows of a setup.
pub(crate) fn of(setup: &'static Setup) -> impl Iterator<Item = Row> {
    setup.beside_python.iter().map(move |beside| Row { setup, beside })
}

impl Row {
    /// `redis::locks::free` beside 8.1 is `redis::locks::free::python_8_1`.
    pub(crate) fn test_name(&self, case: &str) -> String {
        let version = self.python.version().replace('.', "_");
        format!("{}::{case}::python_{version}", self.setup.name)
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

impl Deref for Row {
    type Target = BesidePython;

    fn deref(&self) -> &BesidePython {
        self.beside
    }
}
