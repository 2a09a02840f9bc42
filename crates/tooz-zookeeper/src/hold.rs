//! A lock or a term that is ours.

use std::sync::Arc;

use tooz_core::{
    Error, ErrorKind, FencingToken, Hold, Lease, Outcome, Release, Result, async_trait,
};
use zookeeper_client::Error as Cause;

use crate::client::SessionClient;
use crate::errors::Failure;
use crate::state::State;

#[derive(Debug)]
pub(crate) struct ZooKeeperHold {
    pub(crate) state: Arc<State>,
    /// The node in the queue.
    pub(crate) path: String,
    pub(crate) token: FencingToken,
    pub(crate) lease: Lease,
}

#[async_trait]
impl Hold for ZooKeeperHold {
    fn token(&self) -> FencingToken {
        self.token
    }

    fn lease(&self) -> &Lease {
        &self.lease
    }

    async fn verify(&self) -> Result<bool> {
        let stat = self.state.client.synced_stat(&self.path).await?;
        Ok(stat.is_some_and(|stat| self.state.owns(&stat)))
    }

    async fn release(&self) -> Result<Release> {
        if self.state.lease.loss().is_some() {
            return Err(Error::new(ErrorKind::SessionLost, "the session is over")
                .outcome_is(Outcome::NotApplied));
        }
        let released = delete(&self.state.client, &self.path).await?;
        Ok(if released { Release::Released } else { Release::WasLost })
    }
}

/// Deletes an entry of a queue; whether it was there. After a lost reply the first request has
/// deleted it.
pub(crate) async fn delete(client: &SessionClient, path: &str) -> Result<bool> {
    match client.delete(path, None).await {
        Ok(()) | Err(Failure { cause: Cause::NoNode, again: true }) => Ok(true),
        Err(Failure { cause: Cause::NoNode, .. }) => Ok(false),
        Err(failure) => Err(failure.into()),
    }
}
