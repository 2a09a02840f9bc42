use std::sync::Arc;

use tooz_core::{Acquisition, Hold, LockName, Locks, Result, async_trait};
use zookeeper_client::Error as Cause;

use crate::errors::Failure;
use crate::hold;
use crate::queue::{self, Queue};
use crate::state::State;

/// The locks of a session.
#[derive(Debug)]
pub(crate) struct ZooKeeperLocks(pub(crate) Arc<State>);

#[async_trait]
impl Locks for ZooKeeperLocks {
    async fn acquire(&self, acquisition: Acquisition<LockName>) -> Result<Option<Arc<dyn Hold>>> {
        let lock = self.0.keys().lock(&acquisition.target)?;
        queue::acquire(&self.0, acquisition.with_target(lock)).await
    }

    async fn break_lock(&self, name: &LockName) -> Result<bool> {
        let (client, queue) = (&self.0.client, self.0.keys().lock(name)?.queue);
        let children = match client.synced_children(&queue).await {
            Err(Failure { cause: Cause::NoNode, .. }) => return Ok(false),
            children => children?,
        };
        let mut broken = false;
        for holder in Queue::of(client, &queue, children).await?.holders() {
            broken |= hold::delete(client, &format!("{queue}/{holder}")).await?;
        }
        Ok(broken)
    }
}
