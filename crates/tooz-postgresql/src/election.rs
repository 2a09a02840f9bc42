//! Who leads. Campaigns are locks with a row beside them: see [`lock`](crate::lock).

use std::sync::Arc;

use tokio_postgres::types::Type;
use tooz_core::{Error, GroupId, LeaderFeed, MemberId, Result};

use crate::connection::Parameter;
use crate::errors::{get, is_locked_out};
use crate::keys;
use crate::session::Life;
use crate::tables;
use crate::watch::Watch;

/// The leader of a group that exists, as long as the session lives that holds the term.
const LEADER: &str = "SELECT (SELECT member_id FROM tooz_leader WHERE group_id = $1 AND \
                      (holder = $2 OR NOT pg_try_advisory_xact_lock_shared(holder))) \
                      FROM tooz_group WHERE id = $1";

pub(crate) async fn leader(life: &Life, group: &GroupId) -> Result<Option<MemberId>> {
    ask(life, group).await?.ok_or_else(|| Error::group_not_created(group))
}

pub(crate) async fn watch(life: &Arc<Life>, group: &GroupId, feed: &LeaderFeed) -> Result<()> {
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

/// The leader, if there is one; `None` without the group.
async fn ask(life: &Life, group: &GroupId) -> Result<Option<Option<MemberId>>> {
    keys::check_group(group)?;
    let parameters: [Parameter<'_>; 2] =
        [(&group.as_bytes(), Type::BYTEA), (&life.main.key, Type::INT8)];
    let rows = tables::read(life, LEADER, &parameters).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    Ok(Some(get::<Option<&[u8]>>(row, 0)?.map(MemberId::from)))
}
