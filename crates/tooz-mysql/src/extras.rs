//! The connections beside that of the session: one for each acquisition that waits, and for what it
//! then holds. To open one takes far longer than to wait on it, with TLS more than ten times.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tooz_core::{Moment, Result};

use crate::link::Link;
use crate::session::Life;

/// How many that are not needed are kept for the next who waits.
const SPARE: usize = 4;

/// For how long, at most: the server ends those that are silent for longer than the timeout.
const KEPT: Duration = Duration::from_secs(2);

/// Those that nobody uses, each with when it was given back.
#[derive(Debug, Default)]
pub(crate) struct Extras(Mutex<Vec<(Moment, Link)>>);

impl Extras {
    /// A connection that nobody uses.
    pub(crate) async fn take(life: &Life) -> Result<Link> {
        let kept = kept(life);
        let spare = || life.extras.spare().pop();
        while let Some((since, link)) = spare() {
            // Near its end, whoever waits for that has it already.
            if !link.is_dead() && since.elapsed() < kept {
                return Ok(link);
            }
        }
        life.another_link().await
    }

    /// Gives back one that holds nothing and was not told to end a statement.
    pub(crate) fn give_back(life: &Arc<Life>, link: Link) {
        let (kept, number) = (kept(life), link.number);
        let mut spare = life.extras.spare();
        if spare.len() >= SPARE || !life.is_open() {
            drop(spare);
            tokio::spawn(async move { link.close().await });
            return;
        }
        let since = Moment::now();
        spare.push((since, link));
        drop(spare);
        let life = life.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(kept) => {}
                // At a stop, the session closes them itself.
                _ = life.lease.lost() => {}
            }
            let found = {
                let mut spare = life.extras.spare();
                // It may have been taken, and given back again, since.
                let place = spare.iter().position(|(at, l)| *at == since && l.number == number);
                place.map(|place| spare.swap_remove(place))
            };
            if let Some((_, link)) = found {
                link.close().await;
            }
        });
    }

    /// Closes all that are not in use.
    pub(crate) async fn clear(&self) {
        let spare = std::mem::take(&mut *self.spare());
        for (_, link) in spare {
            link.close().await;
        }
    }

    fn spare(&self) -> MutexGuard<'_, Vec<(Moment, Link)>> {
        // Nothing panics while it is locked, so it is whole even if poisoned.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn kept(life: &Life) -> Duration {
    KEPT.min(life.config.timeout / 4)
}
