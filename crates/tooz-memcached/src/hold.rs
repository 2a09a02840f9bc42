//! A lock or a term that is ours: its renewal and its release, which touch nothing else.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tooz_core::{
    FencingToken, Hold, Lease, Loss, Moment, OperationId, Outcome, Release, Result, async_trait,
};

use crate::errors;
use crate::keys::Prize;
use crate::life::Life;
use crate::local;
use crate::lock::Kind;
use crate::value::{Owner, Value};
use crate::wire::{Change, How, Item, RAW, Request, Seconds, Store};

pub(crate) struct MemcachedHold {
    life: Arc<Life>,
    id: OperationId,
    owner: Owner,
    prize: Prize,
    kind: Kind,
    token: FencingToken,
    lease: Lease,
    known: Mutex<Known>,
    /// Whether a release was sent whose answer was lost.
    released: AtomicBool,
}

/// The item as it was last seen.
#[derive(Clone, Debug)]
struct Known {
    cas: u64,
    value: Vec<u8>,
    /// Whether the answer to a renewal is under way or was lost, so that another CAS id may be our
    /// own doing.
    in_doubt: bool,
}

/// What came of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renewed {
    Yes,
    /// It is ours, and was changed by another shared holder or by a renewal whose answer was lost.
    Again,
    Lost,
}

/// What an acquisition got.
pub(crate) struct Grant {
    pub(crate) id: OperationId,
    pub(crate) owner: Owner,
    pub(crate) prize: Prize,
    pub(crate) kind: Kind,
    pub(crate) token: FencingToken,
    pub(crate) item: Item,
    pub(crate) sent: Moment,
}

impl MemcachedHold {
    /// Keeps what was granted, from here on renewed.
    pub(crate) fn keep(life: &Arc<Life>, grant: Grant) -> Arc<Self> {
        let Grant { id, owner, prize, kind, token, item, sent } = grant;
        let hold = Arc::new(Self {
            life: life.clone(),
            id,
            owner,
            prize,
            kind,
            token,
            lease: life.lease_of(kind, sent),
            known: Mutex::new(Known { cas: item.cas, value: item.value, in_doubt: false }),
            released: AtomicBool::new(false),
        });
        life.add_hold(&hold);
        hold
    }

    pub(crate) fn id(&self) -> OperationId {
        self.id
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing panics while it is locked, so it is whole even if poisoned.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seconds(&self) -> Seconds {
        Seconds::at_least(self.life.time_of(self.kind))
    }

    /// Whether the item is ours. A term's value is what the original writes, its member alone, so it
    /// takes the CAS id to tell it from a namesake's.
    fn is_mine(&self, item: &Item) -> bool {
        match self.kind {
            Kind::Lock => Value::read(&item.value).is_of(&self.owner.operation),
            Kind::Term => {
                let known = self.known();
                item.value == known.value && (item.cas == known.cas || known.in_doubt)
            }
        }
    }

    fn learn(&self, item: Item) {
        let mut known = self.known();
        (known.cas, known.value) = (item.cas, item.value);
    }

    // ---- Renewal.

    /// Lets the item live on as it was, and looks at it.
    pub(crate) fn renewal(&self) -> [Request; 2] {
        let Known { cas, value, .. } = {
            let mut known = self.known();
            known.in_doubt = true;
            known.clone()
        };
        let (key, how, life) = (self.prize.key.clone(), How::Swap(cas), self.seconds());
        let renew = Request::Renew(Store { key, how, flags: RAW, life, value });
        [renew, Request::get(&self.prize.key)]
    }

    /// Reads the answers to the [`renewal`](Self::renewal) of its item, by this hold or by another of
    /// the same item: whether it was written, and how it is now.
    pub(crate) fn renewed(&self, done: bool, item: Option<&Item>, sent: Moment) -> Renewed {
        let Some(item) = item.filter(|item| self.is_mine(item)) else { return Renewed::Lost };
        self.learn(item.clone());
        if !done {
            return Renewed::Again;
        }
        self.known().in_doubt = false;
        self.lease.renewed(sent);
        Renewed::Yes
    }

    /// The key of its item, and the CAS id by which it is known: the higher, the later.
    pub(crate) fn item(&self) -> (&[u8], u64) {
        (&self.prize.key, self.known().cas)
    }

    pub(crate) fn lose(&self) {
        self.lease.lose(Loss::Taken);
        self.life.remove_hold(self.id);
        // Whoever waits in this process need not wait until it looks again.
        local::changed(&self.life.server, &self.prize.key);
    }

    // ---- Release.

    /// What gives it back, if the item is as it was last seen.
    fn removal(&self) -> Request {
        let Known { cas, value, .. } = self.known().clone();
        let item = (&self.prize.key[..], cas);
        Value::read(&value).without(|owner| *owner == self.owner, item, self.seconds())
    }

    async fn give_back(&self) -> Result<Release> {
        loop {
            let (mut replies, _) = match self.life.link.call(&[self.removal()]).await {
                Err(error) if error.outcome() == Outcome::Unknown => {
                    // The next look tells.
                    self.released.store(true, Relaxed);
                    match self.look().await? {
                        Some(item) if self.is_mine(&item) => self.learn(item),
                        _ => return Ok(self.gone()),
                    }
                    continue;
                }
                answer => answer?,
            };
            match replies.pop().ok_or_else(errors::odd_answer)?.change()? {
                Change::Done => return Ok(Release::Released),
                Change::Missing => return Ok(self.gone()),
                Change::Refused => match self.look().await? {
                    Some(item) if self.is_mine(&item) => self.learn(item),
                    _ => return Ok(self.gone()),
                },
            }
        }
    }

    /// What a later try finds gone, the first one gave back, whose answer was lost.
    fn gone(&self) -> Release {
        if self.released.load(Relaxed) { Release::Released } else { Release::WasLost }
    }

    async fn look(&self) -> Result<Option<Item>> {
        self.life.link.ask(Request::get(&self.prize.key)).await?.0.item()
    }
}

#[async_trait]
impl Hold for MemcachedHold {
    fn token(&self) -> FencingToken {
        self.token
    }

    fn lease(&self) -> &Lease {
        &self.lease
    }

    async fn verify(&self) -> Result<bool> {
        Ok(self.look().await?.is_some_and(|item| self.is_mine(&item)))
    }

    async fn release(&self) -> Result<Release> {
        self.life.remove_hold(self.id);
        let released = self.give_back().await?;
        local::changed(&self.life.server, &self.prize.key);
        Ok(released)
    }
}

impl std::fmt::Debug for MemcachedHold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemcachedHold")
            .field("id", &self.id)
            .field("token", &self.token)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}
