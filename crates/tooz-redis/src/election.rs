//! Who leads. Campaigns are locks under another name: see [`lock`](crate::lock).

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use tooz_core::{
    Acquisition, Elections, Error, GroupId, Hold, LeaderFeed, MemberId, Moment, Result, async_trait,
};

use crate::keys;
use crate::lock;
use crate::scripts::{self, Script};
use crate::state::State;
use crate::watch::Watch;

/// The elections of a session.
#[derive(Debug)]
pub(crate) struct RedisElections(pub(crate) Arc<State>);

#[async_trait]
impl Elections for RedisElections {
    async fn campaign(&self, acquisition: Acquisition<GroupId>) -> Result<Option<Arc<dyn Hold>>> {
        keys::check_group(&acquisition.target)?;
        let keys = self.0.keys().leader(&acquisition.target);
        lock::acquire(&self.0, acquisition.with_target(keys)).await
    }

    async fn leader(&self, group: &GroupId) -> Result<Option<MemberId>> {
        let leader = ask(&self.0, group).await?;
        if leader.group_exists { Ok(leader.member) } else { Err(Error::group_not_created(group)) }
    }

    async fn watch(&self, group: &GroupId, feed: &LeaderFeed) -> Result<()> {
        let state = &self.0;
        keys::check_group(group)?;
        let mut watch = Watch::open(state, state.keys().group_channel(group)).await?;
        loop {
            watch.mark();
            let leader = ask(state, group).await?;
            let again = match (&leader.member, leader.ttl) {
                (Some(_), Some(ttl)) => ttl + Duration::from_millis(5),
                _ => SILENT_PEER,
            };
            feed.leader(leader.member);
            watch.changed(Moment::now() + again).await;
        }
    }
}

/// How often to look at a group whose leader is a Python peer, which notifies nobody.
const SILENT_PEER: Duration = Duration::from_secs(1);

/// The content of the leader's key.
struct Leader {
    group_exists: bool,
    /// Also `None` for a leader that does not say who it is: a Python peer.
    member: Option<MemberId>,
    /// How long it leads unless it renews.
    ttl: Option<Duration>,
}

async fn ask(state: &State, group: &GroupId) -> Result<Leader> {
    keys::check_group(group)?;
    let mut all = vec![state.keys().group(group)];
    all.extend(state.keys().leader_keys(group));
    let answer = state.client.call(&Script::Leader.call(&all, [b""; 0])).await?;
    let Value::Array(parts) = answer.value else { return Err(Error::unexpected_answer()) };
    let [Value::Int(exists), Value::BulkString(value), Value::Int(ttl)] = &parts[..] else {
        return Err(Error::unexpected_answer());
    };
    Ok(Leader { group_exists: *exists == 1, member: member_in(value), ttl: scripts::ttl(*ttl) })
}

/// The member in OPERATION:NUMBER:SESSION:MEMBER.
fn member_in(value: &[u8]) -> Option<MemberId> {
    value.splitn(4, |&byte| byte == b':').nth(3).map(MemberId::from)
}
