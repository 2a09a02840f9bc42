//! Who leads. Campaigns are locks under another key: see [`lock`](crate::lock).

use std::sync::Arc;

use tooz_core::{
    Acquisition, Elections, Error, GroupId, Hold, LeaderFeed, MemberId, Result, async_trait,
};

use crate::lock::{self, Attempt, holder};
use crate::poll::{self, KeyWatch};
use crate::session::ConsulSession;
use crate::transaction::{Entry, Op, Outcome};

#[async_trait]
impl Elections for ConsulSession {
    async fn campaign(&self, acquisition: Acquisition<GroupId>) -> Result<Option<Arc<dyn Hold>>> {
        let Acquisition { id, target: group, mode, wait: waiting, .. } = acquisition;
        let prize = self.0.keys().leader(&group)?;
        lock::acquire(&self.0, Attempt { id, prize, mode, waiting }).await
    }

    async fn leader(&self, group: &GroupId) -> Result<Option<MemberId>> {
        let life = &self.0;
        let (own, key) = (life.keys().group(group)?, life.keys().leader(group)?.key);
        match life.api().read(&[Op::get(&own), Op::tree(&key)]).await? {
            Outcome::Done(done) => Ok(done.entry(&key).and_then(leader_of)),
            Outcome::Refused(_) => Err(Error::group_not_created(group)),
        }
    }

    async fn watch(&self, group: &GroupId, feed: &LeaderFeed) -> Result<()> {
        let life = &self.0;
        let key = life.keys().leader(group)?.key;
        let mut watch = KeyWatch::new(life.api(), &key);
        loop {
            feed.leader(watch.next(poll::wait()).await?.as_ref().and_then(leader_of));
        }
    }
}

fn leader_of(entry: &Entry) -> Option<MemberId> {
    entry.session.as_ref()?;
    holder(&entry.value).map(MemberId::from)
}
