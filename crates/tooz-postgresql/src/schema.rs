//! The tables.

use tooz_core::{Error, ErrorKind, Result};

use crate::config::Config;
use crate::connection::Connection;
use crate::errors::get;

/// The SQL that makes what the driver needs, for an administrator where its role may not.
pub const SCHEMA: &str = include_str!("schema.sql");

/// The version of the tables that this driver works with.
const VERSION: i32 = 1;

const UNDEFINED_TABLE: &str = "42P01";
const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// Sees to it that the tables are there, and that they are ours to use.
pub(crate) async fn ensure(connection: &Connection, config: &Config) -> Result<()> {
    let version = match version(connection).await? {
        Some(version) => version,
        None => {
            create(connection, config).await?;
            VERSION
        }
    };
    if version != VERSION {
        return Err(Error::new(
            ErrorKind::Backend,
            format!(
                "the tables have version {version} and this driver knows {VERSION}: use one \
                 version of tooz for all services of a schema"
            ),
        )
        .with("schema", config.keys.schema()));
    }
    Ok(())
}

/// The version of the tables; `None` if there are none.
async fn version(connection: &Connection) -> Result<Option<i32>> {
    const ASK: &str = "SELECT version, has_sequence_privilege('tooz_token', 'USAGE') \
                       AND has_table_privilege('tooz_group', 'SELECT, INSERT, UPDATE, DELETE') \
                       AND has_table_privilege('tooz_member', 'SELECT, INSERT, UPDATE, DELETE') \
                       AND has_table_privilege('tooz_leader', 'SELECT, INSERT, UPDATE, DELETE') \
                       FROM tooz_version";
    match connection.ask(ASK, &[]).await {
        Ok(rows) => match rows.first() {
            Some(row) if get(row, 1)? => Ok(Some(get(row, 0)?)),
            Some(_) => Err(forbidden("use all tables of tooz")),
            None => Ok(None),
        },
        Err(error) => match error.context("sqlstate") {
            Some(UNDEFINED_TABLE) => Ok(None),
            Some(INSUFFICIENT_PRIVILEGE) => {
                Err(forbidden("use the tables of tooz").caused_by(error))
            }
            _ => Err(error),
        },
    }
}

async fn create(connection: &Connection, config: &Config) -> Result<()> {
    // One at a time: IF NOT EXISTS alone fails when two create at once.
    let script = format!(
        "BEGIN; SELECT pg_advisory_xact_lock('{}'::bigint); {} COMMIT",
        config.keys.creation(),
        SCHEMA.replace("\"tooz\"", &quoted(config.keys.schema())),
    );
    let Err(error) = connection.script(&script).await else { return Ok(()) };
    let error = match error.context("sqlstate") {
        Some(INSUFFICIENT_PRIVILEGE) => forbidden("create the tables of tooz").caused_by(error),
        _ => error,
    };
    Err(error.with("schema", config.keys.schema()))
}

fn forbidden(what: &str) -> Error {
    Error::new(
        ErrorKind::Authentication,
        format!(
            "the role may not {what}: let an administrator run schema.sql of tooz-postgresql, \
             which says how"
        ),
    )
}

/// A name as an identifier.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_of_any_encoding_can_have_the_tables() {
        assert!(SCHEMA.is_ascii());
    }
}
