//! Who leads. Campaigns are locks under another name: see [`lock`](crate::lock).

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use tooz_core::{Error, GroupId, LeaderFeed, MemberId, Moment, Result};

use crate::errors::odd_answer;
use crate::keys;
use crate::scripts::Script;
use crate::session::Life;
use crate::watch::Watch;

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

pub(crate) async fn leader(life: &Life, group: &GroupId) -> Result<Option<MemberId>> {
    let leader = ask(life, group).await?;
    if leader.group_exists { Ok(leader.member) } else { Err(Error::group_not_created(group)) }
}

pub(crate) async fn watch(life: &Arc<Life>, group: &GroupId, feed: &LeaderFeed) -> Result<()> {
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
