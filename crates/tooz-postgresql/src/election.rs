//! Who leads. Campaigns are locks with a row beside them: see [`lock`](crate::lock).

use std::sync::Arc;

use tokio_postgres::types::Type;
use tooz_core::{
    Acquisition, Elections, Error, GroupId, Hold, LeaderFeed, MemberId, Result, async_trait,
};

use crate::connection::Parameter;
use crate::errors::{get, is_locked_out};
use crate::keys;
use crate::lock::{self, Attempt};
use crate::session::{Life, PostgresSession};
use crate::tables;
use crate::watch::Watch;

#[async_trait]
impl Elections for PostgresSession {
    async fn campaign(&self, acquisition: Acquisition<GroupId>) -> Result<Option<Arc<dyn Hold>>> {
        let Acquisition { id, target: group, mode, wait: waiting, .. } = acquisition;
        keys::check_group(&group)?;
        let (key, term_in) = (self.0.keys().term(&group), Some(group));
        lock::acquire(&self.0, Attempt { id, key, term_in, mode, waiting }).await
    }

    async fn leader(&self, group: &GroupId) -> Result<Option<MemberId>> {
        let life = &self.0;
        ask(life, group).await?.ok_or_else(|| Error::group_not_created(group))
    }

    async fn watch(&self, group: &GroupId, feed: &LeaderFeed) -> Result<()> {
        let life = &self.0;
        let mut watch = Watch::open(life, group).await?;
        loop {
            watch.mark();
            match ask(life, group).await {
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
async fn ask(life: &Life, group: &GroupId) -> Result<Option<Option<MemberId>>> {
    keys::check_group(group)?;
    let parameters: [Parameter<'_>; 2] =
        [(&group.as_bytes(), Type::BYTEA), (&life.main.key, Type::INT8)];
    let rows = tables::read(life, LEADER, &parameters).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    Ok(Some(get::<Option<&[u8]>>(row, 0)?.map(MemberId::from)))
}
