//! Finds the server that takes writes, and what the deployment ensures.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::Row as _;
use tooz_core::{Characteristic, Characteristics, Error, ErrorKind, Result};
use tracing::warn;

use crate::config::{Address, CHARACTERISTICS, Config};
use crate::connection::{Connection, number, unsigned};
use crate::connector::{refused_as, silent};
use crate::keys;

/// The variables that describe the deployment. A server knows some of them.
const VARIABLES: &str = "'version','read_only','super_read_only','innodb_read_only','wsrep_on',\
    'wsrep_cluster_address','group_replication_group_name','group_replication_single_primary_mode'";

/// The first connection of a session, to a server that takes writes, and what the deployment
/// ensures.
pub(crate) async fn open(config: &Arc<Config>) -> Result<(Connection, Characteristics)> {
    let mut last = None;
    for address in &config.addresses {
        // The limits of the steps are longer: those of a connection that holds something.
        let limit = config.connect_timeout + config.response_timeout * 3;
        let opened = tokio::time::timeout(limit, open_at(config, address)).await;
        match opened.unwrap_or_else(|_| Err(refused_as(silent(limit), address))) {
            Ok(opened) => return Ok(opened),
            // An error that the user must fix is reported rather than what another server may say.
            Err(error) if error.kind() == ErrorKind::DriverChosenPoorly => return Err(error),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| Error::invalid("the URL names no server")))
}

async fn open_at(config: &Arc<Config>, address: &Address) -> Result<(Connection, Characteristics)> {
    let connection = Connection::open(config, address).await?;
    let settings = settings(&connection).await?;
    match judge(&connection, config, &settings, address).await {
        Ok(ensured) => Ok((connection, ensured)),
        Err(error) => {
            connection.close().await;
            Err(error)
        }
    }
}

/// The server's variables that matter, in lower case.
type Settings = HashMap<String, String>;

async fn settings(connection: &Connection) -> Result<Settings> {
    let sql = format!("SHOW GLOBAL VARIABLES WHERE Variable_name IN ({VARIABLES})");
    let rows = connection.ask(sql).await?;
    let pair = |row: &sqlx::mysql::MySqlRow| {
        let text = |column| row.try_get_unchecked::<String, _>(column).ok();
        Some((text(0)?.to_ascii_lowercase(), text(1)?.to_ascii_lowercase()))
    };
    Ok(rows.iter().filter_map(pair).collect())
}

/// What the deployment ensures, or why it cannot be used.
async fn judge(
    connection: &Connection,
    config: &Config,
    settings: &Settings,
    address: &Address,
) -> Result<Characteristics> {
    let is = |name: &str| settings.get(name).is_some_and(|value| value == "on" || value == "1");
    let poor =
        |message: &str| refused_as(Error::new(ErrorKind::DriverChosenPoorly, message), address);
    let ask = format!(
        "SELECT CAST(IS_USED_LOCK({})<=>CONNECTION_ID() AS SIGNED),CONNECTION_ID()",
        keys::marker(connection.marker)
    );
    let rows = connection.ask(ask).await?;
    if number(&rows, 0) != Some(1) || unsigned(&rows, 1) != Some(connection.number) {
        return Err(poor(
            "a proxy gives each statement another connection to the server, where locks would be \
             stranded: connect to the server itself, or turn the proxy's multiplexing off",
        ));
    }
    if is("read_only") || is("super_read_only") || is("innodb_read_only") {
        let message = "the server is a read-only replica, whose locks nobody else sees: name the \
                       server that takes writes, or all of them: the one that does is found";
        return Err(refused_as(Error::new(ErrorKind::Connection, message), address));
    }
    let galera = is("wsrep_on")
        && settings.get("wsrep_cluster_address").is_some_and(|address| !address.is_empty());
    let group = settings.get("group_replication_group_name").is_some_and(|name| !name.is_empty());
    let several = galera || (group && !is("group_replication_single_primary_mode"));
    if several && !config.single_writer {
        return Err(poor(match galera {
            true => {
                "this is a Galera cluster, whose nodes do not share locks: let all services name one \
                 and the same node, and say so with single_writer=yes"
            }
            false => {
                "this is group replication with several primaries, which do not share locks: let all \
                 services name one and the same, and say so with single_writer=yes"
            }
        }));
    }
    let mut ensured = CHARACTERISTICS;
    if several || group {
        // A server that takes over knows nothing of the locks.
        warn!("a failover loses every lock: its holder learns of that, but not at once");
        ensured = ensured.without(Characteristics::of(&[Characteristic::Linearizable]));
    }
    Ok(ensured)
}
