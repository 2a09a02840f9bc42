//! The exclusive hand-off under fire: 20 workers and 256 partitions, while workers are killed,
//! paused, started and sent home at random.
//!
//! Each worker appends a line to the record of a partition for as long as it owns it, after a
//! look at its guard. Appending is atomic, so the records tell who worked when, without a word of
//! the library: see `record.rs` for what they must never show. When the fire stops, the member that
//! the ring names must own each partition within one TTL + 2 s.
//!
//! - `TOOZ_HAND_OFF_SECONDS`: how long the fire lasts. 8 by default; 60 for the full run.
//! - `TOOZ_HAND_OFF_SEED`: the seed of an earlier run.
//! - `TOOZ_TEST_URL_REDIS`: the server for `redis`, which is ignored without.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod fixtures;
mod hand_off {
    pub(crate) mod fire;
    pub(crate) mod gate;
    pub(crate) mod processes;
    pub(crate) mod random;
    pub(crate) mod record;
    pub(crate) mod threads;
    pub(crate) mod worker;
}

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use hand_off::fire::{self, Terms};
use hand_off::processes::{self, Processes};
use hand_off::threads::Threads;
use libtest_mimic::{Arguments, Trial};
use tooz_testkit::{Fixture, server_url};

fn main() -> ExitCode {
    if let Some(worker) = processes::Worker::of_this_process() {
        let driver = fixture(&worker.setup).driver();
        return worker.run(driver);
    }
    let mut arguments = Arguments::from_args();
    // Each needs the machine for itself.
    arguments.test_threads = Some(1);
    let mut trials = vec![trial("memory"), trial("file")];
    trials.push(match server_url("redis") {
        Ok(_) => trial("redis"),
        Err(_) => trial("redis").with_kind("needs TOOZ_TEST_URL_REDIS").with_ignored_flag(true),
    });
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(setup: &'static str) -> Trial {
    Trial::test(setup, move || {
        hand_off(setup);
        Ok(())
    })
}

fn fixture(setup: &str) -> Arc<dyn Fixture> {
    fixtures::all().into_iter().find(|fixture| fixture.name() == setup).expect("a known setup")
}

fn hand_off(setup: &'static str) {
    let fixture = fixture(setup);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let world = runtime.block_on(fixture.world()).unwrap();
    let (url, ttl) = (world.url().to_owned(), world.ttl());
    let folder = tempfile::tempdir().unwrap();
    let terms = Terms {
        // Without a TTL nothing can be lost by a pause, and no stale write is ever excused.
        longest_pause: ttl.map_or(Duration::from_secs(1), |ttl| ttl * 3 / 2),
        settles_within: ttl.unwrap_or_default() + Duration::from_secs(2),
        pauses_excuse: ttl.is_some(),
        folder: folder.path().to_owned(),
    };
    if setup == "memory" {
        fire::run(&terms, Threads::new(fixture.driver(), &url, &terms.folder));
    } else {
        fire::run(&terms, Processes::new(setup, &url, &terms.folder));
    }
    runtime.block_on(world.remove()).unwrap();
}
