//! How soon a coordinator is there, and what it takes.

use tooz_benches::protocol::Ask;
use tooz_benches::record::{Book, Unit};
use tooz_benches::statistics::Key;

use super::{Form, Round, fresh, merge, settle};
use crate::contestant::Contestant;
use crate::setups::{OURS, Setup};

const GROUP: &str = "memory: group of 1,000";

/// From nothing to connected, within a process that runs.
pub(super) fn start(setup: &Setup, form: Form, book: &mut Book) -> anyhow::Result<()> {
    let mut round = Round::of(setup, "start", setup.locks(), book);
    let url = setup.url.clone();
    let mut all = Vec::new();
    for _ in 0..form.choose(10, 2) {
        round.alternate(1, book, |_| Ask::Close);
        let open = |_: &_| Ask::Open { url: url.clone(), member: fresh("member") };
        merge(&mut all, round.alternate(1, book, open));
    }
    for (contestant, answers) in all {
        let took = answers.iter().filter_map(|answer| answer.took).map(|took| took as f64);
        let key = Key::of(setup.name, &contestant, "start");
        book.note(&key, Unit::Nanoseconds, took.collect());
    }
    Ok(())
}

/// The resident memory of a process with one coordinator.
pub(super) fn memory(setup: &Setup, form: Form, book: &mut Book) -> anyhow::Result<()> {
    let count = form.choose(1000, 20);
    for contestant in setup.locks() {
        let key = |measure| Key::of(setup.name, &contestant.name, measure);
        let idle = resident(contestant, &[]);
        settle(book, &key("memory: idle coordinator"), Unit::Bytes, idle);
        let hold = Ask::Hold { prefix: fresh("kept"), count };
        settle(book, &key("memory: 1,000 locks"), Unit::Bytes, resident(contestant, &[hold]));
    }
    if let Err(error) = group(setup, count, book) {
        book.miss(&Key::of(setup.name, OURS, GROUP), &format!("{error:#}"));
    }
    Ok(())
}

/// Of those that watch a group of a thousand.
fn group(setup: &Setup, count: usize, book: &mut Book) -> anyhow::Result<()> {
    let group = fresh("watched");
    let mut crowd = setup.contestant(OURS)?.enter(&fresh("member"))?;
    crowd.ask(&Ask::Crowd { group: group.clone(), count, bytes: 100 })?;
    for contestant in setup.coordinators() {
        let key = Key::of(setup.name, &contestant.name, GROUP);
        let watch = Ask::Watch { group: group.clone() };
        settle(book, &key, Unit::Bytes, resident(contestant, &[watch]));
    }
    Ok(())
}

fn resident(contestant: &Contestant, asks: &[Ask]) -> anyhow::Result<Vec<f64>> {
    let mut entrant = contestant.enter(&fresh("member"))?;
    for ask in asks {
        entrant.ask(ask)?;
    }
    let bytes = entrant.ask(&Ask::Memory)?.bytes;
    // Python's semaphores outlive their process.
    entrant.ask(&Ask::LetGo)?;
    Ok(bytes.map(|bytes| bytes as f64).into_iter().collect())
}
