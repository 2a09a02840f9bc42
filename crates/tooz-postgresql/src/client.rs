//! A session's access to the server: its main connection, and those that replace it.
//!
//! Statements that need a table can find it locked by somebody: `VACUUM FULL` or `ALTER TABLE`
//! behind a dump lasts as long as the dump. They go over the main connection as long as the tables
//! are free. When one had to wait for a table, they go beside it, on a connection that holds
//! nothing, until none has waited for a while: what the main connection holds is renewed, taken and
//! released as usual.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::Type;
use tooz_core::kit::locked;
use tooz_core::{Error, Moment, Outcome, Result};
use tracing::{debug, warn};

use crate::config::Config;
use crate::connection::{Connection, Parameter};
use crate::errors::{is_locked_out, is_session_lost, timed_out};

#[derive(Debug)]
pub(crate) struct Client {
    config: Arc<Config>,
    /// The name under which the server's views show its connections.
    name: String,
    /// Holds the locks that were free, and whatever shows that the member lives.
    pub(crate) main: Connection,
    detour: Mutex<Option<Detour>>,
}

/// The connection for tables while one is locked.
#[derive(Clone, Debug)]
struct Detour {
    connection: Arc<Connection>,
    /// When a statement last waited in vain.
    locked: Moment,
}

impl Client {
    pub(crate) fn new(config: Arc<Config>, name: String, main: Connection) -> Self {
        Self { config, name, main, detour: Mutex::default() }
    }

    /// Closes everything, at the end of the session.
    pub(crate) fn close(&self) {
        locked(&self.detour).take();
        self.main.close();
    }

    // ---- Statements that need a table.

    /// A statement, within the time limit. When that is over, it may still be carried out.
    pub(crate) async fn ask(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>> {
        let Some(detour) = locked(&self.detour).clone() else {
            let answer = self.main.ask(sql, parameters).await;
            if answer.as_ref().is_err_and(is_locked_out)
                && let Err(error) = self.make_detour().await
            {
                debug!(%error, "there is no second connection");
            }
            return answer;
        };
        let answer = detour.connection.ask(sql, parameters).await;
        let mut now = locked(&self.detour);
        let is_same = |now: &&mut Detour| Arc::ptr_eq(&now.connection, &detour.connection);
        let Some(current) = now.as_mut().filter(is_same) else { return answer };
        match answer {
            // Another table may still be locked: whoever needs that one asks for it in this time.
            Ok(_) if current.locked.elapsed() > self.config.timeout => *now = None,
            Err(error) if is_locked_out(&error) => {
                current.locked = Moment::now();
                return Err(error);
            }
            // The session continues, so it may have been carried out.
            Err(error) if is_session_lost(&error) => {
                *now = None;
                return Err(timed_out().caused_by(error));
            }
            _ => {}
        }
        answer
    }

    /// The same for a statement that only reads.
    pub(crate) async fn read(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>> {
        self.ask(sql, parameters).await.map_err(|error| error.outcome_is(Outcome::NotApplied))
    }

    /// The one row of a statement's answer.
    pub(crate) async fn one(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Row> {
        self.ask(sql, parameters).await?.pop().ok_or_else(Error::unexpected_answer)
    }

    async fn make_detour(&self) -> Result<()> {
        warn!(
            schema = self.config.keys.schema(),
            "a table is locked: statements that need it use a connection of their own"
        );
        let connection = self.beside(self.config.lock_timeout()).await?;
        locked(&self.detour).get_or_insert(Detour { connection, locked: Moment::now() });
        Ok(())
    }

    /// Finds out what became of a change whose answer was lost with the session: what a statement
    /// reads once nothing of the session can be carried out any longer. When that cannot be found
    /// out, the outcome of `error` is not known.
    pub(crate) async fn resolve(
        &self,
        error: &Error,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>> {
        let reading = async {
            let connection = self.elsewhere().await?;
            // The lost session holds it as long as the server still works for it.
            let end = "SELECT pg_advisory_lock_shared($1)";
            connection.one(end, &[(&self.main.key, Type::INT8)]).await?;
            connection.read(sql, parameters).await
        };
        match tokio::time::timeout(self.config.response_timeout, reading).await {
            Ok(Ok(rows)) => Ok(rows),
            _ => Err(error.clone().outcome_is(Outcome::Unknown)),
        }
    }

    // ---- Further connections.

    /// One to the same server, whose statements wait for locks for that long; without end if it is
    /// zero.
    pub(crate) async fn beside(&self, lock_timeout: Duration) -> Result<Arc<Connection>> {
        let main = Some(&self.main);
        let (connection, _) = Connection::open(&self.config, &self.name, main).await?;
        connection.set_up(&self.config, main, lock_timeout).await?;
        Ok(Arc::new(connection))
    }

    /// One to whichever server can be written to, in place of the main one that has ended.
    pub(crate) async fn elsewhere(&self) -> Result<Connection> {
        let (connection, _) = Connection::open(&self.config, &self.name, None).await?;
        connection.set_up(&self.config, None, Duration::ZERO).await?;
        Ok(connection)
    }
}
