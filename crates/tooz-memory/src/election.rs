//! Who leads. Campaigns are locks under another name: see [`lock`](crate::lock).

use std::sync::Arc;

use tooz_core::{Acquisition, Elections, GroupId, Hold, LeaderFeed, MemberId, Result, async_trait};

use crate::lock;
use crate::session::MemorySession;
use crate::store::Prize;

#[async_trait]
impl Elections for MemorySession {
    async fn campaign(&self, acquisition: Acquisition<GroupId>) -> Result<Option<Arc<dyn Hold>>> {
        let prize = Prize::Leader(acquisition.target.clone());
        lock::acquire(self, acquisition.with_target(prize)).await
    }

    async fn leader(&self, group: &GroupId) -> Result<Option<MemberId>> {
        self.request(|store, _| store.leader(group)).await
    }

    async fn watch(&self, group: &GroupId, feed: &LeaderFeed) -> Result<()> {
        let mut changes = self.world.changes();
        loop {
            changes.mark_unchanged();
            // A group that does not exist has no leader, and may appear later.
            let leader = self.request(|store, _| Ok(store.leader(group).unwrap_or(None))).await?;
            feed.leader(leader);
            let _ = changes.changed().await;
        }
    }
}
