//! One connection: found, opened, authenticated and prepared.

use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ProtocolVersion, PushInfo, RedisConnectionInfo, Value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tooz_core::kit::PemFiles;
use tooz_core::{Error, ErrorKind, Moment, Outcome, Result};

use crate::answers::Bounded;
use crate::config::{Address, Config, Login, Servers};
use crate::errors::{not_connected, translate};
use crate::scripts;
use crate::server::{Closed, ServerInfo};

pub(crate) type Pushes = mpsc::UnboundedReceiver<PushInfo>;

/// A connection of the client library. It closes with its last clone.
#[derive(Clone)]
pub(crate) struct Connection {
    client: MultiplexedConnection,
    /// Set if the server may grant nothing yet.
    pub(crate) closed: Option<Closed>,
    /// Reads and writes, even while nobody waits for an answer.
    _task: Arc<JoinSet<()>>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection that is ready, and the pushes on it.
pub(crate) struct Opened {
    pub(crate) connection: Connection,
    pub(crate) pushes: Pushes,
    pub(crate) server: ServerInfo,
    /// When the last of its opening requests was sent.
    pub(crate) sent: Moment,
}

impl Deref for Connection {
    type Target = MultiplexedConnection;

    fn deref(&self) -> &MultiplexedConnection {
        &self.client
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut MultiplexedConnection {
        &mut self.client
    }
}

/// Connects to the master, loads the scripts, subscribes to `channels` and makes a first request.
pub(crate) async fn open(
    config: &Config,
    channels: &[Vec<u8>],
    first: Option<&Cmd>,
) -> Result<Opened> {
    let mut failure = None;
    for address in masters(config).await? {
        let opened = open_at(config, &address, channels, first).await;
        match opened.map_err(|error| error.with("server", &address)) {
            Ok(opened) => return Ok(opened),
            // A refused password is refused everywhere.
            Err(error) if error.kind() == ErrorKind::Authentication => return Err(error),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| Error::new(ErrorKind::Connection, "no server is known")))
}

async fn open_at(
    config: &Config,
    address: &Address,
    channels: &[Vec<u8>],
    first: Option<&Cmd>,
) -> Result<Opened> {
    let (sender, pushes) = mpsc::unbounded_channel();
    let (login, tls) = (&config.login, config.tls.as_ref());
    let mut connection = connect(config, address, login, tls, config.db, Some(sender)).await?;
    let server = ServerInfo::ask(&mut connection).await?;
    if !server.is_master {
        return Err(Error::new(ErrorKind::Backend, "the server is a read-only replica")
            .retryable(!matches!(config.servers, Servers::Listed(_))));
    }
    scripts::load().exec_async(&mut *connection).await.map_err(translate)?;
    for channel in channels {
        connection.subscribe(&channel[..]).await.map_err(translate)?;
    }
    let sent = Moment::now();
    if let Some(first) = first {
        first.exec_async(&mut *connection).await.map_err(translate)?;
    }
    connection.closed = server.closed(config, address, &mut connection).await?;
    connection.set_response_timeout(config.response_timeout);
    Ok(Opened { connection, pushes, server, sent })
}

/// Where the master may be, the best guess first.
async fn masters(config: &Config) -> Result<Vec<Address>> {
    match &config.servers {
        Servers::Listed(addresses) => Ok(addresses.clone()),
        Servers::Sentinels { at, master, login, tls } => {
            let mut ask = redis::cmd("SENTINEL");
            ask.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
            ask_each(config, at, (login, tls.as_ref()), &ask, "sentinel", named_master).await
        }
        Servers::Cluster(seeds) => {
            let slot = slot_of(config.keys.any());
            let at = (&config.login, config.tls.as_ref());
            let find = |answer: &Value| slot_master(answer, slot);
            let mut ask = redis::cmd("CLUSTER");
            ask.arg("SLOTS");
            ask_each(config, seeds, at, &ask, "node", find).await
        }
    }
}

/// Asks one server after another where the master is, until one knows.
async fn ask_each(
    config: &Config,
    servers: &[Address],
    (login, tls): (&Login, Option<&PemFiles>),
    question: &redis::Cmd,
    what: &str,
    read: impl Fn(&Value) -> Option<(String, u16)>,
) -> Result<Vec<Address>> {
    let mut failure = None;
    for server in servers {
        let answer = async {
            let mut connection = connect(config, server, login, tls, 0, None).await?;
            question.query_async::<Value>(&mut *connection).await.map_err(translate)
        };
        match answer.await.map_err(|error: Error| error.with("server", server)) {
            Ok(answer) => match (read(&answer), server) {
                // A node that has no name of its own yet is the one that was asked.
                (Some((host, port)), Address::Tcp(asked, _)) if host.is_empty() => {
                    return Ok(vec![Address::Tcp(asked.clone(), port)]);
                }
                (Some((host, port)), _) => return Ok(vec![Address::Tcp(host, port)]),
                (None, _) => {}
            },
            Err(error) if error.kind() == ErrorKind::Authentication => return Err(error),
            Err(error) => failure = Some(error),
        }
    }
    let nobody = || Error::new(ErrorKind::Connection, format!("no {what} knows the master"));
    Err(failure.unwrap_or_else(nobody))
}

fn named_master(answer: &Value) -> Option<(String, u16)> {
    let Value::Array(parts) = answer else { return None };
    Some((text(parts.first()?)?, text(parts.get(1)?)?.parse().ok()?))
}

/// The master of a slot in the answer to CLUSTER SLOTS: [first, last, [host, port, …], …].
fn slot_master(answer: &Value, slot: u16) -> Option<(String, u16)> {
    let Value::Array(ranges) = answer else { return None };
    ranges.iter().find_map(|range| {
        let Value::Array(range) = range else { return None };
        let [Value::Int(first), Value::Int(last), Value::Array(node), ..] = &range[..] else {
            return None;
        };
        if !(*first..=*last).contains(&i64::from(slot)) {
            return None;
        }
        let host = node.first().and_then(text).unwrap_or_default();
        let Value::Int(port) = node.get(1)? else { return None };
        Some((host, u16::try_from(*port).ok()?))
    })
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) => Some(text.clone()),
        _ => None,
    }
}

/// The slot of a key, by its hash tag: CRC16 (XMODEM) modulo 16384.
fn slot_of(key: &[u8]) -> u16 {
    let tag = key.iter().position(|&b| b == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        rest.iter().position(|&b| b == b'}').map(|close| &rest[..close])
    });
    let hashed = tag.filter(|tag| !tag.is_empty()).unwrap_or(key);
    let crc = hashed.iter().fold(0u16, |crc, &byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    });
    crc % 16384
}

async fn connect(
    config: &Config,
    address: &Address,
    login: &Login,
    tls: Option<&PemFiles>,
    db: i64,
    pushes: Option<mpsc::UnboundedSender<PushInfo>>,
) -> Result<Connection> {
    let mut info = RedisConnectionInfo::default().set_db(db);
    // The time limit of the opening, for which the client has none of its own; what follows is more
    // urgent.
    let mut settings =
        AsyncConnectionConfig::new().set_response_timeout(Some(config.connect_timeout));
    if let Some(user) = &login.user {
        info = info.set_username(user);
    }
    if let Some(password) = &login.password {
        info = info.set_password(password.expose());
    }
    if let Some(pushes) = pushes {
        info = info.set_protocol(ProtocolVersion::RESP3);
        settings = settings.set_push_sender(pushes);
    }
    let opening = async {
        let stream = Bounded::new(reach(address, tls).await?);
        let opened = MultiplexedConnection::new_with_config(&info, stream, settings).await;
        let (client, driver) = opened.map_err(not_connected)?;
        let mut task = JoinSet::new();
        task.spawn(driver);
        Ok(Connection { client, closed: None, _task: Arc::new(task) })
    };
    match tokio::time::timeout(config.connect_timeout, opening).await {
        // Nothing was asked of the server yet.
        Ok(opened) => opened.map_err(|error: Error| error.outcome_is(Outcome::NotApplied)),
        Err(_) => Err(Error::new(ErrorKind::TimedOut, "no answer came in time")),
    }
}

/// A stream to the server.
async fn reach(address: &Address, tls: Option<&PemFiles>) -> Result<Box<dyn Stream>> {
    let failed = |error: io::Error| not_connected(error.into());
    match address {
        Address::Unix(path) => Ok(Box::new(UnixStream::connect(path).await.map_err(failed)?)),
        Address::Tcp(host, port) => {
            let stream = first_of(host, *port).await.map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            #[cfg(feature = "tls")]
            if let Some(tls) = tls {
                let secured = tls.connect(host, stream).await?;
                return Ok(Box::new(secured.map_err(failed)?));
            }
            // Without the feature, the options that ask for TLS are refused.
            let _ = tls;
            Ok(Box::new(stream))
        }
    }
}

/// Connects to that address of the host which answers first.
async fn first_of(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut attempts = JoinSet::new();
    for address in lookup_host((host, port)).await? {
        attempts.spawn(TcpStream::connect(address));
    }
    let mut failure = io::ErrorKind::NotFound.into();
    while let Some(attempt) = attempts.join_next().await {
        match attempt? {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_server() {
        // The value of the cluster specification, and what CLUSTER KEYSLOT says.
        assert_eq!(slot_of(b"123456789"), 0x31c3);
        assert_eq!(slot_of(b"foo"), 12182);
        assert_eq!(slot_of(b"{foo}_bar"), slot_of(b"foo"));
        assert_eq!(slot_of(b"{}foo"), slot_of(b"{}foo"));
    }
}
