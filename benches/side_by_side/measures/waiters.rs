//! How many requests a hand-off costs the server while many wait.

use std::time::Duration;

use anyhow::ensure;
use tooz_benches::protocol::Ask;
use tooz_benches::record::{Book, Unit};
use tooz_benches::statistics::Key;

use super::{Form, fresh, settle};
use crate::contestant::{Contestant, Entrant};
use crate::counters::Counter;
use crate::setups::{OURS, Setup};
use crate::worker;

/// How many processes share the waiters, whatever their number.
const PROCESSES: usize = 10;

/// All that wait have asked by then, on a slow machine too.
const SETTLED: Duration = Duration::from_secs(2);

/// After so long, the lock changes hands at its usual rate.
const STEADY: Duration = Duration::from_millis(500);

/// Of ours only: others do not wait in a queue.
pub(super) fn measure(setup: &Setup, form: Form, book: &mut Book) -> anyhow::Result<()> {
    let measure = "requests per hand-off";
    let sizes: &[usize] = form.choose(&[10, 100, 1000], &[10, 30]);
    for &size in sizes {
        let key = Key::of(setup.name, OURS, measure).sized(size);
        let result = count(setup, size, form.choose(3, 1)).map(|each| vec![each]);
        settle(book, &key, Unit::Count, result);
    }
    Ok(())
}

/// Of a crowd that stays as large: who had its turn waits again.
fn count(setup: &Setup, size: usize, seconds: u64) -> anyhow::Result<f64> {
    let counter = Counter::of(setup)?;
    let ours = Contestant { url: counter.url().to_owned(), ..setup.contestant(OURS)?.clone() };
    let name = fresh("queue");
    let mut first = ours.enter(&fresh("member"))?;
    // The lock that they wait for: `Hold` numbers what it acquires.
    first.ask(&Ask::Hold { prefix: name.clone(), count: 1 })?;
    let waiters: anyhow::Result<Vec<Entrant>> =
        (0..PROCESSES).map(|_| ours.enter(&fresh("member"))).collect();
    let mut waiters = waiters?;
    for entrant in &mut waiters {
        entrant.ask(&Ask::Wait { name: format!("{name}-0"), count: size / PROCESSES })?;
    }
    std::thread::sleep(SETTLED);
    first.ask(&Ask::LetGo)?;
    std::thread::sleep(STEADY);
    let (before, from) = (counter.read()?, worker::now());
    std::thread::sleep(Duration::from_secs(seconds));
    let (after, until) = (counter.read()?, worker::now());
    let mut turns = 0;
    for entrant in &mut waiters {
        let moments = entrant.ask(&Ask::Waited)?.moments;
        turns += moments.iter().filter(|moment| (from..until).contains(*moment)).count();
    }
    ensure!(turns > 0, "nobody had a turn in {seconds} s");
    Ok((after - before) as f64 / turns as f64)
}
