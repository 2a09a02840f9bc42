//! The rows beside a lock: who leads, and who holds it where an end leaves a delay.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::Type;
use tooz_core::{FencingToken, GroupId, Moment, Result};
use tracing::debug;

use crate::connection::{Connection, Parameter};
use crate::session::Life;

/// How often what could not be removed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(crate) struct Rows {
    pub(crate) term_in: Option<GroupId>,
    pub(crate) token: FencingToken,
}

impl Rows {
    /// Removes them and answers the rest, in one statement.
    pub(crate) async fn remove(
        &self,
        life: &Life,
        connection: &Connection,
        rest: &str,
    ) -> Result<Row> {
        let held = match life.config.lock_delay.is_zero() {
            true => "SELECT",
            false => "DELETE FROM tooz_hold WHERE token = $2 RETURNING 1",
        };
        let sql = format!(
            "WITH held AS ({held}), \
             gone AS (DELETE FROM tooz_leader WHERE group_id = $1 AND token = $2 RETURNING 1), \
             told AS (SELECT count(pg_notify($3, $4)) FROM gone) \
             SELECT {rest} FROM told, (SELECT count(*) FROM held) AS also"
        );
        let channel = life.keys().channel();
        // No group is named by nothing.
        let group = self.term_in.as_ref().map(GroupId::as_bytes).unwrap_or_default();
        let change = self.term_in.as_ref().map(|group| life.keys().change(group));
        let parameters: [Parameter<'_>; 4] = [
            (&group, Type::BYTEA),
            (&self.token.0.cast_signed(), Type::INT8),
            (&channel, Type::TEXT),
            (&change, Type::TEXT),
        ];
        connection.one(&sql, &parameters).await
    }

    /// Removes them once their tables are free. The end of the session ends it: then they are what
    /// a dead session has left.
    pub(crate) async fn remove_later(self, life: Arc<Life>) {
        while life.lease.is_held() {
            match self.remove(&life, &life.main, "true").await {
                Ok(_) => return,
                Err(error) => debug!(%error, "rows of a lock that was given back are still there"),
            }
            (Moment::now() + AGAIN).wait().await;
        }
    }
}
