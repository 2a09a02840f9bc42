//! What is left to do when a session was lost: to find out what became of a change whose answer
//! went with the connection, and to tell that its memberships are over.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::Type;
use tooz_core::{Error, ErrorKind, Outcome, Result};

use crate::connection::{Connection, Parameter, Purpose};
use crate::group;
use crate::session::Life;

/// Whether the answer is lost, and the session with it.
pub(crate) fn has_broken(error: &Error) -> bool {
    error.kind() == ErrorKind::SessionLost
}

/// What a statement reads once nothing of the lost session can be carried out any more. When that
/// cannot be found out, the outcome of `error` is not known.
pub(crate) async fn settle(
    life: &Life,
    error: &Error,
    sql: &str,
    parameters: &[Parameter<'_>],
) -> Result<Vec<Row>> {
    let limit = life.config.response_timeout;
    match tokio::time::timeout(limit, look(life, sql, parameters)).await {
        Ok(Ok(rows)) => Ok(rows),
        _ => Err(error.clone().outcome_is(Outcome::Unknown)),
    }
}

/// Removes what the lost session has left of its memberships, before somebody notices.
pub(crate) async fn clean_up(life: &Life) -> Result<()> {
    if life.memberships().is_empty() {
        return Ok(());
    }
    group::leave_all(life, &another(life).await?).await
}

async fn another(life: &Life) -> Result<Connection> {
    let name = life.keys().application(&life.member);
    let (connection, _) = Connection::open(&life.config, &name, Purpose::Session).await?;
    connection.set_up(&life.config, None, Duration::ZERO).await?;
    Ok(connection)
}

async fn look(life: &Life, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>> {
    let connection = another(life).await?;
    // The lost session holds it as long as the server still works for it.
    let end = "SELECT pg_advisory_lock_shared($1)";
    connection.one(end, &[(&life.main.key, Type::INT8)]).await?;
    connection.read(sql, parameters).await
}
