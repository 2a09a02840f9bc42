//! Who leads. Campaigns are locks with a row beside them: see [`lock`](crate::lock).

use std::sync::Arc;

use tooz_core::{
    Acquisition, Elections, Error, GroupId, Hold, LeaderFeed, MemberId, Result, async_trait,
};

use crate::errors::{get, is_locked_out};
use crate::keys;
use crate::lock::PostgresLocks;
use crate::state::State;
use crate::watch::Watch;

/// The elections of a session.
#[derive(Debug)]
pub(crate) struct PostgresElections(pub(crate) Arc<State>);

#[async_trait]
impl Elections for PostgresElections {
    async fn campaign(&self, acquisition: Acquisition<GroupId>) -> Result<Option<Arc<dyn Hold>>> {
        keys::check_group(&acquisition.target)?;
        let keys = self.0.keys().term(&acquisition.target);
        PostgresLocks(self.0.clone()).acquire_keys(acquisition.with_target(keys)).await
    }

    async fn leader(&self, group: &GroupId) -> Result<Option<MemberId>> {
        read(&self.0, group).await?.ok_or_else(|| Error::group_not_created(group))
    }

    async fn watch(&self, group: &GroupId, feed: &LeaderFeed) -> Result<()> {
        let mut watch = Watch::open(&self.0, group).await?;
        loop {
            watch.mark();
            match read(&self.0, group).await {
                Ok(leader) => feed.leader(leader.flatten()),
                Err(error) if is_locked_out(&error) => {
                    watch.pause().await;
                    continue;
                }
                Err(error) => return Err(error),
            }
            watch.changed().await?;
        }
    }
}

/// The leader of a group that exists, as long as the session lives that holds the term.
const LEADER: &str = "SELECT (SELECT member_id FROM tooz_leader WHERE group_id = $1 AND \
                      (holder = $2 OR NOT pg_try_advisory_xact_lock_shared(holder))) \
                      FROM tooz_group WHERE id = $1";

/// The leader, if there is one; `None` without the group.
async fn read(state: &State, group: &GroupId) -> Result<Option<Option<MemberId>>> {
    let rows = state.read_group(LEADER, group, &[]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    Ok(Some(get::<Option<&[u8]>>(row, 0)?.map(MemberId::from)))
}
