//! Who leads. Campaigns are locks under another name: see [`lock`](crate::lock).

use std::sync::Arc;

use tooz_core::{
    Acquisition, Elections, Error, GroupId, Hold, LeaderFeed, MemberId, Result, async_trait,
};

use crate::connection::bytes;
use crate::keys;
use crate::lock::MySqlLocks;
use crate::state::State;

/// The elections of a session.
#[derive(Debug)]
pub(crate) struct MySqlElections(pub(crate) Arc<State>);

#[async_trait]
impl Elections for MySqlElections {
    async fn campaign(&self, acquisition: Acquisition<GroupId>) -> Result<Option<Arc<dyn Hold>>> {
        keys::check_group(&acquisition.target)?;
        let keys = self.0.config.keys.term(&acquisition.target);
        MySqlLocks(self.0.clone()).acquire_keys(acquisition.with_target(keys)).await
    }

    async fn leader(&self, group: &GroupId) -> Result<Option<MemberId>> {
        read(&self.0, group).await?.ok_or_else(|| Error::group_not_created(group))
    }

    async fn watch(&self, group: &GroupId, feed: &LeaderFeed) -> Result<()> {
        loop {
            feed.leader(read(&self.0, group).await?.flatten());
            tokio::time::sleep(self.0.config.poll_interval).await;
        }
    }
}

/// Who leads the group, if the group exists: who was given the last token, if it holds the lock.
async fn read(state: &State, group: &GroupId) -> Result<Option<Option<MemberId>>> {
    keys::check_group(group)?;
    let name = state.config.keys.term(group).sql();
    let sql = format!(
        "SELECT t.member_id FROM {} g LEFT JOIN {} t ON t.name={name} \
         AND IS_USED_LOCK({name})<=>t.connection{} WHERE g.id={}",
        state.table("group"),
        state.table("token"),
        // Whoever waits for the end of a delay has the lock, and does not lead yet.
        match state.config.lock_delay.is_zero() {
            true => String::new(),
            false => format!(
                " AND EXISTS(SELECT 1 FROM {} h WHERE h.operation=t.operation)",
                state.table("hold")
            ),
        },
        keys::literal(group.as_bytes()),
    );
    let rows = state.client.ask(sql).await?;
    Ok(rows.first().map(|row| bytes(row, 0).map(MemberId::from)))
}
