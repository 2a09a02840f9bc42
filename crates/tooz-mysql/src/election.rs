//! Who leads. Campaigns are locks under another name: see [`lock`](crate::lock).

use tooz_core::{Error, GroupId, LeaderFeed, MemberId, Result};

use crate::link::bytes;
use crate::names;
use crate::session::Life;

pub(crate) async fn leader(life: &Life, group: &GroupId) -> Result<Option<MemberId>> {
    ask(life, group).await?.ok_or_else(|| Error::group_not_created(group))
}

pub(crate) async fn watch(life: &Life, group: &GroupId, feed: &LeaderFeed) -> Result<()> {
    loop {
        feed.leader(ask(life, group).await?.flatten());
        tokio::time::sleep(life.config.poll_interval).await;
    }
}

/// Who leads the group, if the group exists: who was given the last token, if it holds the lock.
async fn ask(life: &Life, group: &GroupId) -> Result<Option<Option<MemberId>>> {
    names::check_group(group)?;
    let name = life.config.names.term(group).sql();
    let sql = format!(
        "SELECT t.member_id FROM {} g LEFT JOIN {} t ON t.name={name} \
         AND IS_USED_LOCK({name})<=>t.connection{} WHERE g.id={}",
        life.table("group"),
        life.table("token"),
        // Who waits for the end of a delay has the lock, and does not lead yet.
        match life.config.lock_delay.is_zero() {
            true => String::new(),
            false => format!(
                " AND EXISTS(SELECT 1 FROM {} h WHERE h.operation=t.operation)",
                life.table("hold")
            ),
        },
        names::literal(group.as_bytes()),
    );
    let rows = life.ask(sql).await?;
    Ok(rows.first().map(|row| bytes(row, 0).map(MemberId::from)))
}
