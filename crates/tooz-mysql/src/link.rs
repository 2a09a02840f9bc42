//! One connection, and what holds for it.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, TryFutureExt as _, TryStreamExt as _};
use sqlx::mysql::{MySqlConnection, MySqlQueryResult, MySqlRow};
use sqlx::{AssertSqlSafe, Connection as _, Either, Row as _};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tooz_core::{Moment, OperationId};
use tracing::debug;

use crate::config::{Address, Config};
use crate::connection;
use crate::errors::{self, Failure};

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
/// Nothing ends it for being slow before the server would: who holds something with it loses it no
/// sooner than at the deadline. A statement that is slow is ended at the server instead.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    /// The server's number for it.
    pub(crate) number: u64,
    /// The name of the lock by which others see that it lives.
    pub(crate) marker: OperationId,
    /// What is longer, the server answers by ending the connection.
    packet: u64,
    config: Arc<Config>,
    address: Address,
    /// Where statements queue: one at a time goes on to `connection`, so that what is urgent is next
    /// there.
    gate: Arc<Mutex<()>>,
    connection: Arc<Mutex<Option<MySqlConnection>>>,
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

impl Link {
    pub(crate) fn new(
        connection: MySqlConnection,
        marker: OperationId,
        config: &Arc<Config>,
        address: &Address,
    ) -> Self {
        Self {
            number: 0,
            marker,
            packet: u64::MAX,
            config: config.clone(),
            address: address.clone(),
            gate: Arc::default(),
            connection: Arc::new(Mutex::new(Some(connection))),
            dead: CancellationToken::new(),
        }
    }

    /// With the number that the server has said, and the most bytes of a request that it takes.
    pub(crate) fn known_as(self, number: u64, packet: u64) -> Self {
        Self { number, packet, ..self }
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

    /// The rows, before all others that queue: for what renews or gives back, and uses no table.
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
        let link = self.clone();
        // In a task, so that no answer is ever left unread on the connection.
        let work = tokio::spawn(async move {
            let _next = match kind {
                Kind::Urgent => None,
                Kind::Ordinary | Kind::Waits => Some(link.gate.lock().await),
            };
            let mut slot = link.connection.lock().await;
            let Some(open) = slot.as_mut() else { return Err(Failure::Gone) };
            let outcome = link.exchange(open, sql, kind).await;
            if outcome.as_ref().is_err_and(Failure::is_fatal) {
                *slot = None;
                link.dead.cancel();
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

    /// Whether it is of no use any more.
    pub(crate) fn is_dead(&self) -> bool {
        self.dead.is_cancelled()
    }

    /// Waits until it is.
    pub(crate) async fn died(&self) {
        self.dead.cancelled().await;
    }

    /// Ends it without a word, in the middle of a request too.
    pub(crate) async fn cut(&self) {
        self.dead.cancel();
        *self.connection.lock().await = None;
    }

    /// Frees all that it holds, and ends it. It has no request under way.
    pub(crate) async fn close(&self) {
        // A KILL QUERY that came too late for what it was meant for ends this statement instead.
        for _ in 0..3 {
            let freeing = self.ask("DO RELEASE_ALL_LOCKS()".to_owned());
            match tokio::time::timeout(self.config.response_timeout, freeing).await {
                Ok(Err(failure)) if failure.is(errors::INTERRUPTED) => {}
                _ => break,
            }
        }
        self.dead.cancel();
        if let Some(connection) = self.connection.lock().await.take() {
            // The server notices the end in any case.
            let _ = tokio::time::timeout(self.config.response_timeout, connection.close()).await;
        }
    }
}

/// Ends the statement that the connection is busy with, at the server: its transaction and its locks
/// stay. What fails is tried again by whoever waits for the answer.
fn end_statement(link: Link) -> BoxFuture<'static, ()> {
    // In a box, for it makes requests itself.
    async move {
        let other = connection::beside(&link.config, &link.address, &link);
        match tokio::time::timeout(link.config.response_timeout, other).await {
            Ok(Ok(other)) => {
                let _ = other.ask(format!("KILL QUERY {}", link.number)).await;
                other.close().await;
            }
            Ok(Err(error)) => debug!(%error, "a slow statement was not ended"),
            Err(_) => debug!("a slow statement was not ended: no answer came in time"),
        }
    }
    .boxed()
}

/// The client library panics on some answers that it cannot read.
pub(crate) async fn well_formed<T>(
    request: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    // Nothing of it is used after a panic: the connection is dropped.
    AssertUnwindSafe(request).catch_unwind().await.unwrap_or(Err(Failure::Malformed))
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
