//! Shared locks, which the server does not have.
//!
//! A shared holder has a named lock of its own, which a row lists; both end with its session. It
//! registers first and looks for an exclusive holder then; an exclusive holder has the named lock
//! first and looks for registered ones then. So at least one of two sees the other.

use std::time::Duration;

use tooz_core::{Acquisition, Error, FencingToken, Result};

use crate::connection::{Connection, bytes, number, unsigned};
use crate::errors::{no_verdict, session_over};
use crate::keys::{self, LockKeys};
use crate::queue;
use crate::state::{Granted, State};

/// How soon it is tried again to register.
const AGAIN: Duration = Duration::from_millis(5);

/// Registers in one round trip, unless somebody has the lock exclusively.
pub(crate) async fn register(
    state: &State,
    acquisition: &Acquisition<LockKeys>,
) -> Result<Option<Granted>> {
    let is_free = format!("COALESCE(IS_FREE_LOCK({}),0)", acquisition.target.sql());
    register_if(state, acquisition, &is_free).await
}

/// The same, with the named lock on a connection of ours: nobody else can have it. `None` when the
/// wait ended.
pub(crate) async fn register_behind(
    state: &State,
    acquisition: &Acquisition<LockKeys>,
) -> Result<Option<Granted>> {
    loop {
        if let Some(granted) = register_if(state, acquisition, "1").await? {
            return Ok(Some(granted));
        }
        // An exclusive holder that waited for us has not released our own lock yet.
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            () = acquisition.wait.over() => return Ok(None),
            () = state.client.over() => return Err(session_over()),
        }
    }
}

async fn register_if(
    state: &State,
    acquisition: &Acquisition<LockKeys>,
    condition: &str,
) -> Result<Option<Granted>> {
    let own = keys::reader(acquisition.id.as_bytes());
    let (id, reader) = (keys::literal(acquisition.id.as_bytes()), state.table("reader"));
    // Our own lock is not free if an exclusive holder waited for it, which is what it does with every
    // holder that it finds registered: when we registered before, and cancelled for a conflict.
    let sql = format!(
        "SET @own=GET_LOCK({own},0);\
         INSERT INTO {reader}(operation,name,connection) VALUES({id},{name},CONNECTION_ID()) \
         ON DUPLICATE KEY UPDATE connection=CONNECTION_ID();\
         SET @free=@own AND {condition};{token};\
         DELETE FROM {reader} WHERE operation={id} AND NOT @free;\
         DO IF(@free,0,RELEASE_LOCK({own}));\
         SELECT CAST(@own AS SIGNED),CAST(@free AS SIGNED),LAST_INSERT_ID()",
        name = acquisition.target.sql(),
        token = state.next_token(acquisition, "@free"),
    );
    // A row without its lock counts for nothing, and the next exclusive holder reaps it.
    let rows = state.client.take(&own, &sql, &acquisition.wait).await?.rows;
    let (own, free, token) = (number(&rows, 0), number(&rows, 1), unsigned(&rows, 2));
    match (own, free, token) {
        (Some(0 | 1), Some(0), _) => Ok(None),
        (Some(1), Some(_), Some(token)) => Ok(Some(state.granted_on_main(FencingToken(token)))),
        (None, ..) => Err(no_verdict()),
        _ => Err(Error::unexpected_answer()),
    }
}

/// Waits on `connection` until all shared holders are gone, each of which frees its own lock then.
/// Whether the wait went on.
pub(crate) async fn outwait(
    state: &State,
    acquisition: &Acquisition<LockKeys>,
    connection: &Connection,
) -> Result<bool> {
    let (reader, name) = (state.table("reader"), acquisition.target.sql());
    let lives = keys::lives("r", "operation", "connection");
    let ask = format!("SELECT operation,CAST({lives} AS SIGNED) FROM {reader} WHERE name={name}");
    for row in &connection.ask(ask).await? {
        let operation = bytes(row, 0).ok_or_else(Error::unexpected_answer)?;
        let own = keys::reader(&operation);
        if !queue::wait_for(state, connection, &own, &acquisition.wait).await? {
            return Ok(false);
        }
        // Nobody registers while the lock is ours: once the lock is free, the row has no effect.
        let id = keys::literal(&operation);
        let sql = format!("DELETE FROM {reader} WHERE operation={id};DO RELEASE_LOCK({own})");
        connection.change(&sql).await?;
    }
    Ok(true)
}
