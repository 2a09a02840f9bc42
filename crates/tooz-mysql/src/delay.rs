//! The option `lock_delay`: what was not released is not granted again before a delay is over.
//!
//! While something is held, a row says so, and its release removes the row. A row that is left when
//! its holder has ended at the server says that the holder may not know yet: whoever gets the lock
//! next starts the delay there and waits, with the lock. No renewal writes the row.

use std::time::Duration;

use tooz_core::{Acquisition, Error, ErrorKind, Mode, Moment, Result};

use crate::connection::{Connection, number, unsigned};
use crate::errors::session_over;
use crate::keys::{self, LockKeys, NOW};
use crate::state::{Granted, State};

/// What was granted, once the delay is over; `None` when the wait ended before, and then or with an
/// error it is released.
pub(crate) async fn outlast(
    state: &State,
    acquisition: &Acquisition<LockKeys>,
    granted: Granted,
) -> Result<Option<Granted>> {
    let Granted { token, lease, connection } = granted;
    let is_own = state.is_own(&connection);
    let waited = wait(state, acquisition, &connection).await;
    if let Ok(Some(sent)) = waited {
        // The old one was not renewed while it waited.
        let lease =
            if is_own { state.lease.timed_child(state.config.timeout, sent) } else { lease };
        return Ok(Some(Granted { token, lease, connection }));
    }
    if is_own {
        tokio::spawn(async move { connection.close().await });
    } else {
        state.client.free(&acquisition.target.held(acquisition.mode, acquisition.id)).await;
    }
    waited.map(|_| None)
}

/// When the request was sent that found the delay over; `None` when the wait ended before.
async fn wait(
    state: &State,
    acquisition: &Acquisition<LockKeys>,
    connection: &Connection,
) -> Result<Option<Moment>> {
    let (hold, name) = (state.table("hold"), acquisition.target.sql());
    let id = keys::literal(acquisition.id.as_bytes());
    // Shared holders do not mind each other.
    let (shared, in_the_way) = match acquisition.mode {
        Mode::Exclusive => (0, format!("name={name}")),
        Mode::Shared => (1, format!("name={name} AND NOT shared")),
    };
    // While we have the lock, in whatever mode, nobody has it exclusively.
    let sql = format!(
        "SET @now={NOW};\
         UPDATE {hold} SET free_at=@now+{delay} WHERE {in_the_way} AND free_at IS NULL \
         AND operation<>{id} AND NOT (shared AND {lives});\
         SET @left=COALESCE((SELECT MAX(free_at) FROM {hold} WHERE {in_the_way} \
         AND free_at>@now),@now)-@now;\
         DELETE FROM {hold} WHERE name={name} AND free_at<=@now;\
         INSERT INTO {hold}(operation,name,connection,shared) \
         SELECT {id},{name},CONNECTION_ID(),{shared} FROM DUAL WHERE @left=0 \
         ON DUPLICATE KEY UPDATE connection=CONNECTION_ID();\
         SELECT CAST(@left AS UNSIGNED)",
        delay = state.config.lock_delay.as_millis(),
        lives = keys::lives("r", "operation", "connection"),
    );
    loop {
        let sent = Moment::now();
        let left = match connection.change(&sql).await {
            Ok(rows) => unsigned(&rows, 0).ok_or_else(Error::unexpected_answer)?,
            // A table is locked.
            Err(failure) if failure.is_busy() && !acquisition.wait.is_over() => continue,
            Err(failure) => return Err(failure.into()),
        };
        if left == 0 {
            return Ok(Some(sent));
        }
        // The connection is heard of meanwhile.
        let pause = Duration::from_millis(left).min(state.config.heartbeat_interval());
        tokio::select! {
            () = acquisition.wait.over() => return Ok(None),
            () = state.client.over() => return Err(session_over()),
            () = tokio::time::sleep(pause) => {}
        }
        let ask = acquisition.target.is_held(acquisition.mode, acquisition.id);
        if number(&connection.urge(ask).await?, 0) != Some(1) {
            let message = "the lock was broken before it was granted";
            return Err(Error::new(ErrorKind::SessionLost, message));
        }
    }
}
