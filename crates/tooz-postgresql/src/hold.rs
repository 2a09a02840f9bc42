//! A lock or a term that is ours, with the rows beside it: who leads, and who holds it where an end
//! leaves a delay.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::Type;
use tooz_core::{
    Error, FencingToken, GroupId, Hold, Lease, Loss, Mode, Moment, Release, Result, async_trait,
};
use tracing::debug;

use crate::connection::{Connection, Parameter};
use crate::errors::{get, is_locked_out, is_session_lost};
use crate::state::{Grant, State};

/// How often to retry rows that could not be removed.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub(crate) struct PostgresHold {
    pub(crate) state: Arc<State>,
    pub(crate) grant: Arc<Grant>,
}

impl PostgresHold {
    pub(crate) fn connection(&self) -> &Connection {
        self.grant.connection(&self.state.client.main)
    }

    /// Releases what nobody knows of.
    pub(crate) async fn cancel(&self) {
        self.grant.lease.lose(Loss::GivenUp);
        if let Err(error) = self.release().await {
            debug!(%error, "remnants of an acquisition end with its session");
            match &self.grant.own {
                None => self.state.lease.lose(Loss::SessionEnded),
                Some(connection) => connection.close(),
            }
        }
    }

    /// Whether it was ours.
    async fn unlock(&self) -> Result<bool> {
        let again = self.grant.release_sent.swap(true, Relaxed);
        let unlock = self.grant.keys.key.unlock(self.grant.mode);
        let alone = format!("SELECT {unlock}");
        let row = match self.has_rows() {
            false => self.connection().one(&alone, &[]).await?,
            true => match self.remove_rows(self.connection(), &unlock).await {
                // The lock must not wait for the table.
                Err(error) if is_locked_out(&error) => {
                    tokio::spawn(self.clone().remove_rows_later());
                    self.connection().one(&alone, &[]).await?
                }
                row => row?,
            },
        };
        // If a repeated request finds nothing to undo, the first one did it.
        Ok(get::<bool>(&row, 0)? || again)
    }

    fn has_rows(&self) -> bool {
        self.grant.keys.term_in.is_some() || !self.state.config.lock_delay.is_zero()
    }

    /// Removes the rows and answers the rest, in one statement.
    async fn remove_rows(&self, connection: &Connection, rest: &str) -> Result<Row> {
        let held = match self.state.config.lock_delay.is_zero() {
            true => "SELECT",
            false => "DELETE FROM tooz_hold WHERE token = $2 RETURNING 1",
        };
        let sql = format!(
            "WITH held AS ({held}), \
             gone AS (DELETE FROM tooz_leader WHERE group_id = $1 AND token = $2 RETURNING 1), \
             told AS (SELECT count(pg_notify($3, $4)) FROM gone) \
             SELECT {rest} FROM told, (SELECT count(*) FROM held) AS also"
        );
        let channel = self.state.keys().channel();
        let term_in = self.grant.keys.term_in.as_ref();
        // No group is named by nothing.
        let group = term_in.map(GroupId::as_bytes).unwrap_or_default();
        let change = term_in.map(|group| self.state.keys().change(group));
        let parameters: [Parameter<'_>; 4] = [
            (&group, Type::BYTEA),
            (&self.grant.token.0.cast_signed(), Type::INT8),
            (&channel, Type::TEXT),
            (&change, Type::TEXT),
        ];
        connection.one(&sql, &parameters).await
    }

    /// Removes the rows once their tables are free. The end of the session ends it: then they are
    /// what a dead session has left.
    async fn remove_rows_later(self) {
        while self.state.lease.is_held() {
            match self.remove_rows(&self.state.client.main, "true").await {
                Ok(_) => return,
                Err(error) => debug!(%error, "rows of a released lock are not removed yet"),
            }
            (Moment::now() + AGAIN).wait().await;
        }
    }
}

#[async_trait]
impl Hold for PostgresHold {
    fn token(&self) -> FencingToken {
        self.grant.token
    }

    fn lease(&self) -> &Lease {
        &self.grant.lease
    }

    async fn verify(&self) -> Result<bool> {
        let mode = match self.grant.mode {
            Mode::Exclusive => "ExclusiveLock",
            Mode::Shared => "ShareLock",
        };
        let sql = format!(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE {} AND pid = pg_backend_pid() \
             AND mode = '{mode}') AND pg_backend_pid() = $1",
            self.grant.keys.key.in_pg_locks()
        );
        let connection = self.connection();
        let rows = connection.read(&sql, &[(&connection.process, Type::INT4)]).await?;
        get(rows.first().ok_or_else(Error::unexpected_answer)?, 0)
    }

    async fn release(&self) -> Result<Release> {
        let mut is_released = self.grant.released.lock().await;
        if *is_released {
            return Ok(Release::WasLost);
        }
        let was_ours = match &self.grant.own {
            None => {
                let mut on_main = self.grant.local.on_main.lock().await;
                let was_ours = self.unlock().await?;
                on_main.remove();
                was_ours
            }
            Some(connection) => match self.unlock().await {
                Ok(was_ours) => {
                    // One with rows no longer waits for anything, so a waiter has no use for it.
                    match self.has_rows() {
                        false => self.state.pool.put(connection.clone()),
                        true => connection.close(),
                    }
                    was_ours
                }
                // It was lost with its own session.
                Err(error) if is_session_lost(&error) => false,
                Err(error) => return Err(error),
            },
        };
        *is_released = true;
        self.state.grants.remove(&self.grant.id);
        Ok(if was_ours { Release::Released } else { Release::WasLost })
    }
}
