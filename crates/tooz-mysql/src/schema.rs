//! The tables.

use std::time::Duration;

use tooz_core::{Error, ErrorKind, Result};

use crate::config::Config;
use crate::errors::{self, Failure};
use crate::link::{Link, unsigned};

/// The SQL that makes what the driver needs, for an administrator where its user may not.
pub const SCHEMA: &str = include_str!("schema.sql");

/// The version of the tables that this driver works with.
const VERSION: u64 = 1;

/// How long their creation may take.
const CREATION: Duration = Duration::from_secs(30);

/// Sees to it that the tables are there, and that they are ours to use.
pub(crate) async fn ensure(link: &Link, config: &Config) -> Result<()> {
    let ask =
        format!("SELECT CAST(MAX(version) AS UNSIGNED) FROM {}", config.names.table("version"));
    let version = match link.ask(ask.clone()).await {
        Ok(rows) => unsigned(&rows, 0),
        Err(failure) if failure.is(errors::NO_SUCH_TABLE) => None,
        Err(failure) if failure.is_denied() => return Err(denied("use", config, failure)),
        Err(failure) => return Err(failure.into()),
    };
    let version = match version {
        Some(version) => version,
        None => create(link, config).await?,
    };
    if version == VERSION {
        return Ok(());
    }
    let message = format!(
        "the tables have version {version} and this driver knows {VERSION}: use one version of \
         tooz for all services of a namespace"
    );
    Err(Error::new(ErrorKind::Backend, message).with("namespace", config.names.namespace()))
}

async fn create(link: &Link, config: &Config) -> Result<u64> {
    let own = format!("`{}_", config.names.namespace());
    // It takes longer than any other statement of ours.
    let creation = link.wait(SCHEMA.replace("`tooz_", &own));
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
        .with("namespace", config.names.namespace())
        .caused_by(failure)
}
