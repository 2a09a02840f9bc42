//! What is left to do when a session was lost: to find out what became of a change whose answer
//! went with the connection, and to tell that its memberships are over.

use tokio_postgres::types::Type;
use tooz_core::{Error, ErrorKind, GroupId, Outcome, Result};

use crate::connection::{Connection, Parameter, Purpose};
use crate::errors::get;
use crate::group;
use crate::session::Life;

/// Whether the answer is lost, and the session with it.
pub(crate) fn has_broken(error: &Error) -> bool {
    error.kind() == ErrorKind::SessionLost
}

/// The operation that made a group, once nothing of the lost session can be carried out any more;
/// `None` if there is no such group. When that cannot be found out, the outcome of `error` is not
/// known.
pub(crate) async fn settle(life: &Life, error: Error, group: &GroupId) -> Result<Option<Vec<u8>>> {
    let limit = life.config.response_timeout;
    match tokio::time::timeout(limit, look(life, group)).await {
        Ok(Ok(operation)) => Ok(operation),
        _ => Err(error.outcome_is(Outcome::Unknown)),
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
    connection.set_up(&life.config, None).await?;
    Ok(connection)
}

async fn look(life: &Life, group: &GroupId) -> Result<Option<Vec<u8>>> {
    let connection = another(life).await?;
    // The lost session holds it as long as the server still works for it.
    let end = "SELECT pg_advisory_lock_shared($1)";
    connection.one(end, &[(&life.main.key, Type::INT8)]).await?;
    let parameters: [Parameter<'_>; 1] = [(&group.as_bytes(), Type::BYTEA)];
    let sql = "SELECT operation FROM tooz_group WHERE id = $1";
    let rows = connection.read(sql, &parameters).await?;
    rows.first().map(|row| get(row, 0)).transpose()
}
