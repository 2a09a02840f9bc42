//! Finds out whether a pooler hands every transaction to another session of the server.
//!
//! Behind one that does, a lock would stay with a session that serves others next. One that keeps a
//! session for each client does no harm.

use tooz_core::{Error, ErrorKind, Result};

use crate::connection::Connection;

/// How often to ask a pooler that did not answer in time.
const LOOKS: usize = 3;

/// Refuses such a pooler. Both connections are as they were opened.
pub(crate) async fn refuse_pooler(connection: &Connection, other: &Connection) -> Result<()> {
    // Two clients share a session as long as they take turns with it.
    if connection.process == other.process {
        return Err(refusal());
    }
    let mut unanswered = None;
    for _ in 0..LOOKS {
        match stays(connection, other).await {
            Ok(true) => return Ok(()),
            Ok(false) => return Err(refusal()),
            // Slowness neither proves a pooler nor excludes one.
            Err(error) if error.kind() == ErrorKind::TimedOut => unanswered = Some(error),
            Err(error) => return Err(error),
        }
    }
    let error = Error::new(
        ErrorKind::TimedOut,
        "whether a pooler hands out sessions of the server could not be found out: it did not \
         answer in time, as a slow server does, or a pool that is in use as a whole",
    );
    Err(unanswered.into_iter().fold(error, Error::caused_by))
}

/// Whether each connection stays with its session.
async fn stays(connection: &Connection, other: &Connection) -> Result<bool> {
    // While the other is in a transaction, it has the session that it gave back last, which is ours
    // if it is anybody's. And one that goes round all its sessions changes ours by itself.
    match other.script("BEGIN").await {
        // A pooler that hands out single statements knows no transactions.
        Err(error) if error.context("sqlstate").is_some() => return Ok(false),
        begun => begun?,
    }
    let looked = look(connection, other).await;
    other.script("ROLLBACK").await?;
    looked
}

async fn look(connection: &Connection, other: &Connection) -> Result<bool> {
    let mut stays = true;
    for asked in [connection, connection, connection, other] {
        stays &= asked.process_now().await? == asked.process;
    }
    Ok(stays)
}

pub(crate) fn refusal() -> Error {
    Error::new(
        ErrorKind::DriverChosenPoorly,
        "a pooler (PgBouncer in transaction mode, or the like) stands before the server and hands \
         each transaction to another session, where a lock would be left behind: let tooz connect \
         to PostgreSQL itself, or through a pool of its own with pool_mode=session",
    )
}
