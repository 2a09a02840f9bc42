//! A lock that several processes want all the time.

use tooz_benches::protocol::{Answer, Ask};
use tooz_benches::record::{Book, RAW, Unit};
use tooz_benches::statistics::{Key, jain};

use super::{Form, fresh};
use crate::contestant::{Contestant, Entrant};
use crate::setups::Setup;
use crate::worker;

/// How long a process holds, in microseconds.
const HOLD: u64 = 1000;

/// From the request to the beginning, so that all begin together.
const HEAD_START: u64 = 200_000_000;

/// From a release to the next process's acquisition, how often the holder changes, how evenly, and
/// the longest wait.
pub(super) fn measure(setup: &Setup, form: Form, book: &mut Book) -> anyhow::Result<()> {
    let (rounds, millis) = form.choose((2, 2000), (1, 500));
    for size in [2, 8] {
        // Two bare clients can tell each other; more of them would need a queue.
        let bare = (size == 2).then(|| setup.contestant(RAW)).transpose()?;
        let contestants: Vec<_> = setup.locks().chain(bare).collect();
        let mut seen = vec![Seen::default(); contestants.len()];
        let mut failed = vec![false; contestants.len()];
        for _ in 0..rounds {
            for (place, contestant) in contestants.iter().enumerate() {
                if failed[place] {
                    continue;
                }
                match contend(contestant, size, millis) {
                    Ok(turns) => seen[place].add(&turns, millis),
                    Err(error) => {
                        failed[place] = true;
                        let key = key(setup, contestant, "hand-off", size);
                        book.miss(&key, &format!("{error:#}"));
                    }
                }
            }
        }
        for (contestant, seen) in contestants.iter().zip(seen) {
            let mut note = |measure, unit, values| {
                book.note(&key(setup, contestant, measure, size), unit, values);
            };
            note("hand-off", Unit::Nanoseconds, seen.hand_offs);
            if contestant.name == RAW {
                continue; // it has no lock
            }
            note("changes of the holder a second", Unit::Count, seen.changes);
            note("fairness", Unit::Ratio, seen.fairness);
            note("worst wait", Unit::Nanoseconds, seen.worst);
            if seen.overlaps > 0 {
                let why = format!("two held at once, {} times", seen.overlaps);
                book.miss(&key(setup, contestant, "hand-off", size), &why);
            }
        }
    }
    Ok(())
}

fn key<'a>(setup: &Setup, contestant: &'a Contestant, measure: &'a str, size: usize) -> Key<'a> {
    Key::of(setup.name, &contestant.name, measure).sized(size)
}

/// What each process did.
fn contend(contestant: &Contestant, size: usize, millis: u64) -> anyhow::Result<Vec<Answer>> {
    let entrants: anyhow::Result<Vec<Entrant>> =
        (0..size).map(|_| contestant.enter(&fresh("member"))).collect();
    let mut entrants = entrants?;
    let ask = Ask::Contend {
        name: fresh("contended"),
        from: worker::now() + HEAD_START,
        millis,
        hold_micros: HOLD,
    };
    for entrant in &mut entrants {
        entrant.tell(&ask)?;
    }
    entrants.iter_mut().map(Entrant::answer).collect()
}

#[derive(Clone, Debug, Default)]
struct Seen {
    hand_offs: Vec<f64>,
    changes: Vec<f64>,
    fairness: Vec<f64>,
    worst: Vec<f64>,
    overlaps: usize,
}

impl Seen {
    fn add(&mut self, answers: &[Answer], millis: u64) {
        let mut turns = Vec::new();
        for (process, answer) in answers.iter().enumerate() {
            turns.extend(answer.turns.iter().map(|turn| (process, *turn)));
        }
        turns.sort_unstable_by_key(|(_, [_, had, _])| *had);
        let mut changes = 0_u32;
        for pair in turns.windows(2) {
            let [(former, [.., let_go]), (next, [asked, had, _])] = [pair[0], pair[1]];
            self.overlaps += usize::from(had < let_go);
            if former != next {
                changes += 1;
                // Only who waited already tells how long it takes.
                if asked < let_go {
                    self.hand_offs.push(had.saturating_sub(let_go) as f64);
                }
            }
        }
        let shares: Vec<_> = answers.iter().map(|answer| answer.turns.len() as f64).collect();
        let waits = turns.iter().map(|(_, [asked, had, _])| (had - asked) as f64);
        self.worst.extend(waits.reduce(f64::max));
        self.changes.push(f64::from(changes) * 1000.0 / millis as f64);
        self.fairness.push(jain(&shares));
    }
}
