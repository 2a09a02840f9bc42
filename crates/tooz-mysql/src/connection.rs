//! One connection: requests in their order, and its end at the server.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, TryFutureExt as _, TryStreamExt as _};
use sqlx::mysql::{MySqlConnection, MySqlQueryResult, MySqlRow};
use sqlx::{AssertSqlSafe, Connection as _, Either, Row as _};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tooz_core::{Error, ErrorKind, Moment, OperationId, Outcome, Result};
use tracing::debug;

use crate::config::{Address, Config};
use crate::connector::{self, well_formed};
use crate::errors::{self, Failure};
use crate::keys;

pub(crate) type Rows = Vec<MySqlRow>;

/// What statements gave.
#[derive(Default)]
pub(crate) struct Reply {
    /// The rows of all.
    pub(crate) rows: Rows,
    /// What became of each.
    pub(crate) results: Vec<MySqlQueryResult>,
}

/// How often a request is repeated that was in the way of another.
const CONFLICTS: u32 = 20;

/// A connection that is never shared with anybody else's, and with whose end the server frees
/// everything that it holds.
///
/// Nothing ends it for being slow before the server would: what it holds is lost no sooner than at
/// the deadline. A statement that is slow is ended at the server instead.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    /// The server's number for it.
    pub(crate) number: u64,
    /// The name of the lock by which others see that it lives.
    pub(crate) marker: OperationId,
    /// The server answers a longer request by ending the connection.
    packet: u64,
    config: Arc<Config>,
    address: Address,
    /// Where statements queue: one at a time goes on to `open`, so that what is urgent is next
    /// there.
    gate: Arc<Mutex<()>>,
    open: Arc<Mutex<Option<MySqlConnection>>>,
    dead: CancellationToken,
}

/// How a request queues, and how long it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// In the order of arrival; ended when it is slow.
    Ordinary,
    /// Before all ordinary ones.
    Urgent,
    /// In the order of arrival, and as long as it takes.
    Waits,
}

impl Connection {
    /// One that the server drops after the timeout's silence, and that holds its marker.
    pub(crate) async fn open(config: &Arc<Config>, address: &Address) -> Result<Self> {
        let open = connector::open(config, address).await?;
        let mut this = Self {
            number: 0,
            marker: OperationId::random(),
            packet: u64::MAX,
            config: config.clone(),
            address: address.clone(),
            gate: Arc::default(),
            open: Arc::new(Mutex::new(Some(open))),
            dead: CancellationToken::new(),
        };
        let sql = format!(
            "{settings};\
             SELECT CONNECTION_ID(),CAST(GET_LOCK({marker},0) AS SIGNED),@@max_allowed_packet",
            settings = session_settings(config),
            marker = keys::marker(this.marker),
        );
        let asked = tokio::time::timeout(config.response_timeout, this.ask(sql)).await;
        let rows = match asked.unwrap_or(Err(Failure::Silence)) {
            Ok(rows) => rows,
            Err(failure) => {
                this.cut().await;
                return Err(connector::refused_as(failure.into(), address));
            }
        };
        match (unsigned(&rows, 0), number(&rows, 1), unsigned(&rows, 2)) {
            (Some(number), Some(1), Some(packet)) => {
                (this.number, this.packet) = (number, packet);
                Ok(this)
            }
            _ => Err(Error::unexpected_answer()),
        }
    }

    /// Another one to the same address: behind a load balancer, that may be another server.
    pub(crate) async fn another(&self) -> Result<Self> {
        Self::open(&self.config, &self.address).await
    }

    /// Another one to exactly the server that this is connected to.
    pub(crate) async fn beside(&self) -> Result<Self> {
        let other = self.another().await?;
        let ask = format!(
            "SELECT CAST(IS_USED_LOCK({})<=>{} AS SIGNED)",
            keys::marker(self.marker),
            self.number
        );
        match other.ask(ask).await {
            Ok(rows) if number(&rows, 0) == Some(1) => Ok(other),
            Ok(_) if self.is_dead() => Err(Failure::Gone.into()),
            Ok(_) => {
                other.close().await;
                Err(Error::new(
                    ErrorKind::DriverChosenPoorly,
                    "connections reach different servers, or the first has ended: locks need all on \
                     one, so name that server itself in place of a load balancer",
                )
                .outcome_is(Outcome::NotApplied)
                .retryable(true))
            }
            Err(failure) => Err(failure.into()),
        }
    }

    /// Sends statements, all in one packet, and returns the rows of all; the first that fails is the
    /// last. Dropping the future does not stop it.
    pub(crate) async fn ask(&self, sql: String) -> Result<Rows, Failure> {
        Ok(self.reply(sql).await?.rows)
    }

    /// The same, with what became of each statement.
    pub(crate) async fn reply(&self, sql: String) -> Result<Reply, Failure> {
        self.run(sql, Kind::Ordinary).await
    }

    /// The rows, before all others that queue: for what renews or frees, and uses no table.
    pub(crate) async fn urge(&self, sql: String) -> Result<Rows, Failure> {
        Ok(self.run(sql, Kind::Urgent).await?.rows)
    }

    /// The rows without a limit of the time.
    pub(crate) async fn wait(&self, sql: String) -> Result<Rows, Failure> {
        Ok(self.run(sql, Kind::Waits).await?.rows)
    }

    /// Statements that change nothing if they fail: repeated while others are in their way.
    pub(crate) async fn change(&self, sql: &str) -> Result<Rows, Failure> {
        Ok(self.change_and_reply(sql).await?.rows)
    }

    /// The same, with what became of each statement.
    pub(crate) async fn change_and_reply(&self, sql: &str) -> Result<Reply, Failure> {
        let mut conflicts = 0;
        loop {
            match self.reply(sql.to_owned()).await {
                Err(failure) if failure.is_conflict() && conflicts < CONFLICTS => conflicts += 1,
                result => return result,
            }
        }
    }

    /// The same in one transaction.
    pub(crate) async fn transact(&self, sql: &str) -> Result<Rows, Failure> {
        let sql = format!("START TRANSACTION;{sql};COMMIT");
        let mut conflicts = 0;
        loop {
            let failure = match self.ask(sql.clone()).await {
                Ok(rows) => return Ok(rows),
                Err(failure) => failure,
            };
            if !failure.is_fatal() {
                self.ask("ROLLBACK".to_owned()).await?;
            }
            if !failure.is_conflict() || conflicts == CONFLICTS {
                return Err(failure);
            }
            conflicts += 1;
        }
    }

    async fn run(&self, sql: String, kind: Kind) -> Result<Reply, Failure> {
        // One byte more says that it is a statement.
        let length = sql.len() as u64 + 1;
        if length > self.packet {
            return Err(Failure::TooLarge { length, most: self.packet });
        }
        let this = self.clone();
        // In a task, so that no answer is ever left unread on the connection.
        let work = tokio::spawn(async move {
            let _next = match kind {
                Kind::Urgent => None,
                Kind::Ordinary | Kind::Waits => Some(this.gate.lock().await),
            };
            let mut slot = this.open.lock().await;
            let Some(open) = slot.as_mut() else { return Err(Failure::Gone) };
            let outcome = this.exchange(open, sql, kind).await;
            if outcome.as_ref().is_err_and(Failure::is_fatal) {
                *slot = None;
                this.dead.cancel();
            }
            outcome
        });
        // The runtime ends.
        work.await.unwrap_or(Err(Failure::Gone))
    }

    async fn exchange(
        &self,
        open: &mut MySqlConnection,
        sql: String,
        kind: Kind,
    ) -> Result<Reply, Failure> {
        let sent = Moment::now();
        let mut ending: Option<JoinHandle<()>> = None;
        let outcome = {
            let statements = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_many(&mut *open).try_fold(
                Reply::default(),
                async |mut reply, next| {
                    match next {
                        Either::Left(result) => reply.results.push(result),
                        Either::Right(row) => reply.rows.push(row),
                    }
                    Ok(reply)
                },
            );
            let mut statements = pin!(well_formed(statements.map_err(Failure::from)));
            let mut slow = pin!(tokio::time::sleep(self.config.response_timeout));
            loop {
                tokio::select! {
                    reply = &mut statements => break reply,
                    () = self.dead.cancelled() => return Err(Failure::Silence),
                    () = &mut slow, if kind != Kind::Waits => {
                        if sent.elapsed() >= self.config.timeout {
                            return Err(Failure::Silence);
                        }
                        if ending.as_ref().is_none_or(JoinHandle::is_finished) {
                            ending = Some(tokio::spawn(end_statement(self.clone())));
                        }
                        slow.as_mut().reset(Instant::now() + self.config.response_timeout);
                    }
                }
            }
        };
        let Some(ending) = ending else { return outcome };
        // It must not end a later statement. If it comes when there is none, it ends the next.
        let _ = ending.await;
        if !outcome.as_ref().is_err_and(Failure::is_fatal) {
            let idle = well_formed(async { Ok(sqlx::raw_sql("DO 0").execute(open).await?) });
            match tokio::time::timeout(self.config.response_timeout, idle).await {
                Ok(Err(failure)) if failure.is_fatal() => return Err(failure),
                Err(_) => return Err(Failure::Silence),
                Ok(_) => {}
            }
        }
        match outcome {
            Err(failure) if failure.is(errors::INTERRUPTED) => Err(Failure::Slow),
            outcome => outcome,
        }
    }

    /// Whether it can no longer be used.
    pub(crate) fn is_dead(&self) -> bool {
        self.dead.is_cancelled()
    }

    /// Waits until it is.
    pub(crate) async fn died(&self) {
        self.dead.cancelled().await;
    }

    /// Ends it silently, even in the middle of a request.
    pub(crate) async fn cut(&self) {
        self.dead.cancel();
        *self.open.lock().await = None;
    }

    /// Ends it, although it no longer answers, at the server as well: it may wait for a lock
    /// there and not notice that we are gone.
    pub(crate) fn abandon(&self) {
        let this = self.clone();
        tokio::spawn(async move {
            this.cut().await;
            // After its time of silence the server does it by itself.
            let until = Moment::now() + this.config.timeout;
            while !until.has_passed() {
                match this.end_at_server().await {
                    Ok(()) => return,
                    Err(error) => debug!(%error, "an abandoned connection may still be there"),
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
    }

    async fn end_at_server(&self) -> Result<()> {
        let other = self.another().await?;
        // The number may be another's by now, the marker cannot.
        let ask = format!("SELECT CAST(IS_USED_LOCK({}) AS SIGNED)", keys::marker(self.marker));
        let found = other.ask(ask).await.map(|rows| number(&rows, 0));
        if let Ok(Some(number)) = found {
            let _ = other.ask(format!("KILL {number}")).await;
        }
        other.close().await;
        found.map(drop).map_err(Into::into)
    }

    /// Frees everything that it holds, and ends it. It has no request under way.
    pub(crate) async fn close(&self) {
        // A KILL QUERY that came too late for its own target ends this statement instead.
        for _ in 0..3 {
            let freeing = self.ask("DO RELEASE_ALL_LOCKS()".to_owned());
            match tokio::time::timeout(self.config.response_timeout, freeing).await {
                Ok(Err(failure)) if failure.is(errors::INTERRUPTED) => {}
                _ => break,
            }
        }
        self.dead.cancel();
        if let Some(connection) = self.open.lock().await.take() {
            // The server notices the end in any case.
            let _ = tokio::time::timeout(self.config.response_timeout, connection.close()).await;
        }
    }
}

/// In SQL: the settings that no default of the server or the user may decide: what our statements
/// mean, and how long they, and the silence between them, may take.
fn session_settings(config: &Config) -> String {
    format!(
        "SET SESSION wait_timeout={timeout},net_read_timeout={timeout},net_write_timeout={timeout},\
         lock_wait_timeout={lock_wait},innodb_lock_wait_timeout={lock_wait},\
         autocommit=1,completion_type=0,sql_mode='STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION',\
         sql_select_limit={all},max_join_size={all},sql_big_selects=1,sql_safe_updates=0,\
         sql_auto_is_null=0,max_sort_length=1024,foreign_key_checks=1,unique_checks=1,\
         time_zone='+00:00'\
         /*M! ,max_statement_time=0,idle_transaction_timeout=0,idle_readonly_transaction_timeout=0,\
         idle_write_transaction_timeout=0 */ /*!50708 ,max_execution_time=0 */;\
         SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ,READ WRITE;\
         SET NAMES utf8mb4 COLLATE utf8mb4_general_ci",
        timeout = config.timeout.as_secs(),
        lock_wait = lock_wait(config),
        all = u64::MAX,
    )
}

/// How long the server lets a statement wait for a table or a row, in its whole seconds. Nobody of
/// ours keeps one locked that long, and what else the connection is for waits behind.
fn lock_wait(config: &Config) -> u64 {
    config.response_timeout.as_secs().clamp(1, 2)
}

/// Ends the statement that the connection is busy with, at the server: its transaction and its locks
/// stay. Whoever waits for the answer tries again what failed.
fn end_statement(slow: Connection) -> BoxFuture<'static, ()> {
    // In a box, because it makes requests itself.
    async move {
        match tokio::time::timeout(slow.config.response_timeout, slow.beside()).await {
            Ok(Ok(other)) => {
                let _ = other.ask(format!("KILL QUERY {}", slow.number)).await;
                other.close().await;
            }
            Ok(Err(error)) => debug!(%error, "a slow statement was not ended"),
            Err(_) => debug!("a slow statement was not ended: no answer came in time"),
        }
    }
    .boxed()
}

/// The number in a column of the last row; `None` for NULL as well.
pub(crate) fn number(rows: &Rows, column: usize) -> Option<i64> {
    rows.last()?.try_get_unchecked::<Option<i64>, _>(column).ok().flatten()
}

/// The same without a sign.
pub(crate) fn unsigned(rows: &Rows, column: usize) -> Option<u64> {
    rows.last()?.try_get_unchecked::<Option<u64>, _>(column).ok().flatten()
}

/// The bytes in a column; `None` for NULL as well.
pub(crate) fn bytes(row: &MySqlRow, column: usize) -> Option<Vec<u8>> {
    row.try_get_unchecked::<Option<Vec<u8>>, _>(column).ok().flatten()
}

/// The number in a column of any row; `None` for NULL as well.
pub(crate) fn unsigned_in(row: &MySqlRow, column: usize) -> Option<u64> {
    row.try_get_unchecked::<Option<u64>, _>(column).ok().flatten()
}
