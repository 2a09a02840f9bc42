//! Who leads. Campaigns are acquisitions of a lock under another name: see [`queue`].

use std::sync::Arc;

use tooz_core::{
    Acquisition, Elections, Error, GroupId, Hold, LeaderFeed, MemberId, Result, async_trait,
};

use crate::keys;
use crate::queue;
use crate::state::State;
use crate::txn::{Event, KeyValue, Txn};

/// The elections of a session.
#[derive(Debug)]
pub(crate) struct EtcdElections(pub(crate) Arc<State>);

#[async_trait]
impl Elections for EtcdElections {
    async fn campaign(&self, acquisition: Acquisition<GroupId>) -> Result<Option<Arc<dyn Hold>>> {
        keys::check_group(&acquisition.target)?;
        let term = self.0.keys().leader(&acquisition.target, &self.0.member);
        queue::acquire(&self.0, acquisition.with_target(term)).await
    }

    async fn leader(&self, group: &GroupId) -> Result<Option<MemberId>> {
        let state = &self.0;
        keys::check_group(group)?;
        let keys = [state.keys().group(group), state.keys().leader(group, &state.member).key];
        match state.client.read(keys).await? {
            [None, _] => Err(Error::group_not_created(group)),
            [Some(_), term] => Ok(term.and_then(leader_in)),
        }
    }

    async fn watch(&self, group: &GroupId, feed: &LeaderFeed) -> Result<()> {
        let state = &self.0;
        keys::check_group(group)?;
        let term = state.keys().leader(group, &state.member).lock();
        // First the watch: what happens after the reading is among its events.
        let mut watch = state.client.watch(term.clone()).await?;
        let reply = state.txn(&Txn::of(vec![term.get()])).await?.value;
        let read_at = reply.revision;
        let [present] = reply.keys();
        feed.leader(present.and_then(leader_in));
        loop {
            let events = watch.next().await?;
            for event in events.into_iter().filter(|event| event.revision() > read_at) {
                feed.leader(match event {
                    Event::Put(term) => leader_in(term),
                    Event::Deleted { .. } => None,
                });
            }
        }
    }
}

/// The member behind the operation's 16 bytes.
fn leader_in(term: KeyValue) -> Option<MemberId> {
    term.value.get(16..).filter(|member| !member.is_empty()).map(MemberId::from)
}
