//! How many requests a hand-off costs the server while many wait.

use std::time::Duration;

use tooz_benches::protocol::Ask;
use tooz_benches::record::{Book, Unit};
use tooz_benches::statistics::Key;

use super::{Form, fresh, settle};
use crate::contestant::{Contestant, Entrant};
use crate::counters::Counter;
use crate::setups::{OURS, Setup};

/// How many processes wait at most.
const PROCESSES: usize = 10;

/// How many wait in each process at least: they are a queue in it, of which the next asks when it is
/// its turn. The only one of a process would have asked before the count begins.
const DEPTH: usize = 5;

/// All that wait have asked by then, on a slow machine too.
const SETTLED: Duration = Duration::from_secs(2);

/// Of ours only: others do not wait in a queue.
pub(super) fn measure(setup: &Setup, form: Form, book: &mut Book) -> anyhow::Result<()> {
    let measure = "requests per hand-off";
    let sizes: &[usize] = form.choose(&[10, 100, 1000], &[10, 30]);
    for &size in sizes {
        let key = Key::of(setup.name, OURS, measure).sized(size);
        let result = count(setup, size).map(|each| vec![each]);
        settle(book, &key, Unit::Count, result);
    }
    Ok(())
}

fn count(setup: &Setup, size: usize) -> anyhow::Result<f64> {
    let counter = Counter::of(setup)?;
    let ours = Contestant { url: counter.url().to_owned(), ..setup.contestant(OURS)?.clone() };
    let name = fresh("queue");
    let mut first = ours.enter(&fresh("member"))?;
    // The lock that they wait for: `Hold` numbers what it acquires.
    first.ask(&Ask::Hold { prefix: name.clone(), count: 1 })?;
    let processes = PROCESSES.min(size / DEPTH);
    let waiters: anyhow::Result<Vec<Entrant>> =
        (0..processes).map(|_| ours.enter(&fresh("member"))).collect();
    let mut waiters = waiters?;
    for entrant in &mut waiters {
        entrant.ask(&Ask::Wait { name: format!("{name}-0"), count: size / processes })?;
    }
    std::thread::sleep(SETTLED);
    let before = counter.read()?;
    first.ask(&Ask::LetGo)?;
    for entrant in &mut waiters {
        entrant.tell(&Ask::Waited)?;
    }
    for entrant in &mut waiters {
        entrant.answer()?;
    }
    let requests = counter.read()? - before;
    Ok(requests as f64 / size as f64)
}
