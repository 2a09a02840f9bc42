//! Who leads. Campaigns are locks under another key: see [`lock`](crate::lock).

use std::sync::Arc;

use tooz_core::{
    Acquisition, Elections, Error, GroupId, Hold, LeaderFeed, MemberId, Result, async_trait,
};

use crate::keys::holder_in;
use crate::lock;
use crate::poll::wait;
use crate::state::State;
use crate::transaction::{Entry, Op, Outcome};
use crate::watch::KeyWatch;

/// The elections of a session.
#[derive(Debug)]
pub(crate) struct ConsulElections(pub(crate) Arc<State>);

#[async_trait]
impl Elections for ConsulElections {
    async fn campaign(&self, acquisition: Acquisition<GroupId>) -> Result<Option<Arc<dyn Hold>>> {
        let keys = self.0.keys().leader(&acquisition.target)?;
        lock::acquire(&self.0, acquisition.with_target(keys)).await
    }

    async fn leader(&self, group: &GroupId) -> Result<Option<MemberId>> {
        let state = &self.0;
        let (own, key) = (state.keys().group(group)?, state.keys().leader(group)?.key);
        match state.client.read(&[Op::get(&own), Op::tree(&key)]).await? {
            Outcome::Done(done) => Ok(done.entry(&key).and_then(leader_of)),
            Outcome::Refused(_) => Err(Error::group_not_created(group)),
        }
    }

    async fn watch(&self, group: &GroupId, feed: &LeaderFeed) -> Result<()> {
        let key = self.0.keys().leader(group)?.key;
        let mut watch = KeyWatch::new(&self.0.poller, &key);
        loop {
            feed.leader(watch.next(wait()).await?.as_ref().and_then(leader_of));
        }
    }
}

fn leader_of(entry: &Entry) -> Option<MemberId> {
    entry.session.as_ref()?;
    holder_in(&entry.value)
}
