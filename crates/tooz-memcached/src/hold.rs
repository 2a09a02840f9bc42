//! A lock or a term that is ours: its renewal and its release, which touch nothing else.

use std::fmt;
use std::sync::Arc;

use tooz_core::kit::locked;
use tooz_core::{FencingToken, Hold, Lease, Moment, Outcome, Release, Result, async_trait};

use crate::local;
use crate::state::{Grant, Known, State};
use crate::value::Value;
use crate::wire::{Change, How, Item, RAW, Request, Store};

pub(crate) struct MemcachedHold {
    pub(crate) state: Arc<State>,
    pub(crate) grant: Arc<Grant>,
}

/// What came of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renewed {
    Yes,
    /// It is ours, and was changed by another shared holder or by a renewal whose answer was lost.
    Again,
    Lost,
}

impl Grant {
    /// Whether the item is ours. A term's value is what the original writes, its member alone, so it
    /// takes the CAS id to tell it from a namesake's.
    fn is_mine(&self, item: &Item) -> bool {
        if self.keys.is_term {
            let known = locked(&self.known);
            item.value == known.value && (item.cas == known.cas || known.in_doubt)
        } else {
            Value::read(&item.value).is_of(&self.owner.operation)
        }
    }

    fn learn(&self, item: Item) {
        let mut known = locked(&self.known);
        (known.cas, known.value) = (item.cas, item.value);
    }

    /// Lets the item live on as it was, and looks at it.
    pub(crate) fn renewal(&self) -> [Request; 2] {
        let Known { cas, value, .. } = {
            let mut known = locked(&self.known);
            known.in_doubt = true;
            known.clone()
        };
        let (key, how, ttl) = (self.keys.key.clone(), How::Swap(cas), self.ttl);
        let renew = Request::Renew(Store { key, how, flags: RAW, ttl, value });
        [renew, Request::get(&self.keys.key)]
    }

    /// Reads the answers to the [`renewal`](Self::renewal) of its item, by this grant or by another of
    /// the same item: whether it was written, and how it is now.
    pub(crate) fn renewed(&self, done: bool, item: Option<&Item>, sent: Moment) -> Renewed {
        let Some(item) = item.filter(|item| self.is_mine(item)) else { return Renewed::Lost };
        self.learn(item.clone());
        if !done {
            return Renewed::Again;
        }
        locked(&self.known).in_doubt = false;
        self.lease.renewed(sent);
        Renewed::Yes
    }

    /// What releases it, if the item is as it was last seen.
    fn removal(&self) -> Request {
        let Known { cas, value, .. } = locked(&self.known).clone();
        let item = (&self.keys.key[..], cas);
        Value::read(&value).without(|owner| *owner == self.owner, item, self.ttl)
    }
}

impl MemcachedHold {
    async fn look(&self) -> Result<Option<Item>> {
        self.state.client.get(&self.grant.keys.key).await
    }

    /// Removes it from the item, however often that is changed by others.
    async fn remove(&self) -> Result<Release> {
        let grant = &self.grant;
        // Of a change whose answer was lost: what is gone then was released by it.
        let mut unheard = false;
        let gone = |unheard| if unheard { Release::Released } else { Release::WasLost };
        loop {
            match self.state.client.change(grant.removal()).await {
                Ok(Change::Done) => return Ok(Release::Released),
                Ok(Change::Missing) => return Ok(gone(unheard)),
                Ok(Change::Refused) => {}
                // The next look tells.
                Err(error) if error.outcome() == Outcome::Unknown => unheard = true,
                Err(error) => return Err(error),
            }
            match self.look().await {
                Ok(Some(item)) if grant.is_mine(&item) => grant.learn(item),
                Ok(_) => return Ok(gone(unheard)),
                Err(error) if unheard => return Err(error.outcome_is(Outcome::Unknown)),
                Err(error) => return Err(error),
            }
        }
    }
}

#[async_trait]
impl Hold for MemcachedHold {
    fn token(&self) -> FencingToken {
        self.grant.token
    }

    fn lease(&self) -> &Lease {
        &self.grant.lease
    }

    async fn verify(&self) -> Result<bool> {
        Ok(self.look().await?.is_some_and(|item| self.grant.is_mine(&item)))
    }

    async fn release(&self) -> Result<Release> {
        self.state.grants.remove(&self.grant.id);
        let released = self.remove().await?;
        local::changed(&self.state.server, &self.grant.keys.key);
        Ok(released)
    }
}

impl fmt::Debug for MemcachedHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemcachedHold")
            .field("id", &self.grant.id)
            .field("token", &self.grant.token)
            .field("lease", &self.grant.lease)
            .finish_non_exhaustive()
    }
}
