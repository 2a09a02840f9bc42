//! The renewal of everything: one round trip of each connection that holds something, all at once.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_postgres::types::Type;
use tooz_core::{GroupId, Hold, Loss, Moment, Result};
use tracing::debug;

use crate::errors::{get, odd_answer};
use crate::pooler;
use crate::session::Life;

/// Who answers, and where we are a member.
const BEAT: &str = "SELECT pg_backend_pid(), \
                    ARRAY(SELECT group_id FROM tooz_member WHERE session = $1)";

pub(crate) async fn renew(life: &Arc<Life>) -> Result<()> {
    let mut extras = JoinSet::new();
    for hold in life.holds() {
        extras.spawn(async move {
            let Some(connection) = hold.extra() else { return };
            let sent = Moment::now();
            match connection.read("SELECT pg_backend_pid()", &[]).await {
                Ok(_) => drop(hold.lease().renewed(sent)),
                Err(error) => debug!(%error, "a lock's own session is not renewed"),
            }
        });
    }
    let (memberships, sent) = (life.memberships(), Moment::now());
    let rows = life.main.read(BEAT, &[(&life.main.key, Type::INT8)]).await;
    extras.join_all().await;
    let rows = rows?;
    let row = rows.first().ok_or_else(odd_answer)?;
    if get::<i32>(row, 0)? != life.main.process {
        life.lease.lose(Loss::SessionEnded);
        return Err(pooler::refusal());
    }
    let groups: Vec<&[u8]> = get(row, 1)?;
    let groups: Vec<GroupId> = groups.into_iter().map(GroupId::from).collect();
    for (group, membership) in memberships {
        if !groups.contains(&group) {
            membership.lose(Loss::Taken);
            life.remove_membership(&group);
        }
    }
    life.lease.renewed(sent);
    // What nobody has needed since the last heartbeat.
    life.extras.trim(sent - life.config.heartbeat_interval());
    Ok(())
}
