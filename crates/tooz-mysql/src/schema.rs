//! The tables.

use std::time::Duration;

use tooz_core::{Error, ErrorKind, Moment, Result};

use crate::config::Config;
use crate::connection::{Connection, bytes, number, unsigned};
use crate::errors::{self, Failure};

/// The SQL that makes what the driver needs, for an administrator where its user may not.
pub const SCHEMA: &str = include_str!("schema.sql");

/// The version of the tables that this driver works with.
const VERSION: u64 = 1;

/// Those that any version makes.
const TABLES: [&str; 7] = ["session", "group", "member", "token", "reader", "broken", "version"];

/// How long their creation may take.
const CREATION: Duration = Duration::from_secs(30);

/// How much the server's uptime and the time of a table's creation, in whole seconds, may differ from
/// each other though both began together.
const ROUNDING: u64 = 2;

/// Sees to it that the tables are there, and that they are ours to use; before when nothing may be
/// granted.
pub(crate) async fn ensure(connection: &Connection, config: &Config) -> Result<Option<Moment>> {
    let mut ask =
        format!("SELECT CAST(MAX(version) AS UNSIGNED) FROM {}", config.keys.table("version"));
    if !config.lock_delay.is_zero() {
        // Older versions did not make it.
        ask = format!("SELECT 1 FROM {} LIMIT 0;{ask}", config.keys.table("hold"));
    }
    let version = match connection.ask(ask.clone()).await {
        Ok(rows) => unsigned(&rows, 0),
        Err(failure) if failure.is(errors::NO_SUCH_TABLE) => None,
        Err(failure) if failure.is_denied() => return Err(denied("use", config, failure)),
        Err(failure) => return Err(failure.into()),
    };
    let version = match version {
        Some(version) => version,
        None => create(connection, config).await?,
    };
    if version != VERSION {
        let message = format!(
            "the tables have version {version} and this driver knows {VERSION}: use one version of \
             tooz for all services of a namespace"
        );
        let error = Error::new(ErrorKind::Backend, message);
        return Err(error.with("namespace", config.keys.namespace()));
    }
    grants_from(connection, config).await
}

/// Named locks are gone with a restart, and a holder that was cut off may not know. Whoever
/// had no tables yet held none before the start: so a new server, and a new namespace, need no grace.
async fn grants_from(connection: &Connection, config: &Config) -> Result<Option<Moment>> {
    let rows = connection.ask("SHOW GLOBAL STATUS LIKE 'Uptime'".to_owned()).await?;
    let answered = Moment::now();
    let uptime = rows.first().and_then(|row| bytes(row, 1));
    let uptime = uptime.and_then(|text| String::from_utf8(text).ok()?.parse().ok());
    let uptime: u64 = uptime.ok_or_else(Error::unexpected_answer)?;
    let until = config.restart_grace.until_by_seconds(uptime, answered);
    if until.is_none() {
        return Ok(None);
    }
    let ask = format!(
        "SELECT CAST(UNIX_TIMESTAMP(NOW())-UNIX_TIMESTAMP(MIN(CREATE_TIME)) AS SIGNED) \
         FROM information_schema.TABLES WHERE TABLE_SCHEMA=DATABASE() AND TABLE_NAME IN ({})",
        TABLES.map(|table| format!("'{}_{table}'", config.keys.namespace())).join(","),
    );
    let rows = connection.ask(ask).await?;
    // Of an age that is not known, or in the future, the worst is supposed.
    let age = number(&rows, 0).and_then(|age| u64::try_from(age).ok()).unwrap_or(u64::MAX);
    // The uptime is the older of the two answers.
    Ok(until.filter(|_| age > uptime.saturating_add(ROUNDING)))
}

async fn create(connection: &Connection, config: &Config) -> Result<u64> {
    let own = format!("`{}_", config.keys.namespace());
    // It takes longer than any other statement of ours.
    let creation = connection.wait(SCHEMA.replace("`tooz_", &own));
    match tokio::time::timeout(CREATION, creation).await {
        Ok(Ok(_)) => Ok(VERSION),
        Ok(Err(failure)) if failure.is_denied() => Err(denied("create", config, failure)),
        Ok(Err(failure)) => Err(failure.into()),
        Err(_) => Err(Failure::Silence.into()),
    }
}

fn denied(what: &str, config: &Config, failure: Failure) -> Error {
    let message = format!(
        "the user may not {what} the tables of tooz: let an administrator run schema.sql of \
         tooz-mysql, which says how"
    );
    Error::new(ErrorKind::Authentication, message)
        .with("namespace", config.keys.namespace())
        .caused_by(failure)
}
