//! One connection, which is one session of the server.

use std::fmt;
use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Notification, Row};
use tokio_util::sync::CancellationToken;
use tooz_core::kit::{find_cause, locked};
use tooz_core::{Error, ErrorKind, Moment, OperationId, Outcome, Result};
use tracing::{debug, warn};

use crate::answers::TooLarge;
use crate::config::{Address, Config, LANES};
use crate::connector::{self, Opened};
use crate::errors::{get, timed_out, translate};
use crate::keys::quoted;

/// How long a connection that nobody needs may take to close.
const GOODBYE: Duration = Duration::from_millis(500);

/// The values of a statement's `$1`, `$2` …
pub(crate) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// A connection that is set up.
pub(crate) struct Connection {
    client: Mutex<Option<Arc<Client>>>,
    pub(crate) server: Address,
    /// The server's process.
    pub(crate) process: i32,
    /// The advisory lock that it holds as long as it lives.
    pub(crate) key: i64,
    /// When it was opened or last used.
    used: Mutex<Moment>,
    /// As long as it is open.
    socket: Weak<OwnedFd>,
    ended: CancellationToken,
    limit: Duration,
    /// For statements that may have to wait for somebody.
    lanes: Semaphore,
    /// Whether nobody can be between us and the server.
    pub(crate) is_direct: bool,
    closing: CancellationToken,
}

/// What the server pushes on a connection.
pub(crate) type Notifications = mpsc::UnboundedReceiver<Notification>;

impl Connection {
    /// Opens a connection and leaves it as it is: see [`set_up`](Self::set_up). It goes to the server
    /// of another that it is to be beside, or else to the first that can be written to.
    pub(crate) async fn open(
        config: &Config,
        name: &str,
        beside: Option<&Self>,
    ) -> Result<(Self, Notifications)> {
        let servers = match beside {
            None => &config.servers[..],
            Some(other) => std::slice::from_ref(&other.server),
        };
        let mut last = None;
        for server in servers {
            match Self::open_at(config, server, name).await {
                Ok(opened) => return Ok(opened),
                // A password that one server refuses must not be tried on all.
                Err(error) if error.kind() == ErrorKind::Authentication => return Err(error),
                Err(error) => {
                    debug!(%server, %error, "not this server");
                    last.get_or_insert(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::invalid("the URL names no server")))
    }

    async fn open_at(
        config: &Config,
        server: &Address,
        name: &str,
    ) -> Result<(Self, Notifications)> {
        let Opened { client, connection, local_port, handle } =
            connector::open(config, server, name).await?;
        let handle = Arc::new(handle);
        let socket = Arc::downgrade(&handle);
        let (ended, closing) = (CancellationToken::new(), CancellationToken::new());
        let (said, notifications) = mpsc::unbounded_channel();
        tokio::spawn(drive(connection, handle, said, ended.clone(), closing.clone()));
        let mut this = Self {
            client: Mutex::new(Some(Arc::new(client))),
            server: server.clone(),
            process: 0,
            key: config.keys.connection(OperationId::random()),
            used: Mutex::new(Moment::now()),
            socket,
            ended,
            limit: config.connect_timeout,
            lanes: Semaphore::new(LANES as usize),
            is_direct: false,
            closing,
        };
        const WHO: &str = "SELECT pg_backend_pid(), inet_client_port(), pg_is_in_recovery(), \
                           current_setting('transaction_read_only')::boolean, \
                           current_setting('session_replication_role') = 'replica'";
        let who = this.one(WHO, &[]).await?;
        if get(&who, 2)? || get(&who, 3)? {
            return Err(Error::new(
                ErrorKind::DriverChosenPoorly,
                "the server is a standby or read-only, where a lock excludes nobody: name the \
                 primary in the URL, or all servers, of which the one that can be written to is \
                 taken",
            )
            .with("server", server));
        }
        if get(&who, 4)? {
            return Err(Error::new(
                ErrorKind::DriverChosenPoorly,
                "the setting session_replication_role is replica, under which the server checks no \
                 foreign keys: let the role of tooz have origin",
            )
            .with("server", server));
        }
        this.process = get(&who, 0)?;
        let seen: Option<i32> = get(&who, 1)?;
        this.is_direct = local_port.is_some() && local_port.map(i32::from) == seen;
        this.limit = config.response_timeout;
        Ok((this, notifications))
    }

    /// Makes it ours: the server ends it when it was silent for the timeout, and everybody can see
    /// whether it lives.
    ///
    /// A statement on it waits for locks for `lock_timeout`; without end if it is zero.
    pub(crate) async fn set_up(
        &self,
        config: &Config,
        beside: Option<&Self>,
        lock_timeout: Duration,
    ) -> Result<()> {
        let lock_timeout = lock_timeout.as_millis();
        let timeout = config.timeout.as_millis();
        let part = (config.timeout.as_secs() / 4).max(1);
        // The other's key is taken, if this is the other's server.
        let other = beside.map_or(self.key, |other| other.key);
        let sql = format!(
            "SELECT NOT pg_try_advisory_xact_lock_shared($3), \
             pg_advisory_lock($2), \
             set_config('search_path', $1, false), \
             set_config('idle_session_timeout', '{timeout}ms', false), \
             set_config('tcp_user_timeout', '{timeout}ms', false), \
             set_config('tcp_keepalives_idle', '{part}s', false), \
             set_config('tcp_keepalives_interval', '{part}s', false), \
             set_config('tcp_keepalives_count', '4', false), \
             set_config('statement_timeout', '0', false), \
             set_config('lock_timeout', '{lock_timeout}ms', false), \
             set_config('idle_in_transaction_session_timeout', '0', false), \
             set_config('default_transaction_isolation', 'read committed', false), \
             set_config('row_security', 'off', false), \
             set_config('exit_on_error', 'off', false), \
             set_config('standard_conforming_strings', 'on', false), \
             CASE WHEN current_setting('transaction_timeout', true) IS NOT NULL \
                THEN set_config('transaction_timeout', '0', false) END, \
             set_config('synchronous_commit', CASE current_setting('synchronous_commit') \
                WHEN 'off' THEN 'local' ELSE current_setting('synchronous_commit') END, false)"
        );
        let path = format!("{}, pg_temp", quoted(config.keys.schema()));
        let parameters: [Parameter<'_>; 3] =
            [(&path, Type::TEXT), (&self.key, Type::INT8), (&other, Type::INT8)];
        // Not all systems have this one: a client that vanished while it waited is then noticed
        // when it gets what it waited for.
        let check = config.check_interval().as_millis();
        let check = format!("SET client_connection_check_interval = '{check}ms'");
        let (set, _) = tokio::join!(self.one(&sql, &parameters), self.script(&check));
        let is_elsewhere = !get::<bool>(&set?, 0)?;
        if beside.is_some() && is_elsewhere {
            return Err(Error::new(
                ErrorKind::Connection,
                "a second connection reached another server: each host in the URL must be one server",
            )
            .with("server", &self.server));
        }
        Ok(())
    }

    /// No statement on it waits for long from here on.
    pub(crate) async fn wait_briefly(&self, config: &Config) -> Result<()> {
        let time = config.lock_timeout().as_millis().max(1);
        self.script(&format!("SET lock_timeout = '{time}ms'")).await
    }

    // ---- Asking.

    /// One statement, one round trip, however long it takes.
    pub(crate) async fn wait_for(
        &self,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>> {
        let client = self.client()?;
        client.query_typed(sql, parameters).await.map_err(translate)
    }

    /// A lane for a statement that may have to wait: there are so few that no heartbeat comes too
    /// late behind them. `None` when the connection is over.
    pub(crate) async fn lane(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.lanes.acquire().await.ok()
    }

    /// One statement within the time limit. When that is over, it may still be carried out.
    pub(crate) async fn ask(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>> {
        let end = tokio::time::Instant::now() + self.limit;
        let Ok(_lane) = tokio::time::timeout_at(end, self.lane()).await else {
            return Err(timed_out().outcome_is(Outcome::NotApplied));
        };
        let answer = tokio::time::timeout_at(end, self.wait_for(sql, parameters)).await;
        answer.unwrap_or_else(|_| Err(timed_out()))
    }

    /// The server's process that answers. The question waits for nobody, in no lane, and renews.
    pub(crate) async fn process_now(&self) -> Result<i32> {
        let answer = self.wait_for("SELECT pg_backend_pid()", &[]);
        let answer = tokio::time::timeout(self.limit, answer).await;
        let rows = answer.unwrap_or_else(|_| Err(timed_out()));
        let rows = rows.map_err(|error| error.outcome_is(Outcome::NotApplied))?;
        get(rows.first().ok_or_else(Error::unexpected_answer)?, 0)
    }

    /// [`ask`](Self::ask), of a statement that only reads.
    pub(crate) async fn read(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>> {
        self.ask(sql, parameters).await.map_err(|error| error.outcome_is(Outcome::NotApplied))
    }

    /// The one row of a statement's answer.
    pub(crate) async fn one(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Row> {
        self.ask(sql, parameters).await?.pop().ok_or_else(Error::unexpected_answer)
    }

    /// Statements without parameters, one after another.
    pub(crate) async fn script(&self, sql: &str) -> Result<()> {
        let client = self.client()?;
        let done = tokio::time::timeout(self.limit, client.batch_execute(sql)).await;
        done.map_or_else(|_| Err(timed_out()), |done| done.map_err(translate))
    }

    fn client(&self) -> Result<Arc<Client>> {
        *locked(&self.used) = Moment::now();
        let client = locked(&self.client).clone();
        client.ok_or_else(|| Error::new(ErrorKind::SessionLost, "the session is over"))
    }

    // ---- Its end.

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Waits until the server ends it, or the network.
    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// What tells whether it is open, for [`Lease::stands_with`](tooz_core::Lease::stands_with).
    pub(crate) fn probe(&self) -> impl Fn() -> bool + Send + Sync + use<> {
        let socket = self.socket.clone();
        move || socket.upgrade().is_some_and(|socket| connector::stands(&socket))
    }

    /// Since when nobody has used it.
    pub(crate) fn idle_since(&self) -> Moment {
        *locked(&self.used)
    }

    /// Says goodbye as soon as the answers that are still to come are there, or after a short while
    /// without them.
    pub(crate) fn close(&self) {
        drop(locked(&self.client).take());
        self.closing.cancel();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("server", &self.server)
            .field("process", &self.process)
            .finish_non_exhaustive()
    }
}

/// Moves what is sent and received, until either end is done.
async fn drive(
    mut connection: connector::Connection,
    // Keeps the socket open, so it ends with the connection.
    _handle: Arc<OwnedFd>,
    said: mpsc::UnboundedSender<Notification>,
    ended: CancellationToken,
    closing: CancellationToken,
) {
    let moving = async {
        loop {
            match poll_fn(|cx| connection.poll_message(cx)).await {
                Some(Ok(AsyncMessage::Notification(notification))) => {
                    // Nobody listens on most connections.
                    drop(said.send(notification));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) if find_cause::<TooLarge>(&error).is_some() => {
                    return warn!(error = %TooLarge, "the connection is given up");
                }
                Some(Err(error)) => return debug!(%error, "connection ended"),
                None => return,
            }
        }
    };
    let goodbye = async {
        closing.cancelled().await;
        tokio::time::sleep(GOODBYE).await;
    };
    tokio::select! {
        () = moving => {}
        () = goodbye => {}
    }
    ended.cancel();
}
