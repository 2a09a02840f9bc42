//! The option `lock_delay`: what was not released is not granted again before a delay is over.
//!
//! Each hold has a row, and its release removes the row. The row of a session that has ended says
//! that its holder may not know yet: whoever gets the lock next starts the delay there, waits for
//! its end, and removes the row. No renewal touches the row, so no table can end a lock.

use std::time::Duration;

use tokio_postgres::types::Type;
use tooz_core::{FencingToken, Moment, Result, WaitLimit};
use tracing::debug;

use crate::connection::{Connection, Parameter};
use crate::errors::get;
use crate::keys::Key;
use crate::state::State;

/// How much of the delay is left, in seconds; if none is, the hold is written.
const WRITE_HOLD: &str = "WITH past AS (DELETE FROM tooz_hold WHERE lock = $1 AND free_at <= now()), \
                     ended AS (UPDATE tooz_hold SET free_at = now() + $4 * interval '1 second' \
                         WHERE lock = $1 AND free_at IS NULL AND session <> $3 \
                         AND pg_try_advisory_xact_lock_shared(session) RETURNING free_at), \
                     delay AS (SELECT free_at FROM ended UNION ALL \
                         SELECT free_at FROM tooz_hold WHERE lock = $1 AND free_at > now()), \
                     held AS (INSERT INTO tooz_hold (lock, token, session) \
                         SELECT $1, $2, $3 WHERE NOT EXISTS (SELECT FROM delay)) \
                     SELECT extract(epoch FROM max(free_at) - now())::float8 FROM delay";

/// Waits on the connection that holds the lock; whether the delay was over before the wait.
pub(crate) async fn outlast(
    state: &State,
    connection: &Connection,
    key: Key,
    token: FencingToken,
    wait: &WaitLimit,
) -> Result<bool> {
    let parameters: [Parameter<'_>; 4] = [
        (&key.id(), Type::TEXT),
        (&token.0.cast_signed(), Type::INT8),
        (&connection.key, Type::INT8),
        (&state.config.lock_delay.as_secs_f64(), Type::FLOAT8),
    ];
    loop {
        let row = connection.one(WRITE_HOLD, &parameters).await?;
        let Some(left) = get::<Option<f64>>(&row, 0)? else { return Ok(true) };
        let left = Duration::try_from_secs_f64(left).unwrap_or_default();
        debug!(?left, "the last holder did not release the lock");
        tokio::select! {
            // A little later, so that the server finds it over as well.
            () = (Moment::now() + left + Duration::from_millis(1)).wait() => {}
            () = wait.over() => return Ok(false),
        }
    }
}
