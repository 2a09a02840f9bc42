//! Breaking a lock. The server lets only its holder free a named lock, so the holder is told by a row
//! that it looks for; one that does not look loses its connection.

use std::collections::BTreeSet;
use std::time::Duration;

use tooz_core::{Error, ErrorKind, Moment, Outcome, Result};

use crate::connection::{bytes, unsigned_in};
use crate::errors::{self, session_over};
use crate::keys::{self, LockKeys};
use crate::state::State;

/// How often it is looked whether the holders are gone.
const LOOK: Duration = Duration::from_millis(10);

/// A holder: its connection, and its acquisition unless it is one of another kind.
pub(crate) type Holder = (u64, Option<Vec<u8>>);

/// Tells those holders, waits until they are gone, and ends those that do not look.
pub(crate) async fn outlast(
    state: &State,
    keys: &LockKeys,
    first: &BTreeSet<Holder>,
) -> Result<()> {
    let start = Moment::now();
    // They look as often as we do, or so we hope.
    let time_to_answer = state.config.poll_interval * 3 + Duration::from_millis(250);
    let (mut ended, mut told) = (false, start);
    tell(state, keys, first).await?;
    loop {
        let now = holders(state, keys).await?;
        let left: Vec<_> = now.intersection(first).collect();
        if left.is_empty() {
            return Ok(());
        }
        if start.elapsed() < time_to_answer {
            // The message may have come while the holder was not listening.
            if told.elapsed() > LOOK * 3 {
                tell(state, keys, first).await?;
                told = Moment::now();
            }
        } else if !ended {
            ended = true;
            for (connection, _) in left {
                match state.client.main.ask(format!("KILL {connection}")).await {
                    Err(failure) if failure.is(errors::NO_SUCH_THREAD) => {}
                    Err(failure) if failure.is_denied() => {
                        return Err(not_ours().caused_by(failure));
                    }
                    result => drop(result?),
                }
            }
        }
        if start.elapsed() > time_to_answer + state.config.response_timeout {
            let message = "the holder's connection did not end";
            return Err(Error::new(ErrorKind::TimedOut, message).outcome_is(Outcome::Unknown));
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = state.client.over() => return Err(session_over()),
        }
    }
}

/// Writes down for the holders that their lock was broken, and wakes their sessions.
async fn tell(state: &State, keys: &LockKeys, holders: &BTreeSet<Holder>) -> Result<()> {
    let broken = state.table("broken");
    let (session, token, reader) =
        (state.table("session"), state.table("token"), state.table("reader"));
    let rows: Vec<_> = holders
        .iter()
        .filter_map(|(connection, id)| {
            Some(format!("({},{connection})", keys::literal(id.as_deref()?)))
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    // A lock that was waited for is on a connection of its own, so its holder is found by name.
    let sql = format!(
        "INSERT IGNORE INTO {broken}(operation,connection) VALUES{rows};\
         SELECT s.listener FROM {session} s WHERE s.listener IS NOT NULL AND {lives} \
         AND (s.member_id IN (SELECT member_id FROM {token} WHERE name={name}) \
         OR s.connection IN (SELECT connection FROM {reader} WHERE name={name}))",
        name = keys.sql(),
        rows = rows.join(","),
        lives = keys::lives("s", "s.id", "s.connection"),
    );
    for listener in state.client.change(&sql).await?.iter().filter_map(|row| unsigned_in(row, 0)) {
        state.client.wake(listener).await;
    }
    Ok(())
}

fn not_ours() -> Error {
    let message = "the holder does not give the lock up, and this user may not end its connection: it \
                   is another user's, which takes the privilege CONNECTION_ADMIN";
    Error::new(ErrorKind::Authentication, message)
}

pub(crate) async fn holders(state: &State, keys: &LockKeys) -> Result<BTreeSet<Holder>> {
    let (name, token, reader) = (keys.sql(), state.table("token"), state.table("reader"));
    let lives = keys::lives("r", "operation", "connection");
    let rows = state
        .client
        .ask(format!(
            "SELECT CAST(IS_USED_LOCK({name}) AS UNSIGNED),(SELECT operation FROM {token} \
             WHERE name={name} AND connection=IS_USED_LOCK({name}));\
             SELECT connection,operation FROM {reader} WHERE name={name} AND {lives}"
        ))
        .await?;
    let mut holders = BTreeSet::new();
    for (index, row) in rows.iter().enumerate() {
        match (unsigned_in(row, 0), index) {
            (Some(connection), _) => drop(holders.insert((connection, bytes(row, 1)))),
            (None, 0) => {}
            (None, _) => return Err(Error::unexpected_answer()),
        }
    }
    Ok(holders)
}
