//! A socket to one server, and the log-in over it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::NoTlsStream;
use tokio_postgres::{Client, NoTls};
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use tooz_core::{Error, ErrorKind, Result};
use tracing::debug;

use crate::answers::Bounded;
use crate::config::{Address, Config};
use crate::errors::{translate_opening, unreachable};
use crate::tls::{Tls, encrypt};

/// The oldest server that can end silent sessions by itself.
const OLDEST: u32 = 14;

type Socket = Either<TcpStream, UnixStream>;

/// TLS is made before, so that the client library needs none.
pub(crate) type Connection =
    tokio_postgres::Connection<Bounded<Either<TlsStream<Socket>, Socket>>, NoTlsStream>;

/// A connection that is logged in.
pub(crate) struct Opened {
    pub(crate) client: Client,
    pub(crate) connection: Connection,
    pub(crate) local_port: Option<u16>,
    /// The socket, to look at.
    pub(crate) handle: OwnedFd,
}

/// A connection to one server.
pub(crate) async fn open(config: &Config, address: &Address, name: &str) -> Result<Opened> {
    let limit = config.connect_timeout;
    let opening = async {
        let tls = match address {
            Address::Tcp(..) => client_of(&config.tls).await?,
            Address::Unix(_) => None,
        };
        let socket = connect(address, config.timeout).await.map_err(unreachable)?;
        let (local_port, handle) = match &socket {
            Either::Left(tcp) => (tcp.local_addr().ok().map(|address| address.port()), tcp.as_fd()),
            Either::Right(unix) => (None, unix.as_fd()),
        };
        let handle = handle.try_clone_to_owned().map_err(|e| {
            Error::new(ErrorKind::Connection, "the system could not open a socket").caused_by(e)
        })?;
        let mut settings = tokio_postgres::Config::new();
        settings.application_name(name);
        if let Some(user) = &config.user {
            settings.user(user);
        }
        if let Some(password) = &config.password {
            settings.password(password.expose());
        }
        if let Some(database) = &config.database {
            settings.dbname(database);
        }
        let socket = match (address, tls) {
            (Address::Tcp(host, _), Some(tls)) => {
                let name = ServerName::try_from(host.clone()).map_err(|e| {
                    Error::invalid("the host's name cannot be used for TLS; see sslmode")
                        .caused_by(e)
                })?;
                encrypt(socket, config.tls.mode, name, tls).await?
            }
            _ => Either::Right(socket),
        };
        settings.ssl_mode(SslMode::Disable);
        let (client, connection) =
            settings.connect_raw(Bounded::new(socket), NoTls).await.map_err(translate_opening)?;
        Ok(Opened { client, connection, local_port, handle })
    };
    let opened = tokio::time::timeout(limit, opening).await.unwrap_or_else(|_| {
        let seconds = limit.as_secs_f64();
        let message = format!("the server did not complete the login within {seconds} s");
        Err(Error::new(ErrorKind::TimedOut, message))
    });
    let opened = opened.map_err(|error| error.with("server", address))?;
    let version = opened.connection.parameter("server_version").unwrap_or_default();
    let major = version.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    if major.parse::<u32>().is_ok_and(|major| major < OLDEST) {
        return Err(Error::new(
            ErrorKind::DriverChosenPoorly,
            format!("PostgreSQL {OLDEST} or newer is needed, because it can end silent sessions"),
        )
        .with("version", version)
        .with("server", address));
    }
    debug!(server = %address, version, "connected");
    Ok(opened)
}

/// The client's side of TLS, from its files.
async fn client_of(tls: &Tls) -> Result<Option<Arc<rustls::ClientConfig>>> {
    let tls = tls.clone();
    // Files may be on a slow disk.
    let read = tokio::task::spawn_blocking(move || tls.client()).await;
    // A file that is just being replaced is complete a moment later.
    let passing = |error: Error| error.retryable(true);
    read.unwrap_or_else(|e| Err(Error::new(ErrorKind::Internal, "TLS is not set up").caused_by(e)))
        .map_err(passing)
}

/// Whether a connection is open: neither its end nor an error has come, read or not. It asks the
/// system and does not block.
pub(crate) fn stands(socket: &OwnedFd) -> bool {
    // That the peer has ended its direction.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let end = PollFlags::from_bits_retain(nix::libc::POLLRDHUP);
    // Only the end of both directions.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let end = PollFlags::empty();
    let mut asked = [PollFd::new(socket.as_fd(), end)];
    // An error or a hang-up is reported even if not asked for. A call that fails says nothing.
    !matches!(poll(&mut asked, PollTimeout::ZERO), Ok(1..))
}

/// Connects. A peer that is silent for `timeout` counts as gone.
async fn connect(address: &Address, timeout: Duration) -> io::Result<Socket> {
    match address {
        Address::Unix(path) => UnixStream::connect(path).await.map(Either::Right),
        Address::Tcp(host, port) => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            let socket = SockRef::from(&stream);
            let part = (timeout / 4).max(Duration::from_secs(1));
            socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(part).with_interval(part))?;
            #[cfg(target_os = "linux")]
            socket.set_tcp_user_timeout(Some(timeout))?;
            Ok(Either::Left(stream))
        }
    }
}
