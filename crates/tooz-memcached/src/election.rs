//! Who leads. Campaigns are locks whose value is the member: see [`lock`](crate::lock).

use std::sync::Arc;

use tooz_core::{
    Acquisition, Elections, Error, GroupId, Hold, LeaderFeed, MemberId, Result, async_trait,
};

use crate::errors;
use crate::lock::{self, Attempt, Kind};
use crate::roster::Roster;
use crate::session::MemcachedSession;
use crate::wire::Request;

#[async_trait]
impl Elections for MemcachedSession {
    async fn campaign(&self, acquisition: Acquisition<GroupId>) -> Result<Option<Arc<dyn Hold>>> {
        let Acquisition { id, target: group, mode, wait: waiting, .. } = acquisition;
        let (prize, kind) = (self.0.keys().leader(&group)?, Kind::Term);
        lock::acquire(&self.0, Attempt { id, prize, kind, mode, waiting }).await
    }

    async fn leader(&self, group: &GroupId) -> Result<Option<MemberId>> {
        let life = &self.0;
        let (key, leader) = (life.keys().group(group)?, life.keys().leader(group)?.key);
        let (mut replies, _) = life.link.call(&[Request::get(&key), Request::get(&leader)]).await?;
        let (leader, item) = (replies.pop(), replies.pop());
        let item = item.ok_or_else(errors::odd_answer)?.item()?;
        if item.as_ref().map(Roster::read).transpose()?.flatten().is_none() {
            return Err(Error::group_not_created(group));
        }
        let leader = leader.ok_or_else(errors::odd_answer)?.item()?;
        Ok(leader.map(|item| MemberId::from(item.value)))
    }

    async fn watch(&self, group: &GroupId, feed: &LeaderFeed) -> Result<()> {
        crate::watch::leader(&self.0, group, feed).await
    }
}
