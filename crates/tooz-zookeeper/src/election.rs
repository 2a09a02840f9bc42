//! Who leads: the first in the queue below the group, whose node says its name.

use std::sync::Arc;

use tooz_core::{
    Acquisition, Elections, Error, GroupId, Hold, LeaderFeed, MemberId, Result, async_trait,
};
use zookeeper_client::Error as Cause;

use crate::errors::Failure;
use crate::keys;
use crate::pool::Watch;
use crate::queue::{self, Queue};
use crate::state::State;
use crate::watch::session_over;

/// The elections of a session.
#[derive(Debug)]
pub(crate) struct ZooKeeperElections(pub(crate) Arc<State>);

#[async_trait]
impl Elections for ZooKeeperElections {
    async fn campaign(&self, acquisition: Acquisition<GroupId>) -> Result<Option<Arc<dyn Hold>>> {
        let leadership = self.0.keys().leader(&acquisition.target)?;
        queue::acquire(&self.0, acquisition.with_target(leadership)).await
    }

    async fn leader(&self, group: &GroupId) -> Result<Option<MemberId>> {
        let State { client, config, .. } = &*self.0;
        let group_node = &*config.keys.group(group)?;
        let leader_node = &*config.keys.leader(group)?.queue;
        loop {
            let found = client.call(|client| async move {
                let synced = client.sync(group_node);
                let exists = client.check_stat(group_node);
                let children = client.list_children(leader_node);
                synced.await?;
                Ok((exists.await?, children.await))
            });
            let children = match found.await? {
                (None, _) => return Err(Error::group_not_created(group)),
                (_, Err(Cause::NoNode)) => return Ok(None),
                (_, children) => children.map_err(|cause| Failure { cause, again: false })?,
            };
            let queue = Queue::of(client, leader_node, children).await?;
            let Some(first) = queue.holders().next() else { return Ok(None) };
            match client.data(&format!("{leader_node}/{first}")).await {
                Ok((leader, _)) => return Ok(Some(MemberId::from(leader))),
                // It has just left.
                Err(Failure { cause: Cause::NoNode, .. }) => {}
                Err(failure) => return Err(failure.into()),
            }
        }
    }

    /// Watches the leader's node alone; the queue only while it is empty.
    async fn watch(&self, group: &GroupId, feed: &LeaderFeed) -> Result<()> {
        let leader_node = self.0.keys().leader(group)?.queue;
        loop {
            let (leader, watch) = look(&self.0, &leader_node).await?;
            feed.leader(leader);
            if watch.changed().await {
                return Err(session_over());
            }
        }
    }
}

/// Who leads, and what changes when that changes. What is gone meanwhile is looked for again.
async fn look(state: &State, node: &str) -> Result<(Option<MemberId>, Watch)> {
    let State { client, pool, .. } = state;
    loop {
        let children = match client.synced_children(node).await {
            Err(Failure { cause: Cause::NoNode, .. }) => {
                let exists = pool
                    .watch(node, |client| async move { client.check_and_watch_stat(node).await });
                match exists.await? {
                    Some((None, watch)) => return Ok((None, watch)),
                    _ => continue,
                }
            }
            children => children?,
        };
        let queue = Queue::of(client, node, children).await?;
        if let Some(first) = queue.holders().next() {
            let first = [format!("{node}/{first}")];
            if let Some((data, _, watch)) = pool.watch_data(&first).await?.pop().flatten() {
                return Ok((Some(MemberId::from(data)), watch));
            }
            continue;
        }
        let children =
            pool.watch(node, |client| async move { client.list_and_watch_children(node).await });
        if let Some((children, watch)) = children.await?
            && !children.iter().any(|child| keys::is_entry(child))
        {
            return Ok((None, watch));
        }
    }
}
