//! Who leads. Campaigns are locks under another name: see [`lock`](crate::lock).

use tooz_core::{GroupId, LeaderFeed, MemberId, Result};

use crate::session::MemorySession;

pub(crate) async fn leader(session: &MemorySession, group: &GroupId) -> Result<Option<MemberId>> {
    session.request(|store, _| store.leader(group)).await
}

pub(crate) async fn watch(
    session: &MemorySession,
    group: &GroupId,
    feed: &LeaderFeed,
) -> Result<()> {
    let mut changes = session.world.changes();
    loop {
        changes.mark_unchanged();
        // A group that does not exist has no leader, and may appear later.
        let leader = session.request(|store, _| Ok(store.leader(group).unwrap_or(None))).await?;
        feed.leader(leader);
        let _ = changes.changed().await;
    }
}
