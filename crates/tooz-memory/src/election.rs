//! Who leads. Campaigns are locks under another name: see [`lock`](crate::lock).

use std::sync::Arc;

use tooz_core::{Acquisition, Elections, GroupId, Hold, LeaderFeed, MemberId, Result, async_trait};

use crate::keys::LockKey;
use crate::lock;
use crate::state::State;

/// The elections of a session.
#[derive(Debug)]
pub(crate) struct MemoryElections(pub(crate) Arc<State>);

#[async_trait]
impl Elections for MemoryElections {
    async fn campaign(&self, acquisition: Acquisition<GroupId>) -> Result<Option<Arc<dyn Hold>>> {
        let key = LockKey::Leader(acquisition.target.clone());
        lock::acquire(&self.0, acquisition.with_target(key)).await
    }

    async fn leader(&self, group: &GroupId) -> Result<Option<MemberId>> {
        self.0.request(|store, _| store.leader(group)).await
    }

    async fn watch(&self, group: &GroupId, feed: &LeaderFeed) -> Result<()> {
        let mut changes = self.0.world.changes();
        loop {
            changes.mark_unchanged();
            // A group that does not exist has no leader, and may appear later.
            let leader = self.0.request(|store, _| Ok(store.leader(group).unwrap_or(None))).await?;
            feed.leader(leader);
            let _ = changes.changed().await;
        }
    }
}
