//! Who leads. Campaigns are locks under another name: see [`lock`](crate::lock).

use std::sync::Arc;

use tooz_core::{
    Acquisition, Elections, Error, GroupId, Hold, LeaderFeed, MemberId, Result, async_trait,
};

use crate::keys::member_in;
use crate::lock::{self, Attempt};
use crate::session::EtcdSession;
use crate::store::{Refusal, Watched};

#[async_trait]
impl Elections for EtcdSession {
    async fn campaign(&self, acquisition: Acquisition<GroupId>) -> Result<Option<Arc<dyn Hold>>> {
        let Acquisition { id, target: group, mode, wait: waiting, .. } = acquisition;
        let prize = self.0.keys().leader(&group);
        lock::acquire(&self.0, Attempt { id, prize, mode, waiting }).await
    }

    async fn leader(&self, group: &GroupId) -> Result<Option<MemberId>> {
        let life = &self.0;
        let (mark, leader) = (life.keys().mark(group), life.keys().leader(group));
        let (mark, leader) = tokio::join!(life.store.get(&mark), life.store.get(&leader.key));
        if mark?.result.is_err() {
            return Err(Error::group_not_created(group));
        }
        Ok(leader?.result.ok().and_then(|event| member_in(&event.node.value)))
    }

    async fn watch(&self, group: &GroupId, feed: &LeaderFeed) -> Result<()> {
        let life = &self.0;
        let key = life.keys().leader(group).key;
        loop {
            let answer = life.store.get(&key).await?;
            let leader = match &answer.result {
                Ok(event) => member_in(&event.node.value),
                Err(Refusal::Missing) => None,
                Err(refusal) => return Err(crate::session::unexpected("a leader's key", *refusal)),
            };
            feed.leader(leader);
            let mut since = answer.index;
            // Each event in its turn, so that a short term is seen too.
            while let Watched::Event(event) = life.store.watch(&key, since, false).await? {
                since = event.node.modified;
                feed.leader(if event.is_end() { None } else { member_in(&event.node.value) });
            }
        }
    }
}
