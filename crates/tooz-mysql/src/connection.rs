//! Opening connections, and what they find.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sqlx::mysql::{MySqlConnectOptions, MySqlSslMode};
use sqlx::{ConnectOptions as _, Row as _};
use tooz_core::{Characteristic, Characteristics, Error, ErrorKind, OperationId, Outcome, Result};
use tracing::warn;

use crate::config::{Address, Config, TlsMode};
use crate::errors::Failure;
use crate::link::{Link, number, unsigned, well_formed};
use crate::names;

/// What tells of the deployment. A server knows some of them.
const VARIABLES: &str = "'version','read_only','super_read_only','innodb_read_only','wsrep_on',\
    'wsrep_cluster_address','group_replication_group_name','group_replication_single_primary_mode'";

/// A connection to a server that takes writes.
pub(crate) struct Opened {
    pub(crate) link: Link,
    /// Where it is.
    pub(crate) address: Address,
    /// What the deployment ensures.
    pub(crate) ensured: Characteristics,
}

/// The first connection of a session.
pub(crate) async fn open(config: &Arc<Config>) -> Result<Opened> {
    let mut last = None;
    for address in &config.addresses {
        // The limits of the steps are longer: those of a connection that holds something.
        let limit = config.connect_timeout + config.response_timeout * 3;
        let opened = tokio::time::timeout(limit, open_at(config, address)).await;
        match opened.unwrap_or_else(|_| Err(refused_as(silent(limit), address))) {
            Ok(opened) => return Ok(opened),
            // What a user has to mend is told rather than what another server may say.
            Err(error) if error.kind() == ErrorKind::DriverChosenPoorly => return Err(error),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| Error::invalid("the URL names no server")))
}

async fn open_at(config: &Arc<Config>, address: &Address) -> Result<Opened> {
    let link = connect(config, address).await?;
    let settings = settings(&link).await?;
    let ensured = match judge(&link, config, &settings, address).await {
        Ok(ensured) => ensured,
        Err(error) => {
            link.close().await;
            return Err(error);
        }
    };
    Ok(Opened { link, address: address.clone(), ensured })
}

/// A further connection, to the very server that `first` is connected to.
pub(crate) async fn beside(config: &Arc<Config>, address: &Address, first: &Link) -> Result<Link> {
    let link = connect(config, address).await?;
    let ask = format!(
        "SELECT CAST(IS_USED_LOCK({})<=>{} AS SIGNED)",
        names::marker(first.marker),
        first.number
    );
    match link.ask(ask).await {
        Ok(rows) if number(&rows, 0) == Some(1) => Ok(link),
        Ok(_) if first.is_dead() => Err(Failure::Gone.into()),
        Ok(_) => {
            link.close().await;
            Err(Error::new(
                ErrorKind::DriverChosenPoorly,
                "connections reach different servers, or the first has ended: locks need all on one, \
                 so name that server itself in place of a load balancer",
            )
            .outcome_is(Outcome::NotApplied)
            .retryable(true))
        }
        Err(failure) => Err(failure.into()),
    }
}

/// A connection that the server drops after the timeout's silence, and that holds its marker.
pub(crate) async fn connect(config: &Arc<Config>, address: &Address) -> Result<Link> {
    tooz_core::ensure_crypto_provider();
    let options = options(config, address);
    let connecting = well_formed(async { Ok(options.connect().await?) });
    let connection = match tokio::time::timeout(config.connect_timeout, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(failure)) => return Err(refused(failure, address)),
        Err(_) => return Err(refused_as(silent(config.connect_timeout), address)),
    };
    let marker = OperationId::random();
    let link = Link::new(connection, marker, config, address);
    let sql = format!(
        "{settings};\
         SELECT CONNECTION_ID(),CAST(GET_LOCK({marker},0) AS SIGNED),@@max_allowed_packet",
        settings = session_settings(config),
        marker = names::marker(marker),
    );
    let asked = tokio::time::timeout(config.response_timeout, link.ask(sql)).await;
    let rows = match asked.unwrap_or(Err(Failure::Silence)) {
        Ok(rows) => rows,
        Err(failure) => {
            link.cut().await;
            return Err(refused_as(failure.into(), address));
        }
    };
    match (unsigned(&rows, 0), number(&rows, 1), unsigned(&rows, 2)) {
        (Some(id), Some(1), Some(packet)) => Ok(link.known_as(id, packet)),
        _ => Err(crate::errors::odd_answer()),
    }
}

/// In SQL: what no default of the server or the user may decide: what our statements mean, and how
/// long they, and the silence between them, may take.
fn session_settings(config: &Config) -> String {
    format!(
        "SET SESSION wait_timeout={timeout},net_read_timeout={timeout},net_write_timeout={timeout},\
         lock_wait_timeout={patience},innodb_lock_wait_timeout={patience},\
         autocommit=1,completion_type=0,sql_mode='STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION',\
         sql_select_limit={all},max_join_size={all},sql_big_selects=1,sql_safe_updates=0,\
         sql_auto_is_null=0,max_sort_length=1024,foreign_key_checks=1,unique_checks=1,\
         time_zone='+00:00'\
         /*M! ,max_statement_time=0,idle_transaction_timeout=0,idle_readonly_transaction_timeout=0,\
         idle_write_transaction_timeout=0 */ /*!50708 ,max_execution_time=0 */;\
         SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ,READ WRITE;\
         SET NAMES utf8mb4 COLLATE utf8mb4_general_ci",
        timeout = config.timeout.as_secs(),
        patience = patience(config),
        all = u64::MAX,
    )
}

/// How long the server lets a statement wait for a table or a row, in its whole seconds. Nobody of
/// ours keeps one locked that long, and what else the connection is for waits behind.
fn patience(config: &Config) -> u64 {
    config.response_timeout.as_secs().clamp(1, 2)
}

fn options(config: &Config, address: &Address) -> MySqlConnectOptions {
    let mut options = MySqlConnectOptions::new()
        .database(&config.database)
        .ssl_mode(match config.tls.mode {
            TlsMode::Disabled => MySqlSslMode::Disabled,
            TlsMode::Preferred => MySqlSslMode::Preferred,
            TlsMode::Required => MySqlSslMode::Required,
            TlsMode::VerifyCa => MySqlSslMode::VerifyCa,
            TlsMode::VerifyIdentity => MySqlSslMode::VerifyIdentity,
        })
        // Nothing of what these set matters to our statements, and each costs a round trip.
        .pipes_as_concat(false)
        .no_engine_substitution(false)
        .timezone(None)
        .set_names(false)
        .disable_statement_logging();
    options = match address {
        Address::Tcp(host, port) => options.host(host).port(*port),
        Address::Unix(path) => options.socket(path),
    };
    if let Some(user) = &config.user {
        options = options.username(user);
    }
    if let Some(password) = &config.password {
        options = options.password(password.expose());
    }
    if let Some(authorities) = &config.tls.authorities {
        options = options.ssl_ca(authorities);
    }
    if let Some((certificate, key)) = &config.tls.identity {
        options = options.ssl_client_cert(certificate).ssl_client_key(key);
    }
    options
}

fn refused(failure: Failure, address: &Address) -> Error {
    if failure.to_string().contains("rsa") {
        // A password is not sent where it could be read.
        let message = "the server wants the password, which is not sent without TLS: use \
                       ssl_mode=required, and let the server have TLS";
        let error = Error::new(ErrorKind::Authentication, message).caused_by(failure);
        return refused_as(error, address);
    }
    let error = match failure {
        Failure::Client(sqlx::Error::Io(error)) => {
            Error::new(ErrorKind::Connection, "could not connect").caused_by(error)
        }
        failure => failure.into(),
    };
    refused_as(error, address)
}

fn silent(limit: Duration) -> Error {
    let seconds = limit.as_secs_f64();
    Error::new(ErrorKind::TimedOut, format!("the server does not answer within {seconds} s"))
}

fn refused_as(error: Error, address: &Address) -> Error {
    let error = error.outcome_is(Outcome::NotApplied);
    match address {
        Address::Tcp(host, port) => error.with("server", format!("{host}:{port}")),
        Address::Unix(path) => error.with("server", path),
    }
}

/// The server's variables that matter, in lower case.
type Settings = HashMap<String, String>;

async fn settings(link: &Link) -> Result<Settings> {
    let sql = format!("SHOW GLOBAL VARIABLES WHERE Variable_name IN ({VARIABLES})");
    let rows = link.ask(sql).await?;
    let pair = |row: &sqlx::mysql::MySqlRow| {
        let text = |column| row.try_get_unchecked::<String, _>(column).ok();
        Some((text(0)?.to_ascii_lowercase(), text(1)?.to_ascii_lowercase()))
    };
    Ok(rows.iter().filter_map(pair).collect())
}

/// What the deployment ensures, or why it is of no use.
async fn judge(
    link: &Link,
    config: &Config,
    settings: &Settings,
    address: &Address,
) -> Result<Characteristics> {
    let is = |name: &str| settings.get(name).is_some_and(|value| value == "on" || value == "1");
    let poor =
        |message: &str| refused_as(Error::new(ErrorKind::DriverChosenPoorly, message), address);
    let ask = format!(
        "SELECT CAST(IS_USED_LOCK({})<=>CONNECTION_ID() AS SIGNED),CONNECTION_ID()",
        names::marker(link.marker)
    );
    let rows = link.ask(ask).await?;
    if number(&rows, 0) != Some(1) || unsigned(&rows, 1) != Some(link.number) {
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
    let mut ensured = crate::DRIVER.characteristics;
    if several || group {
        // Another server that takes over knows nothing of the locks.
        warn!("a failover forgets every lock: whoever held one learns it, but not at once");
        ensured = ensured.without(Characteristics::of(&[Characteristic::Linearizable]));
    }
    Ok(ensured)
}
