//! Who leads. Campaigns are locks under another name: see [`lock`](crate::lock).

use tooz_core::{Error, GroupId, LeaderFeed, MemberId, Result};

use crate::keys::member_in;
use crate::session::Life;
use crate::store::{Refusal, Watched};

pub(crate) async fn leader(life: &Life, group: &GroupId) -> Result<Option<MemberId>> {
    let (mark, leader) = (life.keys().mark(group), life.keys().leader(group));
    let (mark, leader) = tokio::join!(life.store.get(&mark), life.store.get(&leader.key));
    if mark?.result.is_err() {
        return Err(Error::group_not_created(group));
    }
    Ok(leader?.result.ok().and_then(|event| member_in(&event.node.value)))
}

pub(crate) async fn watch(life: &Life, group: &GroupId, feed: &LeaderFeed) -> Result<()> {
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
