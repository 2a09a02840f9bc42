//! Who leads. Campaigns are locks under another name: see [`lock`](crate::lock).

use std::sync::Arc;

use tooz_core::{
    Acquisition, Elections, Error, GroupId, Hold, LeaderFeed, MemberId, Result, async_trait,
};

use crate::link::bytes;
use crate::lock::{self, Attempt};
use crate::names;
use crate::session::{Life, MySqlSession};

#[async_trait]
impl Elections for MySqlSession {
    async fn campaign(&self, acquisition: Acquisition<GroupId>) -> Result<Option<Arc<dyn Hold>>> {
        let Acquisition { id, target: group, mode, wait: waiting, .. } = acquisition;
        names::check_group(&group)?;
        let prize = self.0.config.names.term(&group);
        lock::acquire(&self.0, Attempt { id, prize, mode, waiting }).await
    }

    async fn leader(&self, group: &GroupId) -> Result<Option<MemberId>> {
        let life = &self.0;
        ask(life, group).await?.ok_or_else(|| Error::group_not_created(group))
    }

    async fn watch(&self, group: &GroupId, feed: &LeaderFeed) -> Result<()> {
        let life = &self.0;
        loop {
            feed.leader(ask(life, group).await?.flatten());
            tokio::time::sleep(life.config.poll_interval).await;
        }
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
