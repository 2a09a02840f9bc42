//! What a free lock costs, and what keeping many costs.

use tooz_benches::protocol::Ask;
use tooz_benches::record::{Book, Unit, is_raw};
use tooz_benches::statistics::Key;

use super::{Form, Round, fresh, merge, settle, slug, times};
use crate::setups::{OURS, Setup};

/// Acquire and release, beside the bare round trip.
pub(super) fn cost(setup: &Setup, form: Form, book: &mut Book) -> anyhow::Result<()> {
    let (batches, count) = form.choose((40, 25), (4, 5));
    let mut round = Round::of(setup, "acquire and release", setup.contestants.iter(), book);
    let name = fresh("cost");
    // What is made once, such as a lock's node or a connection, is made before.
    for entrant in &mut round.entrants {
        let warm = Ask::Cycles { name: format!("{name}-{}", slug(&entrant.name)), count: 3 };
        // What fails here fails below too, and is told there.
        drop(entrant.ask(&warm));
    }
    // A raw client is asked twice, once for reads and once for writes.
    let mut raws = Round { measure: "read", entrants: Vec::new(), ..round };
    raws.entrants = round.entrants.extract_if(.., |entrant| is_raw(&entrant.name)).collect();
    let (mut reads, mut writes, mut cycles) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..batches {
        merge(&mut reads, raws.alternate(1, book, |_| Ask::Reads { count }));
        merge(&mut writes, raws.alternate(1, book, |_| Ask::Writes { count }));
        merge(
            &mut cycles,
            round.alternate(1, book, |entrant| Ask::Cycles {
                name: format!("{name}-{}", slug(&entrant.name)),
                count,
            }),
        );
    }
    for (measure, all) in [("read", reads), ("write", writes), ("acquire and release", cycles)] {
        for (contestant, answers) in all {
            let key = Key::of(setup.name, &contestant, measure);
            book.note(&key, Unit::Nanoseconds, times(&answers));
        }
    }
    Ok(())
}

/// The renewal of so many locks by hand.
pub(super) fn renewal(setup: &Setup, form: Form, book: &mut Book) -> anyhow::Result<()> {
    let sizes: &[usize] = form.choose(&[1, 100, 10_000], &[1, 10]);
    for contestant in setup.coordinators() {
        // The original renews one after the other, which takes minutes for thousands.
        let most = if contestant.name == OURS { usize::MAX } else { 100 };
        for &size in sizes.iter().filter(|size| **size <= most) {
            let key = Key::of(setup.name, &contestant.name, "renewal").sized(size);
            let result = (|| {
                let mut entrant = contestant.enter(&fresh("member"))?;
                entrant.ask(&Ask::Hold { prefix: fresh("renewed"), count: size })?;
                let answer = entrant.ask(&Ask::Beats { count: form.choose(11, 3) })?;
                entrant.ask(&Ask::LetGo)?;
                entrant.leave()?;
                Ok(times(&[answer]))
            })();
            let failed = result.is_err();
            settle(book, &key, Unit::Nanoseconds, result);
            if failed {
                // More of what does not work only takes longer.
                break;
            }
        }
    }
    Ok(())
}
