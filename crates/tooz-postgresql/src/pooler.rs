//! Finds out whether a pooler hands every transaction to another session of the server.
//!
//! Behind one that does, a lock would stay with a session that serves others next. One that keeps a
//! session for each client does no harm.

use tokio_postgres::Row;
use tooz_core::{Error, ErrorKind, Result};

use crate::connection::Connection;
use crate::errors::get;

const WHO: &str = "SELECT pg_backend_pid()";

/// Refuses such a pooler. Both connections are as they were opened.
pub(crate) async fn refuse(connection: &Connection, other: &Connection) -> Result<()> {
    // Two clients share a session as long as they take turns with it.
    if connection.process == other.process {
        return Err(refusal());
    }
    // While the other is in a transaction, it has the session that it gave back last, which is ours
    // if it is anybody's. And one that goes round all its sessions changes ours by itself.
    let begun = other.script("BEGIN").await;
    let mut stays = begun.is_ok();
    for _ in 0..3 {
        stays &= process(connection.one(WHO, &[]).await)? == Some(connection.process);
    }
    stays &= process(other.one(WHO, &[]).await)? == Some(other.process);
    if begun.is_ok() {
        other.script("ROLLBACK").await?;
    }
    if stays { Ok(()) } else { Err(refusal()) }
}

/// The process that answers; none if all of the pooler's are taken.
fn process(answer: Result<Row>) -> Result<Option<i32>> {
    match answer {
        Ok(row) => get(&row, 0).map(Some),
        Err(error) if error.kind() == ErrorKind::TimedOut => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn refusal() -> Error {
    Error::new(
        ErrorKind::DriverChosenPoorly,
        "a pooler (PgBouncer in transaction mode, or the like) stands before the server and hands \
         each transaction to another session, where a lock would be left behind: let tooz connect \
         to PostgreSQL itself, or through a pool of its own with pool_mode=session",
    )
}
