//! The death of a leader.

use std::time::Duration;

use tooz_benches::protocol::Ask;
use tooz_benches::record::{Book, Unit};
use tooz_benches::statistics::Key;

use super::{Form, fresh, settle};
use crate::contestant::Contestant;
use crate::setups::{OURS, Setup};

/// The candidate is in the queue by then.
const STANDS: Duration = Duration::from_millis(500);

/// From the leader's end by SIGKILL to the next leader's term.
pub(super) fn failover(setup: &Setup, form: Form, book: &mut Book) -> anyhow::Result<()> {
    let key = |contestant, measure| Key::of(setup.name, contestant, measure);
    let ttl = setup.ttl.as_nanos() as f64;
    book.note(&key(OURS, "time to live"), Unit::Nanoseconds, vec![ttl]);
    for contestant in setup.coordinators() {
        let result = terms(contestant, setup.short, form.choose(3, 1));
        let key = key(&contestant.name, "leader killed to next leader");
        settle(book, &key, Unit::Nanoseconds, result);
    }
    Ok(())
}

fn terms(contestant: &Contestant, options: &str, count: usize) -> anyhow::Result<Vec<f64>> {
    let group = fresh("election");
    let enter = || {
        let mut entrant = contestant.enter_with(&fresh("candidate"), options)?;
        entrant.ask(&Ask::Join { group: group.clone() })?;
        anyhow::Ok(entrant)
    };
    let campaign = Ask::Campaign { group: group.clone() };
    let mut leader = enter()?;
    leader.ask(&campaign)?;
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        let mut next = enter()?;
        next.tell(&campaign)?;
        std::thread::sleep(STANDS);
        let killed = crate::worker::now();
        leader.kill();
        values.push(next.answer()?.at.unwrap_or_default().saturating_sub(killed) as f64);
        leader = next;
    }
    Ok(values)
}
