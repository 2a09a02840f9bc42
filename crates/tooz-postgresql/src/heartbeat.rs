//! The renewal of everything: one round trip of each connection that holds something, all at once.
//! It touches no table, which somebody might have locked.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_postgres::types::Type;
use tooz_core::{Loss, Moment, Result};
use tracing::debug;

use crate::deployment;
use crate::errors::get;
use crate::state::State;

pub(crate) async fn renew(state: &Arc<State>) -> Result<()> {
    let mut locks = JoinSet::new();
    for grant in state.grants.values() {
        locks.spawn(async move {
            let Some(connection) = &grant.own else { return };
            let sent = Moment::now();
            match connection.process_now().await {
                Ok(_) => drop(grant.lease.renewed(sent)),
                Err(error) => debug!(%error, "a lock's own session is not renewed"),
            }
        });
    }
    let sent = Moment::now();
    let renewal = async {
        if state.client.main.process_now().await? != state.client.main.process {
            state.lease.lose(Loss::SessionEnded);
            return Err(deployment::refusal());
        }
        state.lease.renewed(sent);
        Ok(())
    };
    // A statement that waits for a table must not delay the next heartbeat.
    let check = tokio::time::timeout(state.config.response_timeout, check_memberships(state));
    let (renewal, check) = tokio::join!(renewal, check);
    if let Ok(Err(error)) = check {
        debug!(%error, "whether the memberships are still there is left to the next heartbeat");
    }
    locks.join_all().await;
    renewal?;
    // What nobody has needed since the last heartbeat.
    state.pool.trim(sent - state.config.heartbeat_interval());
    Ok(())
}

const MINE: &str = "SELECT group_id FROM tooz_member WHERE session = $1";

/// Finds out which memberships somebody removed. Their rows say so, and a table can be locked for
/// hours: nothing else waits for the answer, and a member stays one until the rows say that it is
/// none.
pub(crate) async fn check_memberships(state: &State) -> Result<()> {
    let memberships = state.memberships.entries();
    if memberships.is_empty() {
        return Ok(());
    }
    let rows = state.client.read(MINE, &[(&state.client.main.key, Type::INT8)]).await?;
    let there: HashSet<&[u8]> = rows.iter().map(|row| get(row, 0)).collect::<Result<_>>()?;
    for (group, membership) in memberships {
        // One that was joined or left since the question is no longer this one.
        let is_gone = !there.contains(group.as_bytes()) && membership.is_held();
        if is_gone && state.memberships.remove(&group).is_some() {
            membership.lose(Loss::Taken);
        }
    }
    Ok(())
}
