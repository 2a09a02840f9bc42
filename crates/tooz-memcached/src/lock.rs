//! Acquiring locks and terms: which acquisition may try, how often it looks, and how what is free is
//! taken.

use std::sync::Arc;
use std::time::Duration;

use tooz_core::kit::{cancel_until_gone, random_part};
use tooz_core::{Acquisition, Error, Hold, LockName, Locks, Moment, Outcome, Result, async_trait};
use tracing::debug;

use crate::keys::LockKeys;
use crate::local::{self, Turn};
use crate::queue::{self, GRACE, Queue};
use crate::state::State;
use crate::step::{Contender, Seen, Step, Take};
use crate::value::{Owner, Value};
use crate::wire::{Change, Request, Seconds};

/// The locks of a session.
#[derive(Debug)]
pub(crate) struct MemcachedLocks(pub(crate) Arc<State>);

#[async_trait]
impl Locks for MemcachedLocks {
    async fn acquire(&self, acquisition: Acquisition<LockName>) -> Result<Option<Arc<dyn Hold>>> {
        let keys = self.0.keys().lock(&acquisition.target)?;
        acquire(&self.0, acquisition.with_target(keys)).await
    }

    async fn break_lock(&self, name: &LockName) -> Result<bool> {
        let (state, key) = (&self.0, self.0.keys().lock(name)?.key);
        let mut repeated = false;
        loop {
            let Some(item) = state.client.get(&key).await? else {
                // If a repeated request finds nothing to undo, the first one did it.
                return Ok(repeated);
            };
            match state.client.change(Request::Delete(key.clone(), item.cas)).await {
                Ok(Change::Done) => {
                    local::changed(&state.server, &key);
                    return Ok(true);
                }
                Ok(_) => {}
                Err(error) if error.outcome() == Outcome::Unknown => repeated = true,
                Err(error) => return Err(error),
            }
        }
    }
}

/// The shortest and the longest pause between two looks.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(250));

/// The shortest for those who are not the first in the queue, for each that is before them.
const PAUSE_PER_ENTRY: Duration = Duration::from_millis(20);

/// How often to look at an item that ends within a second.
const NEAR_THE_END: Duration = Duration::from_millis(50);

/// How long to wait for shared holders before checking whether they live.
const PATIENCE: Duration = Duration::from_millis(500);

/// One round trip if it is free and nobody waits.
pub(crate) async fn acquire(
    state: &Arc<State>,
    acquisition: Acquisition<LockKeys>,
) -> Result<Option<Arc<dyn Hold>>> {
    let contender = Contender::new(state, acquisition);
    let wait = &contender.acquisition.wait;
    if let Some(until) = state.closed_until.filter(|until| !until.has_passed()) {
        state.warn_closed(until);
        tokio::select! {
            () = until.wait() => {}
            () = wait.over() => return Ok(None),
            _ = state.lease.lost() => return Err(state.session_lost()),
        }
    }
    if wait.is_over() {
        return match contender.step(Take::InTurn).await {
            Ok(Step::Granted(hold, _)) => Ok(Some(hold)),
            Ok(Step::Seen(_)) => Ok(None),
            Err(error) => Err(contender.cancel(error)),
        };
    }
    let turn = tokio::select! {
        biased;
        turn = contender.cell.turn() => turn,
        () = wait.over() => return Ok(None),
        _ = state.lease.lost() => return Err(state.session_lost()),
    };
    contender.contend(turn).await
}

impl Contender {
    // ---- Waiting.

    async fn contend(self, turn: Turn) -> Result<Option<Arc<dyn Hold>>> {
        let began = Moment::now();
        let mode = self.acquisition.mode;
        // The first attempt is made at once, unless others were seen to wait lately.
        let mut take = if self.cell.is_contended() { Take::No } else { Take::InTurn };
        let mut free_since: Option<Moment> = None;
        // The queue entries that are to be removed in the end.
        let mut entries = Vec::new();
        loop {
            let mut changes = self.cell.changes();
            let seen = match self.step(take).await {
                Ok(Step::Granted(hold, queue)) => {
                    self.cell.set_contended(queue.has_others(self.operation()));
                    self.clean_up(turn, queue, entries);
                    return Ok(Some(hold));
                }
                Ok(Step::Seen(seen)) => seen,
                Err(error) => {
                    let error = self.cancel(error);
                    self.clean_up(turn, Queue::default(), entries);
                    return Err(error);
                }
            };
            self.cell.set_contended(seen.queue.has_others(self.operation()));
            let before = seen.queue.before(self.operation(), mode);
            let grace = GRACE * u32::try_from(before.len()).unwrap_or(u32::MAX);
            let free = seen.is_free_for(mode);
            free_since = free.then(|| free_since.unwrap_or_else(Moment::now));
            let in_turn = before.is_empty();
            let next = match free_since {
                _ if in_turn => Take::InTurn,
                Some(since) if since.elapsed() >= grace => Take::Anyway,
                _ => Take::No,
            };
            if free && take == Take::No && next != Take::No {
                if next == Take::Anyway {
                    // They did not come, so they lose their entries.
                    entries.extend(before);
                }
                take = next;
                continue;
            }
            take = if in_turn { Take::InTurn } else { Take::No };
            if !free && began.elapsed() > PATIENCE {
                match self.reap(&seen).await {
                    Ok(true) => continue,
                    Ok(false) => {}
                    // The next look shows it as well.
                    Err(error) => debug!(%error, "it is not known which shared holders live"),
                }
            }
            if self.must_queue(&seen) {
                entries.push(self.operation().to_owned());
                self.enter_queue(&seen).await;
            }
            let pause = self.pause(&seen, before.len(), began.elapsed());
            tokio::select! {
                // The cell lives in `self`: the wait cannot fail.
                _ = changes.changed() => {}
                () = tokio::time::sleep(pause) => {}
                () = self.acquisition.wait.over() => {
                    self.clean_up(turn, seen.queue, entries);
                    return Ok(None);
                }
                _ = self.state.lease.lost() => {
                    let lost = self.state.session_lost();
                    self.clean_up(turn, seen.queue, entries);
                    return Err(lost);
                }
            }
        }
    }

    /// Whether other processes must know that it waits: not for the release of a lock that this very
    /// process has alone.
    fn must_queue(&self, seen: &Seen) -> bool {
        let alone = seen.is_of_this_process() && !seen.queue.has_others(self.operation());
        !alone && !seen.queue.contains(self.operation())
    }

    /// The queue is advisory, so its failure is not a failure of the acquisition.
    async fn enter_queue(&self, seen: &Seen) {
        let (key, mode) = (&self.acquisition.target.queue, self.acquisition.mode);
        let queue = seen.queue.clone();
        if let Err(error) = queue::join(&self.state, key, queue, self.operation(), mode).await {
            debug!(%error, "could not make a queue entry");
        }
    }

    /// A twentieth of the time that was waited, so that a wait gets at most that much longer.
    fn pause(&self, seen: &Seen, before: usize, waited: Duration) -> Duration {
        let of_the_first = match seen.is_of_this_process() {
            // Its release is told.
            true => PAUSES.1,
            false => (waited / 20).clamp(PAUSES.0, PAUSES.1),
        };
        let before = u32::try_from(before).unwrap_or(u32::MAX);
        let pause = of_the_first.max(PAUSE_PER_ENTRY.saturating_mul(before)).min(PAUSES.1);
        let ends = seen.item.as_ref().and_then(|item| item.left).is_some_and(|left| left <= 1);
        let pause = if ends { pause.min(NEAR_THE_END) } else { pause };
        pause * 3 / 4 + random_part(pause / 4)
    }

    /// Removes shared holders whose sessions are gone; returns whether there were any.
    async fn reap(&self, seen: &Seen) -> Result<bool> {
        let (Some(item), Some(held @ Value::Shared(owners))) = (&seen.item, &seen.value) else {
            return Ok(false);
        };
        let sessions = owners.iter().map(|o| Request::Look(self.state.keys().session(&o.session)));
        let (replies, _) = self.state.client.call(&sessions.collect::<Vec<_>>()).await?;
        let mut dead = Vec::new();
        for (owner, reply) in owners.iter().zip(replies) {
            if reply.item()?.is_none() {
                dead.push(owner.clone());
            }
        }
        if dead.is_empty() {
            return Ok(false);
        }
        let item = (&self.acquisition.target.key[..], item.cas);
        let removal = held.without(|owner| dead.contains(owner), item, self.ttl());
        // If it was changed meanwhile, the next look shows how.
        Ok(self.state.client.change(removal).await? == Change::Done)
    }

    // ---- The end.

    /// Leaves the queue in the background; the next of this process has its turn after that.
    fn clean_up(self, turn: Turn, queue: Queue, mut entries: Vec<String>) {
        entries.dedup();
        if entries.is_empty() {
            return;
        }
        tokio::spawn(async move {
            let _turn = turn;
            let key = &self.acquisition.target.queue;
            if let Err(error) = queue::leave(&self.state, key, queue, &entries).await {
                debug!(%error, "a queue entry is left to be passed over");
            }
        });
    }

    /// Cancels it in the background, if it may have been granted.
    fn cancel(&self, error: Error) -> Error {
        let keys = self.acquisition.target.clone();
        if error.outcome() == Outcome::Unknown && !keys.is_term {
            let (state, owner) = (self.state.clone(), self.owner.clone());
            tokio::spawn(async move {
                let known = state.lease.timed_child(state.config.lock_timeout, Moment::now());
                cancel_until_gone(&known, || cancel(&state, &keys.key, &owner)).await;
            });
        }
        error
    }
}

/// Removes what an acquisition has left of a lock, if it has left anything.
async fn cancel(state: &State, key: &[u8], owner: &Owner) -> Result<()> {
    let ttl = Seconds::at_least(state.config.lock_timeout);
    loop {
        let Some(item) = state.client.get(key).await? else { return Ok(()) };
        let held = Value::read(&item.value);
        if !held.is_of(&owner.operation) {
            return Ok(());
        }
        let removal = held.without(|other| other == owner, (key, item.cas), ttl);
        if state.client.change(removal).await? == Change::Done {
            local::changed(&state.server, key);
            return Ok(());
        }
    }
}

impl Seen {
    /// Whether this very process has it alone, so that its release will be told.
    fn is_of_this_process(&self) -> bool {
        matches!(&self.value, Some(Value::Exclusive(owner)) if local::has_session(&owner.session))
    }
}
