//! Who leads. Campaigns are locks under another name: see [`lock`](crate::lock).

use std::sync::Arc;

use tooz_core::{
    Acquisition, Elections, Error, GroupId, Hold, LeaderFeed, MemberId, Result, async_trait,
};

use crate::client::Watched;
use crate::errors::{Refusal, unexpected};
use crate::keys::member_in;
use crate::lock;
use crate::state::State;

/// The elections of a session.
#[derive(Debug)]
pub(crate) struct EtcdElections(pub(crate) Arc<State>);

#[async_trait]
impl Elections for EtcdElections {
    async fn campaign(&self, acquisition: Acquisition<GroupId>) -> Result<Option<Arc<dyn Hold>>> {
        let keys = self.0.keys().leader(&acquisition.target);
        lock::acquire(&self.0, acquisition.with_target(keys)).await
    }

    async fn leader(&self, group: &GroupId) -> Result<Option<MemberId>> {
        let (client, keys) = (&self.0.client, self.0.keys());
        let (mark, leader) = (keys.mark(group), keys.leader(group).key);
        let (mark, leader) = tokio::join!(client.get(&mark), client.get(&leader));
        if mark?.result.is_err() {
            return Err(Error::group_not_created(group));
        }
        Ok(leader?.result.ok().and_then(|event| member_in(&event.node.value)))
    }

    async fn watch(&self, group: &GroupId, feed: &LeaderFeed) -> Result<()> {
        let (client, key) = (&self.0.client, self.0.keys().leader(group).key);
        loop {
            let answer = client.get(&key).await?;
            let leader = match &answer.result {
                Ok(event) => member_in(&event.node.value),
                Err(Refusal::Missing) => None,
                Err(refusal) => return Err(unexpected("a leader's key", *refusal)),
            };
            feed.leader(leader);
            let mut since = answer.index;
            // Each event in its turn, so that a short term is seen too.
            while let Watched::Event(event) = client.watch(&key, since, false).await? {
                since = event.node.modified;
                feed.leader(if event.is_end() { None } else { member_in(&event.node.value) });
            }
        }
    }
}
