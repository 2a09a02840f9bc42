//! Who leads: the first in the queue below the group, whose node says its name.

use std::sync::Arc;

use tooz_core::{
    Acquisition, Elections, Error, ErrorKind, GroupId, Hold, LeaderFeed, MemberId, Outcome, Result,
    async_trait,
};
use zookeeper_client::Error as Cause;

use crate::errors::Failure;
use crate::lock::{self, Attempt};
use crate::pool::Watch;
use crate::queue::{self, Queue};
use crate::session::{Life, ZooKeeperSession};

#[async_trait]
impl Elections for ZooKeeperSession {
    async fn campaign(&self, acquisition: Acquisition<GroupId>) -> Result<Option<Arc<dyn Hold>>> {
        let Acquisition { id, target: group, mode, wait: waiting, .. } = acquisition;
        let (queue, group) = (self.0.paths().leader(&group)?, Some(group));
        lock::acquire(&self.0, Attempt { id, queue, group, mode, waiting }).await
    }

    async fn leader(&self, group: &GroupId) -> Result<Option<MemberId>> {
        let life = &self.0;
        let (group_node, leader_node) = (life.paths().group(group)?, life.paths().leader(group)?);
        let (group_node, leader_node) = (&*group_node, &*leader_node);
        loop {
            let found = life.link.call(|client| async move {
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
            let queue = Queue::of(life, leader_node, children).await?;
            let Some(first) = queue.holders().next() else { return Ok(None) };
            let first = &*format!("{leader_node}/{first}");
            match life.link.call(|client| async move { client.get_data(first).await }).await {
                Ok(answer) => return Ok(Some(MemberId::from(answer.0))),
                // It has just left.
                Err(Failure { cause: Cause::NoNode, .. }) => {}
                Err(failure) => return Err(failure.into()),
            }
        }
    }

    /// Watches the leader's node alone; the queue only while it is empty.
    async fn watch(&self, group: &GroupId, feed: &LeaderFeed) -> Result<()> {
        let life = &self.0;
        let leader_node = life.paths().leader(group)?;
        loop {
            let (leader, watch) = look(life, &leader_node).await?;
            feed.leader(leader);
            if watch.changed().await {
                return Err(Error::new(ErrorKind::SessionLost, "the session is over")
                    .outcome_is(Outcome::NotApplied));
            }
        }
    }
}

/// Who leads, and what changes when that changes. What is gone meanwhile is looked for again.
async fn look(life: &Life, node: &str) -> Result<(Option<MemberId>, Watch)> {
    loop {
        let children = life.link.call(|client| async move {
            let (synced, children) = (client.sync(node), client.list_children(node));
            synced.await?;
            children.await
        });
        let children = match children.await {
            Ok(answer) => answer,
            Err(Failure { cause: Cause::NoNode, .. }) => {
                let exists = life
                    .watch(node, |client| async move { client.check_and_watch_stat(node).await });
                match exists.await? {
                    Some((None, watch)) => return Ok((None, watch)),
                    _ => continue,
                }
            }
            Err(failure) => return Err(failure.into()),
        };
        let queue = Queue::of(life, node, children).await?;
        if let Some(first) = queue.holders().next() {
            let first = [format!("{node}/{first}")];
            if let Some((data, _, watch)) = life.watch_data(&first).await?.pop().flatten() {
                return Ok((Some(MemberId::from(data)), watch));
            }
            continue;
        }
        let children =
            life.watch(node, |client| async move { client.list_and_watch_children(node).await });
        if let Some((children, watch)) = children.await?
            && !children.iter().any(|child| queue::is_contender(child))
        {
            return Ok((None, watch));
        }
    }
}
