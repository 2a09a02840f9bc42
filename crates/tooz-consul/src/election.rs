//! Who leads. Campaigns are locks under another key: see [`lock`](crate::lock).

use tooz_core::{Error, GroupId, LeaderFeed, MemberId, Result};

use crate::lock::holder;
use crate::poll::{self, KeyWatch};
use crate::session::Life;
use crate::transaction::{Entry, Op, Outcome};

pub(crate) async fn leader(life: &Life, group: &GroupId) -> Result<Option<MemberId>> {
    let (own, key) = (life.keys().group(group)?, life.keys().leader(group)?.key);
    match life.api().read(&[Op::get(&own), Op::tree(&key)]).await? {
        Outcome::Done(done) => Ok(done.entry(&key).and_then(leader_of)),
        Outcome::Refused(_) => Err(Error::group_not_created(group)),
    }
}

fn leader_of(entry: &Entry) -> Option<MemberId> {
    entry.session.as_ref()?;
    holder(&entry.value).map(MemberId::from)
}

pub(crate) async fn watch(life: &Life, group: &GroupId, feed: &LeaderFeed) -> Result<()> {
    let key = life.keys().leader(group)?.key;
    let mut watch = KeyWatch::new(life.api(), &key);
    loop {
        feed.leader(watch.next(poll::wait()).await?.as_ref().and_then(leader_of));
    }
}
