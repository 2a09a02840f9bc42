//! Whether our memberships are still there. Their rows say so, and a table can be locked for hours:
//! nothing else waits for the answer, and a member stays one until the rows say that it is none.

use std::collections::HashSet;
use std::sync::Arc;

use tokio_postgres::types::Type;
use tooz_core::{Loss, Result};
use tracing::debug;

use crate::errors::get;
use crate::session::Life;
use crate::tables;

const MINE: &str = "SELECT group_id FROM tooz_member WHERE session = $1";

/// Tells which memberships somebody took away.
pub(crate) async fn check(life: &Life) -> Result<()> {
    let memberships = life.memberships();
    if memberships.is_empty() {
        return Ok(());
    }
    let rows = tables::read(life, MINE, &[(&life.main.key, Type::INT8)]).await?;
    let there: HashSet<&[u8]> = rows.iter().map(|row| get(row, 0)).collect::<Result<_>>()?;
    for (group, membership) in memberships {
        // One that was joined or left since the question is no longer this one.
        let gone = !there.contains(group.as_bytes()) && membership.is_held();
        if gone && life.remove_membership(&group).is_some() {
            membership.lose(Loss::Taken);
        }
    }
    Ok(())
}

/// The same, once somebody has said that a member was removed.
pub(crate) async fn check_soon(life: Arc<Life>) {
    if let Err(error) = check(&life).await {
        debug!(%error, "a removal is left to the next heartbeat");
    }
}
