//! Who leads. Campaigns are locks whose value is the member: see [`lock`](crate::lock).

use std::sync::Arc;

use tooz_core::{
    Acquisition, Elections, Error, GroupId, Hold, LeaderFeed, MemberId, Result, async_trait,
};

use crate::local;
use crate::lock;
use crate::roster::Roster;
use crate::state::State;
use crate::wire::Request;

/// The elections of a session.
#[derive(Debug)]
pub(crate) struct MemcachedElections(pub(crate) Arc<State>);

#[async_trait]
impl Elections for MemcachedElections {
    async fn campaign(&self, acquisition: Acquisition<GroupId>) -> Result<Option<Arc<dyn Hold>>> {
        let keys = self.0.keys().leader(&acquisition.target)?;
        lock::acquire(&self.0, acquisition.with_target(keys)).await
    }

    async fn leader(&self, group: &GroupId) -> Result<Option<MemberId>> {
        let state = &self.0;
        let (key, leader) = (state.keys().group(group)?, state.keys().leader(group)?.key);
        let requests = [Request::get(&key), Request::get(&leader)];
        let [item, leader] = state.client.call_each(requests).await?;
        if Roster::of(item.item()?.as_ref())?.is_none() {
            return Err(Error::group_not_created(group));
        }
        Ok(leader.item()?.map(|item| MemberId::from(item.value)))
    }

    async fn watch(&self, group: &GroupId, feed: &LeaderFeed) -> Result<()> {
        let state = &self.0;
        let key = state.keys().leader(group)?.key;
        let cell = local::cell(&state.server, &key);
        loop {
            let changes = cell.changes();
            let item = state.client.get(&key).await?;
            feed.leader(item.map(|item| MemberId::from(item.value)));
            local::next_look(changes).await;
        }
    }
}
