//! Mixed fleets: processes of ours and of Python tooz, side by side on one backend.
//!
//! `cargo xtask mixed-fleet` makes the environments of Python, starts the servers and runs this. A
//! test is called `SETUP::AREA::CASE::python_VERSION`. The environment says what is run:
//!
//! - `TOOZ_TEST_SETUPS`: the setups, separated by commas; nothing is run without. Where their servers
//!   are is in `TOOZ_TEST_URL_…`, as for the conformance suite.
//! - `TOOZ_PYTHON`, `TOOZ_PYTHON_8_1`: interpreters with tooz 9.1 and 8.1.
//! - `TOOZ_MIXED_FLEET`: `short`, or `full`, which is the default.
//! - `TOOZ_MIXED_TABLE`: `write` writes the rows of what was run into `docs/mixed-fleets.md`; else they
//!   must be there as the run would write them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod fixtures;
mod mixed_fleet {
    pub(crate) mod arena;
    pub(crate) mod cases;
    pub(crate) mod peer;
    pub(crate) mod protocol;
    pub(crate) mod rows;
    pub(crate) mod table;
    pub(crate) mod worker;

    /// The first argument of a worker; the second is its setup.
    pub(crate) const WORKER: &str = "--worker";
}
#[path = "hand_off/random.rs"]
mod random;

use std::cmp::Reverse;
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Completion, Trial};
use mixed_fleet::arena::{Arena, Form};
use mixed_fleet::cases::{self, Case};
use mixed_fleet::peer::Outcome;
use mixed_fleet::rows::{self, Row};
use mixed_fleet::table::{Results, Table};
use mixed_fleet::{WORKER, worker};
use tooz_core::DriverEntry;

/// Cases mostly wait.
const THREADS: usize = 6;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(WORKER) {
        let setup = arguments.next().expect("a worker has a setup");
        return worker::serve(driver(&setup).expect("a setup that has a driver"));
    }
    let arguments = Arguments::from_args();
    let arguments =
        Arguments { test_threads: arguments.test_threads.or(Some(THREADS)), ..arguments };
    let form = match std::env::var("TOOZ_MIXED_FLEET").as_deref() {
        Ok("short") => Form::Short,
        _ => Form::Full,
    };
    let rows = match rows() {
        Ok(rows) => rows,
        Err(message) => {
            eprintln!("error: {message}");
            return ExitCode::FAILURE;
        }
    };
    let results = Arc::new(Results::default());
    let trials = rows.iter().flat_map(|row| trials(*row, form, &results)).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    let table = Table::of(&rows, &results);
    let told = match std::env::var("TOOZ_MIXED_TABLE").as_deref() {
        Ok("write") => table.write(),
        _ if conclusion.has_failed() => Ok(()),
        _ => table.check(),
    };
    match told {
        Ok(()) => conclusion.exit_code(),
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// The rows of the setups that were asked for, those first whose cases take long.
fn rows() -> Outcome<Vec<Row>> {
    let named = std::env::var("TOOZ_TEST_SETUPS").unwrap_or_default();
    let mut rows = Vec::new();
    for name in named.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let before = rows.len();
        rows.extend(rows::of(tooz_setups::find(name)?));
        if rows.len() == before {
            return Err(format!("the setup {name} has no Python peer"));
        }
    }
    rows.sort_by_key(|row| Reverse(row.dead_after));
    Ok(rows)
}

fn driver(setup: &str) -> Option<DriverEntry> {
    let fixture = fixtures::all().into_iter().find(|fixture| fixture.name() == setup);
    fixture.map(|fixture| fixture.driver())
}

fn trials(row: Row, form: Form, results: &Arc<Results>) -> Vec<Trial> {
    let mut trials: Vec<_> = cases::ALL
        .iter()
        .map(|case| {
            let results = results.clone();
            Trial::ignorable_test(row.test_name(case.name), move || {
                if let Some(why) = row.excuse(case) {
                    return Ok(Completion::ignored_with(why));
                }
                if case.from == Form::Full && form == Form::Short {
                    return Ok(Completion::ignored_with("not in the short form"));
                }
                let outcome = Arena::new(row, form, false).and_then(|arena| (case.run)(&arena));
                results.add(&row, case, outcome.is_ok());
                outcome?;
                Ok(Completion::Completed)
            })
        })
        .collect();
    trials.push(notices(row, cases::CONTENTION, "somebody else is inside"));
    trials.push(notices(row, cases::CREATION, "does not see the group"));
    trials
}

/// A harness that finds nothing wrong proves nothing: with a wrong key on our side, the case must
/// fail, and for the right reason.
fn notices(row: Row, name: &'static str, words: &'static str) -> Trial {
    let case = cases::ALL.iter().find(|case| case.name == name).expect("a known case");
    let test = format!("harness::wrong_key::{}", case.area());
    Trial::ignorable_test(row.test_name(&test), move || {
        if let Some(why) = row.excuse(case) {
            return Ok(Completion::ignored_with(why));
        }
        match run_with_wrong_keys(row, case) {
            Err(message) if message.contains(words) => Ok(Completion::Completed),
            Err(message) => Err(format!("{name} failed with other words: {message}").into()),
            Ok(()) => Err(format!("{name} passed in spite of a wrong key").into()),
        }
    })
}

fn run_with_wrong_keys(row: Row, case: &Case) -> Outcome {
    (case.run)(&Arena::new(row, Form::Short, true)?)
}
