//! One connection, and what holds for it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt as _, TryFutureExt as _, TryStreamExt as _};
use sqlx::mysql::{MySqlConnection, MySqlQueryResult, MySqlRow};
use sqlx::{AssertSqlSafe, Connection as _, Either, Row as _};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tooz_core::OperationId;

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
#[derive(Clone, Debug)]
pub(crate) struct Link {
    /// The server's number for it.
    pub(crate) number: u64,
    /// The name of the lock by which others see that it lives.
    pub(crate) marker: OperationId,
    limit: Duration,
    connection: Arc<Mutex<Option<MySqlConnection>>>,
    dead: CancellationToken,
}

impl Link {
    pub(crate) fn new(connection: MySqlConnection, marker: OperationId, limit: Duration) -> Self {
        let connection = Arc::new(Mutex::new(Some(connection)));
        Self { number: 0, marker, limit, connection, dead: CancellationToken::new() }
    }

    /// With the number that the server has said.
    pub(crate) fn numbered(self, number: u64) -> Self {
        Self { number, ..self }
    }

    /// Sends statements, all in one packet, and returns the rows of all; the first that fails is the
    /// last. Dropping the future does not stop it.
    pub(crate) async fn ask(&self, sql: String) -> Result<Rows, Failure> {
        Ok(self.reply(sql).await?.rows)
    }

    /// The same, with what became of each statement.
    pub(crate) async fn reply(&self, sql: String) -> Result<Reply, Failure> {
        self.run(sql, Some(self.limit)).await
    }

    /// The rows without a limit of the time.
    pub(crate) async fn wait(&self, sql: String) -> Result<Rows, Failure> {
        Ok(self.run(sql, None).await?.rows)
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

    async fn run(&self, sql: String, limit: Option<Duration>) -> Result<Reply, Failure> {
        let (connection, dead) = (self.connection.clone(), self.dead.clone());
        // In a task, so that no answer is ever left unread on the connection.
        let work = tokio::spawn(async move {
            let mut slot = connection.lock().await;
            let Some(open) = slot.as_mut() else { return Err(Failure::Gone) };
            let statements = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_many(open).try_fold(
                Reply::default(),
                async |mut reply, next| {
                    match next {
                        Either::Left(result) => reply.results.push(result),
                        Either::Right(row) => reply.rows.push(row),
                    }
                    Ok(reply)
                },
            );
            let silence = async {
                match limit {
                    Some(limit) => tokio::time::sleep(limit).await,
                    None => std::future::pending().await,
                }
            };
            let outcome = tokio::select! {
                reply = well_formed(statements.map_err(Failure::from)) => reply,
                () = silence => Err(Failure::Silence),
                () = dead.cancelled() => Err(Failure::Silence),
            };
            if outcome.as_ref().is_err_and(Failure::is_fatal) {
                *slot = None;
                dead.cancel();
            }
            outcome
        });
        // The runtime ends, or there is a bug in the client library.
        work.await.unwrap_or(Err(Failure::Gone))
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
            match self.ask("DO RELEASE_ALL_LOCKS()".to_owned()).await {
                Err(failure) if failure.is(errors::INTERRUPTED) => {}
                _ => break,
            }
        }
        self.dead.cancel();
        if let Some(connection) = self.connection.lock().await.take() {
            // The server notices the end in any case.
            let _ = tokio::time::timeout(self.limit, connection.close()).await;
        }
    }
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
