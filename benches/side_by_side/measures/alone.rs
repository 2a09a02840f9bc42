//! What needs no backend.

use tooz_benches::protocol::Ask;
use tooz_benches::record::{Book, Unit};
use tooz_benches::statistics::Key;

use super::{Form, fresh, settle, times};
use crate::contestant::Contestant;
use crate::setups::{OURS, alone};

/// The engine's hop, and the ring.
pub(super) fn measure(form: Form, book: &mut Book) -> anyhow::Result<()> {
    for contestant in alone()? {
        let key = |backend, measure| Key::of(backend, &contestant.name, measure);
        if contestant.name.starts_with(OURS) {
            let result = hops(&contestant, form.choose(5000, 50));
            settle(book, &key("memory", "engine hop"), Unit::Nanoseconds, result);
        }
        if !contestant.name.contains(", ") {
            let ring = Ask::Ring { nodes: 100, batches: form.choose(50, 3) };
            let result =
                contestant.start().and_then(|mut e| e.ask(&ring)).map(|answer| times(&[answer]));
            settle(book, &key("none", "ring: 1,000 keys"), Unit::Nanoseconds, result);
        }
    }
    Ok(())
}

fn hops(contestant: &Contestant, count: usize) -> anyhow::Result<Vec<f64>> {
    let group = fresh("hop");
    let mut entrant = contestant.enter(&fresh("member"))?;
    entrant.ask(&Ask::Join { group: group.clone() })?;
    Ok(times(&[entrant.ask(&Ask::Hops { group, count })?]))
}
