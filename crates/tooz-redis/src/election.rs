//! Who leads. Campaigns are locks under another name: see [`lock`](crate::lock).

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use tooz_core::{
    Acquisition, Elections, Error, GroupId, Hold, LeaderFeed, MemberId, Moment, Result, async_trait,
};

use crate::errors::odd_answer;
use crate::keys;
use crate::lock::{self, Attempt};
use crate::scripts::Script;
use crate::session::{Life, RedisSession};
use crate::watch::Watch;

#[async_trait]
impl Elections for RedisSession {
    async fn campaign(&self, acquisition: Acquisition<GroupId>) -> Result<Option<Arc<dyn Hold>>> {
        let Acquisition { id, target: group, mode, wait: waiting, .. } = acquisition;
        keys::check_group(&group)?;
        let prize = self.0.keys().leader(&group);
        lock::acquire(&self.0, Attempt { id, prize, mode, waiting }).await
    }

    async fn leader(&self, group: &GroupId) -> Result<Option<MemberId>> {
        let life = &self.0;
        let leader = ask(life, group).await?;
        if leader.group_exists { Ok(leader.member) } else { Err(Error::group_not_created(group)) }
    }

    async fn watch(&self, group: &GroupId, feed: &LeaderFeed) -> Result<()> {
        let life = &self.0;
        keys::check_group(group)?;
        let mut watch = Watch::open(life, life.keys().group_channel(group)).await?;
        loop {
            watch.mark();
            let leader = ask(life, group).await?;
            let again = match (&leader.member, leader.life) {
                (Some(_), Some(life)) => life + Duration::from_millis(5),
                _ => SILENT_PEER,
            };
            feed.leader(leader.member);
            watch.changed(Moment::now() + again).await;
        }
    }
}

/// How often a group is looked at whose leader is a peer of another kind, which tells nobody.
const SILENT_PEER: Duration = Duration::from_secs(1);

/// What the leader's key says.
struct Leader {
    group_exists: bool,
    /// `None` as well for a leader that does not say who it is: a peer of another kind.
    member: Option<MemberId>,
    /// How long it leads unless it renews.
    life: Option<Duration>,
}

async fn ask(life: &Life, group: &GroupId) -> Result<Leader> {
    keys::check_group(group)?;
    let mut all = vec![life.keys().group(group)];
    all.extend(life.keys().leader_keys(group));
    let answer = life.link.call(&Script::Leader.call(&all, [b""; 0])).await?;
    match answer.value {
        Value::Array(parts) => match &parts[..] {
            [Value::Int(exists), Value::BulkString(value), Value::Int(life)] => Ok(Leader {
                group_exists: *exists == 1,
                member: member_in(value),
                life: u64::try_from(*life).ok().map(Duration::from_millis),
            }),
            _ => Err(odd_answer()),
        },
        _ => Err(odd_answer()),
    }
}

/// The member in OPERATION:NUMBER:SESSION:MEMBER.
fn member_in(value: &[u8]) -> Option<MemberId> {
    value.splitn(4, |&byte| byte == b':').nth(3).map(MemberId::from)
}
