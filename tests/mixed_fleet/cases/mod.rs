//! What both sides must agree on.

mod capabilities;
mod elections;
mod events;
mod groups;
mod locks;
mod partitioner;

use std::time::{Duration, Instant};

use super::arena::{Arena, Form};
use super::peer::{
    Outcome,
    Side::{Python, Rust},
};

/// Something that both sides must agree on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    /// `AREA::NAME`
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Arena) -> Outcome,
    /// The form from which on it is part of a run.
    pub(crate) from: Form,
}

impl Case {
    const fn new(name: &'static str, run: fn(&Arena) -> Outcome) -> Self {
        Self { name, run, from: Form::Short }
    }

    /// Left out of the short form.
    const fn long(name: &'static str, run: fn(&Arena) -> Outcome) -> Self {
        Self { name, run, from: Form::Full }
    }

    pub(crate) fn area(&self) -> &'static str {
        self.name.split_once("::").map_or(self.name, |(area, _)| area)
    }

    /// Whether it asks that something that is timed lives on.
    pub(crate) fn is_timed(&self) -> bool {
        self.name.contains("::kept::")
    }
}

/// The areas, in the order of the table's columns.
pub(crate) const AREAS: [&str; 5] = ["locks", "groups", "events", "elections", "partitioner"];

/// All of them.
pub(crate) const ALL: &[Case] = &[
    Case::new(CONTENTION, locks::contention),
    Case::new("locks::names", locks::names),
    Case::new("locks::handed_over", locks::handed_over),
    Case::new("locks::killed_holder::rust", |arena| locks::killed_holder(arena, Rust)),
    Case::new("locks::killed_holder::python", |arena| locks::killed_holder(arena, Python)),
    Case::new("locks::shared", locks::shared),
    Case::new("locks::kept::shortest", locks::kept_with_the_shortest_time),
    Case::long("locks::kept::default", locks::kept_with_the_default_time),
    Case::new(CREATION, groups::creation),
    Case::new("groups::members", groups::members),
    Case::new("groups::capabilities", capabilities::every_kind),
    Case::new("groups::update", capabilities::update),
    Case::new("groups::death::rust", |arena| groups::death(arena, Rust)),
    Case::new("groups::death::python", |arena| groups::death(arena, Python)),
    Case::new("groups::kept::shortest", groups::kept_with_the_shortest_time),
    Case::long("groups::kept::default", groups::kept_with_the_default_time),
    Case::new("events::join_and_leave", events::join_and_leave),
    Case::new("events::death::rust", |arena| events::death(arena, Rust)),
    Case::new("events::death::python", |arena| events::death(arena, Python)),
    Case::new("elections::one_leads", elections::one_leads),
    Case::new("elections::killed_leader::rust", |arena| elections::killed_leader(arena, Rust)),
    Case::new("elections::killed_leader::python", |arena| elections::killed_leader(arena, Python)),
    Case::new("elections::names::rust", |arena| elections::names(arena, Rust)),
    Case::new("elections::names::python", |arena| elections::names(arena, Python)),
    Case::new("partitioner::places", partitioner::places),
];

/// The case that a wrong key of a lock must fail.
pub(crate) const CONTENTION: &str = "locks::contention";

/// The case that a wrong key of a group must fail.
pub(crate) const CREATION: &str = "groups::creation";

/// How often a case looks again.
const LOOK: Duration = Duration::from_millis(100);

/// How long something may take that depends on no time to live: Python looks every second at worst.
const SOON: Duration = Duration::from_secs(15);

/// Looks until something is so.
fn until(
    what: &str,
    limit: Duration,
    mut is_so: impl FnMut() -> Outcome<bool>,
) -> Outcome<Duration> {
    let begin = Instant::now();
    while !is_so()? {
        if begin.elapsed() > limit {
            return Err(format!("not in {limit:?}: {what}"));
        }
        std::thread::sleep(LOOK);
    }
    Ok(begin.elapsed())
}

/// Looks again and again for so long, and at least once.
fn throughout(time: Duration, mut look: impl FnMut() -> Outcome) -> Outcome {
    let begin = Instant::now();
    loop {
        look()?;
        if begin.elapsed() > time {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
}
