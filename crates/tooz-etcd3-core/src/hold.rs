//! A lock or a term that is ours.

use std::sync::Arc;

use tooz_core::{FencingToken, Hold, Lease, Release, Result, async_trait};
use tracing::debug;

use crate::state::{Grant, State};
use crate::txn::{Range, Txn};

#[derive(Debug)]
pub(crate) struct EtcdHold {
    pub(crate) state: Arc<State>,
    pub(crate) grant: Arc<Grant>,
}

#[async_trait]
impl Hold for EtcdHold {
    fn token(&self) -> FencingToken {
        self.grant.token
    }

    fn lease(&self) -> &Lease {
        &self.grant.lease
    }

    async fn verify(&self) -> Result<bool> {
        let ours = Range::key(self.grant.key()).get();
        let txn = Txn::when(vec![self.grant.has_its_value()], vec![ours]);
        let [found] = self.state.client.txn(&txn).await?.value.keys();
        Ok(found.is_some())
    }

    async fn release(&self) -> Result<Release> {
        // Known while the request is under way, so that no heartbeat takes it for a remnant.
        self.state.operations.insert(self.grant.id, ());
        self.state.grants.remove(&self.grant.id);
        let was_ours = match self.grant.readers_lease {
            None => self.release_exclusive().await,
            Some(readers_lease) => self.release_shared(readers_lease).await,
        };
        self.state.operations.remove(&self.grant.id);
        Ok(if was_ours? { Release::Released } else { Release::WasLost })
    }
}

/// What is gone when a release is repeated was released by the request whose answer was lost: it was
/// ours then, whatever the session's lease says.
impl EtcdHold {
    /// Releases it if it is ours; whether it was.
    async fn release_exclusive(&self) -> Result<bool> {
        let delete = self.grant.keys.lock().delete();
        let txn = Txn::when(vec![self.grant.has_its_value()], vec![delete]);
        let answer = self.state.client.txn(&txn).await?;
        Ok(answer.value.succeeded || answer.again)
    }

    /// The same. The last of the readers takes the lock along.
    async fn release_shared(&self, readers_lease: i64) -> Result<bool> {
        let keys = &self.grant.keys;
        let reader = keys.reader(self.grant.id);
        let mut when = vec![self.grant.has_its_value()];
        when.extend(keys.other_readers(&reader).map(Range::absent));
        let leave = Range::key(reader).delete();
        let then = vec![leave.clone(), keys.lock().delete()];
        let txn = Txn { when, then, or: vec![leave, keys.lock().get()] };
        let answer = self.state.client.txn(&txn).await?;
        let (again, was_there) = (answer.again, answer.value.deleted() > 0);
        if answer.value.succeeded {
            // Without it the lease would end by itself, only later.
            if let Err(error) = self.state.client.revoke(readers_lease).await {
                debug!(%error, "a lease is left to expire");
            }
            return Ok(was_there || again);
        }
        let [lock] = answer.value.keys();
        Ok(again || was_there && lock.is_some_and(|lock| lock.value == self.grant.value()))
    }
}
