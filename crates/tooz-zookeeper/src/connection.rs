//! From the configuration to a client with a session, or to why there is none.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tooz_core::{Error, ErrorKind, Moment, Result};
use zookeeper_client::{Client, Error as Cause};

use crate::config::{Config, Login};
use crate::errors::translate;
#[cfg(feature = "tls")]
use crate::tls;

/// Between attempts of background work.
pub(crate) const PAUSE: Duration = Duration::from_millis(200);

/// An attempt that failed after such a time failed because the server said nothing. Another would
/// find the same, and somebody waits for the answer.
const SILENCE: Duration = Duration::from_secs(3);

/// Opens a session. A server that can be reached and opens none, as while the servers elect their
/// leader, is tried again until the time is over; one that says nothing is not.
pub(crate) async fn open(config: &Config) -> Result<Client> {
    let end = Moment::now() + config.connect_timeout * 4 / 5;
    let servers = u32::try_from(config.servers.len()).unwrap_or(u32::MAX);
    loop {
        let begun = Moment::now();
        let connected = tokio::select! {
            connected = timeout(end.remaining(), connect(config)) => connected,
            error = unreachable(config) => return Err(error),
        };
        match connected.unwrap_or(Ok(Err(Cause::Timeout)))? {
            Ok(client) => return Ok(client),
            Err(Cause::NoHosts | Cause::Timeout) => {}
            Err(cause) => return Err(translate(cause)),
        }
        let silent = begun.elapsed() >= SILENCE * servers;
        let (error, reachable) = diagnose(config, true).await;
        if silent || !reachable || end.has_passed() {
            return Err(error);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Tries each server once. The outer error is of certificates that are not usable.
async fn connect(config: &Config) -> Result<Result<Client, Cause>> {
    let connector = Client::connector().with_session_timeout(config.timeout).with_fail_eagerly();
    let connector = match &config.login {
        Some(Login::Digest { user, password }) => {
            let secret = format!("{user}:{}", password.expose());
            connector.with_auth("digest", secret.as_bytes())
        }
        #[cfg(feature = "sasl")]
        Some(Login::Sasl { user, password }) => {
            let (user, password) = (user.clone(), password.expose().to_owned());
            connector.with_sasl(zookeeper_client::SaslOptions::digest_md5(user, password))
        }
        // The configuration refuses it.
        #[cfg(not(feature = "sasl"))]
        Some(Login::Sasl { .. }) => connector,
        None => connector,
    };
    let servers = config.connect_string();
    #[cfg(feature = "tls")]
    if let Some(files) = &config.tls {
        let connector = connector.with_tls(tls::options(files).await?);
        return Ok(connector.secure_connect(&servers).await);
    }
    Ok(connector.connect(&servers).await)
}

/// Ends if no server can be reached, which the client takes long to tell. A handshake may take longer
/// than this look.
async fn unreachable(config: &Config) -> Error {
    tokio::time::sleep(config.connect_timeout / 5).await;
    match diagnose(config, false).await {
        (error, false) => error,
        (_, true) => std::future::pending().await,
    }
}

/// The client only says that no server accepted it. So this looks at each of them, within the time
/// that is left, with a handshake where TLS is wanted or without; and whether one can be reached.
async fn diagnose(config: &Config, handshake: bool) -> (Error, bool) {
    let limit =
        config.connect_timeout * 3 / 20 / u32::try_from(config.servers.len()).unwrap_or(u32::MAX);
    let mut unreachable = None;
    for (host, port) in &config.servers {
        let at = |error: Error| error.with("server", format!("{host}:{port}"));
        match timeout(limit, look_at(config, host, *port, handshake)).await {
            Ok(Ok(())) => {
                let error = Error::new(
                    ErrorKind::Connection,
                    "the server takes connections but opens no session: it has no quorum, or one \
                     side uses TLS and the other does not",
                );
                return (at(error), true);
            }
            Ok(Err(error)) => {
                unreachable.get_or_insert(at(error));
            }
            Err(_) => {
                let error = Error::new(ErrorKind::TimedOut, "the server does not answer");
                unreachable.get_or_insert(at(error));
            }
        }
    }
    (unreachable.unwrap_or_else(|| translate(Cause::NoHosts)), false)
}

/// Whether a connection can be made at all, and TLS if it is wanted.
async fn look_at(config: &Config, host: &str, port: u16, handshake: bool) -> Result<()> {
    let stream = TcpStream::connect((host, port))
        .await
        .map_err(|e| Error::new(ErrorKind::Connection, "could not connect").caused_by(e))?;
    #[cfg(feature = "tls")]
    if handshake
        && let Some(files) = &config.tls
        && let Some(error) = tls::diagnose(files, host, stream).await
    {
        return Err(error);
    }
    #[cfg(not(feature = "tls"))]
    drop((config, stream, handshake));
    Ok(())
}
