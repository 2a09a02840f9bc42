//! The tables.

use std::time::Duration;

use tooz_core::{Error, ErrorKind, Moment, Result};

use crate::config::Config;
use crate::connection::Connection;
use crate::errors::get;
use crate::keys::quoted;

/// The SQL that makes what the driver needs, for an administrator where its role may not.
pub const SCHEMA: &str = include_str!("schema.sql");

/// The version of the tables that this driver works with.
const VERSION: i32 = 1;

const UNDEFINED_TABLE: &str = "42P01";
const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// What the tables say.
struct Found {
    version: i32,
    has_holds: bool,
    /// How long the server has granted without a break, if somebody may have held something before.
    may_have_forgotten: Option<f64>,
}

/// Sees to it that the tables are there, and that they are ours to use; before when nothing may be
/// granted.
pub(crate) async fn ensure(connection: &Connection, config: &Config) -> Result<Option<Moment>> {
    let mut found = find(connection).await?;
    let lacks_holds = |found: &Found| !config.lock_delay.is_zero() && !found.has_holds;
    if found.as_ref().is_none_or(lacks_holds) {
        create(connection, config).await?;
        found = find(connection).await?;
    }
    let found = found.ok_or_else(Error::unexpected_answer)?;
    let version = found.version;
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
    let uptime = found.may_have_forgotten.map(|seconds| {
        // A clock that was set back must not shorten it.
        Duration::try_from_secs_f64(seconds).unwrap_or_default()
    });
    Ok(uptime.and_then(|uptime| config.restart_grace.until(uptime, Moment::now())))
}

/// `began`: since when the server grants. Advisory locks are gone with a restart, with the crash of
/// any of its processes, and with the standby that became the primary; only the first shows in the
/// server's start. The log writer starts again each time, but not every role may see it; the
/// statistics are empty after a crash.
const FIND: &str = "SELECT version, has_sequence_privilege('tooz_token', 'USAGE') \
                       AND has_table_privilege('tooz_group', 'SELECT, INSERT, UPDATE, DELETE') \
                       AND has_table_privilege('tooz_member', 'SELECT, INSERT, UPDATE, DELETE') \
                       AND has_table_privilege('tooz_leader', 'SELECT, INSERT, UPDATE, DELETE') \
                       AND coalesce(has_table_privilege(holds, 'SELECT, INSERT, UPDATE, DELETE'), \
                           true), \
                       holds IS NOT NULL, \
                       CASE WHEN (to_jsonb(v)->>'made_at')::timestamptz > began THEN NULL \
                           ELSE extract(epoch FROM clock_timestamp() - began)::float8 END \
                     FROM tooz_version v, CAST(to_regclass('tooz_hold') AS oid) holds, \
                       greatest(pg_postmaster_start_time(), \
                           (SELECT stats_reset FROM pg_stat_bgwriter), \
                           (SELECT max(backend_start) FROM pg_stat_activity \
                               WHERE backend_type = 'walwriter')) began";

/// `None` if there are none.
async fn find(connection: &Connection) -> Result<Option<Found>> {
    match connection.ask(FIND, &[]).await {
        Ok(rows) => match rows.first() {
            Some(row) if get(row, 1)? => Ok(Some(Found {
                version: get(row, 0)?,
                has_holds: get(row, 2)?,
                may_have_forgotten: get(row, 3)?,
            })),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_of_any_encoding_can_have_the_tables() {
        assert!(SCHEMA.is_ascii() && FIND.is_ascii());
    }
}
