//! The option `lock_delay`: what was not given back is not granted again before a delay is over.
//!
//! While something is held, a row says so, and whoever gives it back removes the row. A row that is
//! left when its holder has ended at the server says that the holder may not know yet: whoever gets
//! the lock next starts the delay there and waits, with the lock. No renewal writes the row.

use std::sync::Arc;
use std::time::Duration;

use tooz_core::{Error, ErrorKind, Lease, Mode, Moment, Result};

use crate::errors::{odd_answer, session_over};
use crate::group::NOW;
use crate::hold::Granted;
use crate::link::{Link, number, unsigned};
use crate::lock::{self, Attempt};
use crate::names;
use crate::session::Life;

/// What was granted, once the delay is over; `None` when the waiting ended before, and then or with
/// an error it is given back.
pub(crate) async fn outlast(
    life: &Arc<Life>,
    attempt: &Attempt,
    granted: Granted,
) -> Result<Option<Granted>> {
    let Granted { token, lease, link } = granted;
    let own = link.number != life.main.number;
    let waited = wait(life, attempt, &link).await;
    if let Ok(Some(sent)) = waited {
        // The old one was not renewed while it waited.
        let lease = if own { Lease::timed(life.config.timeout, sent) } else { lease };
        return Ok(Some(Granted { token, lease, link }));
    }
    if own {
        tokio::spawn(async move { link.close().await });
    } else {
        let held = match attempt.mode {
            Mode::Exclusive => attempt.prize.sql(),
            Mode::Shared => names::reader(attempt.id),
        };
        lock::free(life, &held).await;
    }
    waited.map(|_| None)
}

/// When the request was sent that found the delay over; `None` when the waiting ended before.
async fn wait(life: &Arc<Life>, attempt: &Attempt, link: &Link) -> Result<Option<Moment>> {
    let (hold, name) = (life.table("hold"), attempt.prize.sql());
    let id = names::literal(attempt.id.as_bytes());
    // Shared holders do not mind each other.
    let (shared, in_the_way) = match attempt.mode {
        Mode::Exclusive => (0, format!("name={name}")),
        Mode::Shared => (1, format!("name={name} AND NOT shared")),
    };
    // Nobody has the lock for itself while we have it, in whatever mode.
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
        delay = life.config.lock_delay.as_millis(),
        lives = names::lives("r", "operation", "connection"),
    );
    loop {
        let sent = Moment::now();
        let left = match link.change(&sql).await {
            Ok(rows) => unsigned(&rows, 0).ok_or_else(odd_answer)?,
            // A table is locked.
            Err(failure) if failure.is_busy() && !attempt.waiting.is_over() => continue,
            Err(failure) => return Err(failure.into()),
        };
        if left == 0 {
            return Ok(Some(sent));
        }
        // The connection is heard of meanwhile.
        let pause = Duration::from_millis(left).min(life.config.heartbeat_interval());
        tokio::select! {
            () = attempt.waiting.over() => return Ok(None),
            () = life.over() => return Err(session_over()),
            () = tokio::time::sleep(pause) => {}
        }
        if !is_ours(attempt, link).await? {
            let message = "the lock was taken away before it was granted";
            return Err(Error::new(ErrorKind::SessionLost, message));
        }
    }
}

async fn is_ours(attempt: &Attempt, link: &Link) -> Result<bool> {
    let held = match attempt.mode {
        Mode::Exclusive => attempt.prize.sql(),
        Mode::Shared => names::reader(attempt.id),
    };
    let ask = format!("SELECT CAST(IS_USED_LOCK({held})<=>CONNECTION_ID() AS SIGNED)");
    Ok(number(&link.urge(ask).await?, 0) == Some(1))
}
