//! Acquiring locks and terms: who may try, how often they look, and how what is free is taken.

use std::sync::Arc;
use std::time::Duration;

use tooz_core::{
    Acquisition, Error, Hold, LockName, Locks, Mode, Moment, OperationId, Outcome, Result, Waiting,
    async_trait,
};

use crate::keys::Prize;
use crate::life::{Busy, Life, random_fraction};
use crate::local::{self, Cell, Turn};
use crate::queue::{self, GRACE, Queue};
use crate::session::MemcachedSession;
use crate::step::{Seen, Step, Take};
use crate::value::{Owner, Value};
use crate::wire::{Change, Request, Seconds};

#[async_trait]
impl Locks for MemcachedSession {
    async fn acquire(&self, acquisition: Acquisition<LockName>) -> Result<Option<Arc<dyn Hold>>> {
        let Acquisition { id, target, mode, wait: waiting, .. } = acquisition;
        let (prize, kind) = (self.0.keys().lock(&target)?, Kind::Lock);
        acquire(&self.0, Attempt { id, prize, kind, mode, waiting }).await
    }

    async fn break_lock(&self, name: &LockName) -> Result<bool> {
        take_away(&self.0, &self.0.keys().lock(name)?).await
    }
}

/// The shortest and the longest pause between two looks.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(250));

/// The same for those who are not the first in the queue, by their place.
const PAUSE_PER_PLACE: Duration = Duration::from_millis(20);

/// How often an item is looked at that ends within a second.
const NEAR_THE_END: Duration = Duration::from_millis(50);

/// How long shared holders are waited for before it is asked whether they live.
const PATIENCE: Duration = Duration::from_millis(500);

/// One acquisition.
pub(crate) struct Attempt {
    pub(crate) id: OperationId,
    pub(crate) prize: Prize,
    pub(crate) kind: Kind,
    pub(crate) mode: Mode,
    pub(crate) waiting: Waiting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Lock,
    /// Its value is the member alone, which peers of the original read.
    Term,
}

/// An acquisition under way.
pub(crate) struct Contender {
    pub(crate) life: Arc<Life>,
    pub(crate) attempt: Attempt,
    pub(crate) owner: Owner,
    cell: Arc<Cell>,
    _busy: Busy,
}

/// One round trip if it is free and nobody waits.
pub(crate) async fn acquire(life: &Arc<Life>, attempt: Attempt) -> Result<Option<Arc<dyn Hold>>> {
    let contender = Contender {
        owner: Owner::new(attempt.id, &life.id),
        cell: local::cell(&life.server, &attempt.prize.key),
        life: life.clone(),
        attempt,
        _busy: life.busy(),
    };
    if let Some(until) = life.closed_until.filter(|until| !until.has_passed()) {
        life.tell_closed(until);
        tokio::select! {
            () = until.wait() => {}
            () = contender.attempt.waiting.over() => return Ok(None),
            _ = life.lease.lost() => return Err(life.forgotten()),
        }
    }
    if contender.attempt.waiting.is_over() {
        return match contender.step(Take::InTurn).await {
            Ok(Step::Granted(hold, _)) => Ok(Some(hold)),
            Ok(Step::Seen(_)) => Ok(None),
            Err(error) => Err(contender.withdraw(error)),
        };
    }
    let turn = tokio::select! {
        biased;
        turn = contender.cell.turn() => turn,
        () = contender.attempt.waiting.over() => return Ok(None),
        _ = contender.life.lease.lost() => return Err(contender.life.forgotten()),
    };
    contender.contend(turn).await
}

pub(crate) async fn take_away(life: &Life, prize: &Prize) -> Result<bool> {
    let mut again = false;
    loop {
        let Some(item) = life.link.ask(Request::get(&prize.key)).await?.0.item()? else {
            // What a repeated request finds undone was done by the first.
            return Ok(again);
        };
        match life.link.ask(Request::Delete(prize.key.clone(), item.cas)).await {
            Ok((reply, _)) => {
                if reply.change()? == Change::Done {
                    local::changed(&life.server, &prize.key);
                    return Ok(true);
                }
            }
            Err(error) if error.outcome() == Outcome::Unknown => again = true,
            Err(error) => return Err(error),
        }
    }
}

impl Contender {
    pub(crate) fn operation(&self) -> &str {
        &self.owner.operation
    }

    // ---- Waiting.

    async fn contend(self, turn: Turn) -> Result<Option<Arc<dyn Hold>>> {
        let began = Moment::now();
        let mode = self.attempt.mode;
        // The first attempt is made at once, unless others were seen to wait lately.
        let mut take = if self.cell.is_contended() { Take::No } else { Take::InTurn };
        let mut free_since: Option<Moment> = None;
        let mut places = Vec::new();
        loop {
            let mut changes = self.cell.changes();
            let seen = match self.step(take).await {
                Ok(Step::Granted(hold, queue)) => {
                    self.cell.set_contended(queue.has_others(self.operation()));
                    self.clean_up(turn, queue, places);
                    return Ok(Some(hold));
                }
                Ok(Step::Seen(seen)) => seen,
                Err(error) => {
                    let error = self.withdraw(error);
                    self.clean_up(turn, Queue::default(), places);
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
                    // They did not come, so they lose their places.
                    places.extend(before);
                }
                take = next;
                continue;
            }
            take = if in_turn { Take::InTurn } else { Take::No };
            if !free && began.elapsed() > PATIENCE && self.has_removed_dead(&seen).await {
                continue;
            }
            if self.must_queue(&seen) {
                places.push(self.operation().to_owned());
                self.queue(&seen).await;
            }
            let pause = self.pause(&seen, before.len(), began.elapsed());
            tokio::select! {
                // The cell lives in `self`: the wait cannot fail.
                _ = changes.changed() => {}
                () = tokio::time::sleep(pause) => {}
                () = self.attempt.waiting.over() => {
                    self.clean_up(turn, seen.queue, places);
                    return Ok(None);
                }
                _ = self.life.lease.lost() => {
                    let lost = self.life.forgotten();
                    self.clean_up(turn, seen.queue, places);
                    return Err(lost);
                }
            }
        }
    }

    /// Whether other processes must know that it waits: not for the release of a lock that this very
    /// process has alone.
    fn must_queue(&self, seen: &Seen) -> bool {
        let alone = matches!(&seen.value, Some(Value::Exclusive(owner)) if local::has_session(&owner.session))
            && !seen.queue.has_others(self.operation());
        !alone && !seen.queue.contains(self.operation())
    }

    /// Takes its place. The queue is advice, so that a failure is none of the acquisition.
    async fn queue(&self, seen: &Seen) {
        let (key, mode) = (&self.attempt.prize.queue, self.attempt.mode);
        let queue = seen.queue.clone();
        if let Err(error) = queue::join(&self.life, key, queue, self.operation(), mode).await {
            tracing::debug!(%error, "no place in the queue");
        }
    }

    /// A twentieth of the time that was waited, so that a wait gets at most that much longer.
    fn pause(&self, seen: &Seen, before: usize, waited: Duration) -> Duration {
        let of_the_first = match &seen.value {
            // Its release is told.
            Some(Value::Exclusive(owner)) if local::has_session(&owner.session) => PAUSES.1,
            _ => (waited / 20).clamp(PAUSES.0, PAUSES.1),
        };
        let places = u32::try_from(before).unwrap_or(u32::MAX);
        let pause = of_the_first.max(PAUSE_PER_PLACE.saturating_mul(places)).min(PAUSES.1);
        let ends = seen.item.as_ref().and_then(|item| item.left).is_some_and(|left| left <= 1);
        let pause = if ends { pause.min(NEAR_THE_END) } else { pause };
        pause.mul_f64(0.75 + random_fraction() / 4.0)
    }

    /// The same, where a failure is shown by the next look as well.
    async fn has_removed_dead(&self, seen: &Seen) -> bool {
        self.remove_dead(seen).await.unwrap_or_else(|error| {
            tracing::debug!(%error, "it is not known which shared holders live");
            false
        })
    }

    /// Removes shared holders whose sessions are gone; whether there were any.
    async fn remove_dead(&self, seen: &Seen) -> Result<bool> {
        let (Some(item), Some(Value::Shared(owners))) = (&seen.item, &seen.value) else {
            return Ok(false);
        };
        let sessions = owners.iter().map(|o| Request::Look(self.life.keys().session(&o.session)));
        let (replies, _) = self.life.link.call(&sessions.collect::<Vec<_>>()).await?;
        let mut dead = Vec::new();
        for (owner, reply) in owners.iter().zip(replies) {
            if reply.item()?.is_none() {
                dead.push(owner.clone());
            }
        }
        if dead.is_empty() {
            return Ok(false);
        }
        let place = (&self.attempt.prize.key[..], item.cas);
        let change = Value::read(&item.value).without(|o| dead.contains(o), place, self.seconds());
        // If it was changed meanwhile, the next look shows how.
        self.life.link.ask(change).await?.0.change().map(|change| change == Change::Done)
    }

    // ---- The end.

    /// Leaves the queue in the background; the next of this process has its turn after that.
    fn clean_up(self, turn: Turn, queue: Queue, mut places: Vec<String>) {
        places.dedup();
        if places.is_empty() {
            return;
        }
        tokio::spawn(async move {
            let _turn = turn;
            let (life, key) = (&self.life, &self.attempt.prize.queue);
            // It may have been seen before all took their places.
            let left = match places.iter().all(|place| queue.contains(place)) {
                true => queue::leave(life, key, queue, &places).await,
                false => leave_as_it_is(life, key, &places).await,
            };
            if let Err(error) = left {
                tracing::debug!(%error, "a place in a queue is left to be passed");
            }
        });
    }

    /// Takes the attempt back as soon as that can be done, if it may have been granted.
    fn withdraw(&self, error: Error) -> Error {
        if error.outcome() == Outcome::Unknown && self.attempt.kind == Kind::Lock {
            let (life, prize, owner) =
                (self.life.clone(), self.attempt.prize.clone(), self.owner.clone());
            tokio::spawn(async move {
                if let Err(error) = take_back(&life, &prize, &owner).await {
                    tracing::debug!(%error, "what is left of an acquisition is left to expire");
                }
            });
        }
        error
    }
}

async fn leave_as_it_is(life: &Life, key: &[u8], places: &[String]) -> Result<()> {
    let queue = Queue::read(life.link.ask(Request::get(key)).await?.0.item()?);
    queue::leave(life, key, queue, places).await
}

async fn take_back(life: &Life, prize: &Prize, owner: &Owner) -> Result<()> {
    loop {
        let Some(item) = life.link.ask(Request::get(&prize.key)).await?.0.item()? else {
            return Ok(());
        };
        let held = Value::read(&item.value);
        if !held.is_of(&owner.operation) {
            return Ok(());
        }
        let seconds = Seconds::at_least(life.config.lock_timeout);
        let change = held.without(|other| other == owner, (&prize.key, item.cas), seconds);
        if life.link.ask(change).await?.0.change()? == Change::Done {
            local::changed(&life.server, &prize.key);
            return Ok(());
        }
    }
}
