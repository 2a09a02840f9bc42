//! One step of an acquisition: a look at a lock, which takes it if it may.

use std::sync::Arc;

use tooz_core::{Error, Mode, Moment, Outcome, Result};

use crate::errors;
use crate::hold::{Grant, MemcachedHold};
use crate::lock::{Contender, Kind};
use crate::queue::{self, Queue};
use crate::value::{self, Value};
use crate::wire::{Change, How, Item, RAW, Reply, Request, Seconds};

/// What a look showed.
pub(crate) struct Seen {
    pub(crate) queue: Queue,
    pub(crate) item: Option<Item>,
    pub(crate) value: Option<Value>,
}

pub(crate) enum Step {
    Granted(Arc<MemcachedHold>, Queue),
    Seen(Seen),
}

/// Whether a step takes what it finds free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Take {
    No,
    /// Shared locks only if nobody waits before.
    InTurn,
    /// Past those who do not come.
    Anyway,
}

impl Contender {
    /// One round trip: what is there; and taken, if it was free.
    pub(crate) async fn step(&self, take: Take) -> Result<Step> {
        let prize = &self.attempt.prize;
        let mut requests =
            vec![Request::Get(prize.queue.clone(), Some(queue::life_of(&self.life)))];
        if take != Take::No {
            requests.push(self.store(How::Add, self.value()));
        }
        requests.extend(self.look());
        let asked = Moment::now();
        let (mut replies, sent) = match self.life.link.call(&requests).await {
            Err(error) if error.outcome() == Outcome::Unknown => {
                return self.resolve(error, asked).await;
            }
            answer => answer?,
        };
        let (epoch, item) = (pop(&mut replies)?, pop(&mut replies)?.item()?);
        if take != Take::No && pop(&mut replies)?.change()? == Change::Done {
            let queue = Queue::read(pop(&mut replies)?.item()?);
            return self.granted(queue, item, epoch, sent).await;
        }
        let seen = Seen::new(Queue::read(pop(&mut replies)?.item()?), item);
        match take {
            Take::InTurn if !seen.queue.before(self.operation(), self.attempt.mode).is_empty() => {
                Ok(Step::Seen(seen))
            }
            Take::InTurn | Take::Anyway => self.share(seen).await,
            Take::No => Ok(Step::Seen(seen)),
        }
    }

    /// Joins those who share it already; one more round trip.
    async fn share(&self, seen: Seen) -> Result<Step> {
        let (Mode::Shared, Some(item), Some(Value::Shared(owners))) =
            (self.attempt.mode, &seen.item, &seen.value)
        else {
            return Ok(Step::Seen(seen));
        };
        let all = value::shared(owners.iter().chain([&self.owner]));
        let mut requests = vec![self.store(How::Swap(item.cas), all)];
        requests.extend(self.look());
        let asked = Moment::now();
        let (mut replies, sent) = match self.life.link.call(&requests).await {
            Err(error) if error.outcome() == Outcome::Unknown => {
                return self.resolve(error, asked).await;
            }
            answer => answer?,
        };
        let (epoch, item) = (pop(&mut replies)?, pop(&mut replies)?.item()?);
        match pop(&mut replies)?.change()? {
            Change::Done => self.granted(seen.queue, item, epoch, sent).await,
            // Another came or went: the next step sees it.
            Change::Refused | Change::Missing => Ok(Step::Seen(Seen::new(seen.queue, item))),
        }
    }

    fn store(&self, how: How, value: Vec<u8>) -> Request {
        Request::store(&self.attempt.prize.key, how, RAW, self.seconds(), value)
    }

    pub(crate) fn seconds(&self) -> Seconds {
        Seconds::at_least(self.life.time_of(self.attempt.kind))
    }

    fn value(&self) -> Vec<u8> {
        let member = self.life.member.as_bytes();
        match (self.attempt.kind, self.attempt.mode) {
            (Kind::Term, _) => member.to_vec(),
            (Kind::Lock, Mode::Exclusive) => self.owner.exclusive(member),
            (Kind::Lock, Mode::Shared) => value::shared([&self.owner]),
        }
    }

    /// The item, and then the epoch: one that began before the grant is seen, so tokens rise.
    fn look(&self) -> [Request; 2] {
        [Request::get(&self.attempt.prize.key), Request::get(&self.life.keys().epoch())]
    }

    fn has(&self, item: &Item) -> bool {
        match self.attempt.kind {
            Kind::Lock => Value::read(&item.value).is_of(self.operation()),
            Kind::Term => item.value == self.life.member.as_bytes(),
        }
    }

    async fn granted(
        &self,
        queue: Queue,
        item: Option<Item>,
        epoch: Reply,
        sent: Moment,
    ) -> Result<Step> {
        let Some(item) = item.filter(|item| self.has(item)) else {
            // Taken away in the same moment.
            return Ok(Step::Seen(Seen::new(queue, None)));
        };
        let epoch = self.life.epoch_in(epoch.item()?).await?;
        let grant = Grant {
            id: self.attempt.id,
            owner: self.owner.clone(),
            prize: self.attempt.prize.clone(),
            kind: self.attempt.kind,
            // Without one it is taken back.
            token: epoch.token(item.cas).map_err(|e| e.outcome_is(Outcome::Unknown))?,
            item,
            sent,
        };
        Ok(Step::Granted(MemcachedHold::keep(&self.life, grant), queue))
    }

    /// What a step has done whose answer was lost: the operation is in the value.
    async fn resolve(&self, error: Error, asked: Moment) -> Result<Step> {
        if self.attempt.kind == Kind::Term {
            // The value does not say whose it is. If it is ours, it ends with its time.
            return Err(error);
        }
        let mut requests = vec![Request::get(&self.attempt.prize.queue)];
        requests.extend(self.look());
        let (mut replies, _) = self.life.link.call(&requests).await.map_err(|_| error)?;
        let (epoch, item) = (pop(&mut replies)?, pop(&mut replies)?.item()?);
        let queue = Queue::read(pop(&mut replies)?.item()?);
        match item {
            Some(item) if self.has(&item) => self.granted(queue, Some(item), epoch, asked).await,
            item => Ok(Step::Seen(Seen::new(queue, item))),
        }
    }
}

fn pop(replies: &mut Vec<Reply>) -> Result<Reply> {
    replies.pop().ok_or_else(errors::odd_answer)
}

impl Seen {
    fn new(queue: Queue, item: Option<Item>) -> Self {
        let value = item.as_ref().map(|item| Value::read(&item.value));
        Self { queue, item, value }
    }

    pub(crate) fn is_free_for(&self, mode: Mode) -> bool {
        match &self.value {
            None => true,
            Some(Value::Shared(_)) => mode == Mode::Shared,
            Some(_) => false,
        }
    }
}
