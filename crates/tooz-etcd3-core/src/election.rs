//! Who leads. Campaigns are locks under another name: see [`lock`](crate::lock).

use std::sync::Arc;

use tooz_core::{
    Acquisition, Elections, Error, GroupId, Hold, LeaderFeed, MemberId, Result, async_trait,
};

use crate::keys;
use crate::lock::{self, Attempt};
use crate::session::{EtcdSession, Life};
use crate::transport::{Event, Range, Txn};

#[async_trait]
impl Elections for EtcdSession {
    async fn campaign(&self, acquisition: Acquisition<GroupId>) -> Result<Option<Arc<dyn Hold>>> {
        let Acquisition { id, target: group, mode, wait: waiting, .. } = acquisition;
        keys::check_group(&group)?;
        let prize = self.0.keys().leader(&group, &self.0.member);
        lock::acquire(&self.0, Attempt { id, prize, mode, waiting }).await
    }

    async fn leader(&self, group: &GroupId) -> Result<Option<MemberId>> {
        let life = &self.0;
        keys::check_group(group)?;
        let of_group = Range::key(life.keys().group(group));
        let read = Txn::read(vec![of_group.get(), key(life, group).get()]);
        let mut reply = life.txn(&read).await?.value;
        if reply.got(0).is_empty() {
            return Err(Error::group_not_created(group));
        }
        Ok(reply.first(1).and_then(|leader| member_in(&leader.value)))
    }

    async fn watch(&self, group: &GroupId, feed: &LeaderFeed) -> Result<()> {
        let life = &self.0;
        keys::check_group(group)?;
        let mut watch = life.client.watch(key(life, group)).await?;
        let mut reply = life.txn(&Txn::read(vec![key(life, group).get()])).await?.value;
        feed.leader(reply.first(0).and_then(|leader| member_in(&leader.value)));
        loop {
            let events = watch.next().await?;
            for event in events.into_iter().filter(|event| event.revision() > reply.revision) {
                feed.leader(match event {
                    Event::Put(leader) => member_in(&leader.value),
                    Event::Deleted { .. } => None,
                });
            }
        }
    }
}

fn key(life: &Life, group: &GroupId) -> Range {
    life.keys().leader(group, &life.member).is()
}

/// The member behind the operation's 16 bytes.
fn member_in(value: &[u8]) -> Option<MemberId> {
    value.get(16..).filter(|member| !member.is_empty()).map(MemberId::from)
}
