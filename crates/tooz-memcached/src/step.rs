//! One step of an acquisition: a look at a lock, which takes it if it may.

use std::sync::{Arc, Mutex};

use tooz_core::kit::Underway;
use tooz_core::{Acquisition, Error, Mode, Moment, Outcome, Result};

use crate::hold::MemcachedHold;
use crate::keys::LockKeys;
use crate::local::{self, Cell};
use crate::queue::{self, Queue};
use crate::state::{Grant, Known, State};
use crate::value::{self, Owner, Value};
use crate::wire::{Change, How, Item, RAW, Reply, Request, Seconds};

/// An acquisition under way.
pub(crate) struct Contender {
    pub(crate) state: Arc<State>,
    pub(crate) acquisition: Acquisition<LockKeys>,
    pub(crate) owner: Owner,
    pub(crate) cell: Arc<Cell>,
    _underway: Underway,
}

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
    pub(crate) fn new(state: &Arc<State>, acquisition: Acquisition<LockKeys>) -> Self {
        Self {
            owner: Owner::new(acquisition.id, &state.id),
            cell: local::cell(&state.server, &acquisition.target.key),
            state: state.clone(),
            acquisition,
            _underway: state.in_flight.begin(),
        }
    }

    pub(crate) fn operation(&self) -> &str {
        &self.owner.operation
    }

    /// One round trip: what is there; and taken, if it was free.
    pub(crate) async fn step(&self, take: Take) -> Result<Step> {
        let queue = self.acquisition.target.queue.clone();
        let mut requests = vec![Request::Get(queue, Some(queue::ttl(&self.state)))];
        if take != Take::No {
            requests.push(self.store(How::Add, self.value()));
        }
        requests.extend(self.look());
        let asked = Moment::now();
        let (mut replies, sent) = match self.state.client.call(&requests).await {
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
        let is_in_turn = || seen.queue.before(self.operation(), self.acquisition.mode).is_empty();
        match take {
            Take::InTurn if is_in_turn() => self.share(seen).await,
            Take::Anyway => self.share(seen).await,
            Take::InTurn | Take::No => Ok(Step::Seen(seen)),
        }
    }

    /// Joins those who share it already; one more round trip.
    async fn share(&self, seen: Seen) -> Result<Step> {
        let (Mode::Shared, Some(item), Some(Value::Shared(owners))) =
            (self.acquisition.mode, &seen.item, &seen.value)
        else {
            return Ok(Step::Seen(seen));
        };
        let all = value::shared(owners.iter().chain([&self.owner]));
        let mut requests = vec![self.store(How::Swap(item.cas), all)];
        requests.extend(self.look());
        let asked = Moment::now();
        let (mut replies, sent) = match self.state.client.call(&requests).await {
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
        Request::store(&self.acquisition.target.key, how, RAW, self.ttl(), value)
    }

    pub(crate) fn ttl(&self) -> Seconds {
        Seconds::at_least(self.state.ttl_of(&self.acquisition.target))
    }

    fn value(&self) -> Vec<u8> {
        let member = self.state.member.as_bytes();
        match self.acquisition.mode {
            _ if self.acquisition.target.is_term => member.to_vec(),
            Mode::Exclusive => self.owner.exclusive(member),
            Mode::Shared => value::shared([&self.owner]),
        }
    }

    /// The item, and then the epoch: one that began before the grant is seen, so tokens rise.
    fn look(&self) -> [Request; 2] {
        let epoch = self.state.keys().epoch();
        [Request::get(&self.acquisition.target.key), Request::get(&epoch)]
    }

    fn has(&self, item: &Item) -> bool {
        if self.acquisition.target.is_term {
            item.value == self.state.member.as_bytes()
        } else {
            Value::read(&item.value).is_of(self.operation())
        }
    }

    async fn granted(
        &self,
        queue: Queue,
        item: Option<Item>,
        epoch: Reply,
        sent: Moment,
    ) -> Result<Step> {
        let Some(Item { cas, value, .. }) = item.filter(|item| self.has(item)) else {
            // Broken in the same moment.
            return Ok(Step::Seen(Seen::new(queue, None)));
        };
        let epoch = self.state.epoch_now(epoch.item()?).await?;
        let keys = self.acquisition.target.clone();
        let grant = Arc::new(Grant {
            id: self.acquisition.id,
            owner: self.owner.clone(),
            // Without one it is cancelled.
            token: epoch.token(cas).map_err(|error| error.outcome_is(Outcome::Unknown))?,
            lease: self.state.lease.timed_child(self.state.ttl_of(&keys), sent),
            ttl: self.ttl(),
            keys,
            known: Mutex::new(Known { cas, value, in_doubt: false }),
        });
        self.state.grants.insert(grant.id, grant.clone());
        Ok(Step::Granted(Arc::new(MemcachedHold { state: self.state.clone(), grant }), queue))
    }

    /// What a step has done whose answer was lost: the operation is in the value.
    async fn resolve(&self, error: Error, asked: Moment) -> Result<Step> {
        if self.acquisition.target.is_term {
            // The value does not say whose it is. If it is ours, it ends with its time.
            return Err(error);
        }
        let [item, epoch] = self.look();
        let requests = [Request::get(&self.acquisition.target.queue), item, epoch];
        let replies = self.state.client.call_each(requests).await;
        let [queue, item, epoch] = replies.map_err(|_| error)?;
        let queue = Queue::read(queue.item()?);
        match item.item()? {
            Some(item) if self.has(&item) => self.granted(queue, Some(item), epoch, asked).await,
            item => Ok(Step::Seen(Seen::new(queue, item))),
        }
    }
}

fn pop(replies: &mut Vec<Reply>) -> Result<Reply> {
    replies.pop().ok_or_else(Error::unexpected_answer)
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
