//! A session's access to the server: its main connection, and what a failure on it means.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tooz_core::{Error, Lease, Loss, Result, WaitLimit};

use crate::config::Config;
use crate::connection::{Connection, Reply, Rows};
use crate::errors::{self, Failure, session_over};

#[derive(Debug)]
pub(crate) struct Client {
    config: Arc<Config>,
    /// The session's, which is lost with the main connection.
    pub(crate) lease: Lease,
    /// It never waits for a lock.
    pub(crate) main: Connection,
    pub(crate) closed: CancellationToken,
}

impl Client {
    pub(crate) fn new(config: Arc<Config>, lease: Lease, main: Connection) -> Self {
        Self { config, lease, main, closed: CancellationToken::new() }
    }

    /// Whether the session is neither closed nor lost.
    pub(crate) fn is_open(&self) -> bool {
        !self.closed.is_cancelled() && self.lease.is_held()
    }

    /// Waits until the session is closed or lost.
    pub(crate) async fn over(&self) {
        tokio::select! {
            () = self.closed.cancelled() => {}
            _ = self.lease.lost() => {}
        }
    }

    /// What a failure on it means. With the connection, the session is over, and nothing counts any
    /// longer of what it did under its own name.
    pub(crate) fn failed(&self, failure: Failure) -> Error {
        if !self.main.is_dead() {
            return failure.into();
        }
        self.lease.lose(Loss::SessionEnded);
        session_over().caused_by(failure)
    }

    /// [`Connection::ask`] for what only reads: it does not wait for the answer until the deadline.
    pub(crate) async fn ask(&self, sql: String) -> Result<Rows> {
        let limit = self.config.response_timeout * 3 / 2;
        let asked = tokio::time::timeout(limit, self.main.ask(sql)).await;
        asked.unwrap_or(Err(Failure::Silence)).map_err(|failure| self.failed(failure))
    }

    /// [`Connection::change`] for what ends with the session.
    pub(crate) async fn change(&self, sql: &str) -> Result<Rows> {
        self.main.change(sql).await.map_err(|failure| self.failed(failure))
    }

    /// [`Connection::transact`] for what ends with the session.
    pub(crate) async fn transact(&self, sql: &str) -> Result<Rows> {
        self.main.transact(sql).await.map_err(|failure| self.failed(failure))
    }

    /// Statements that may have got the named lock `name` when they fail: it is freed. They are
    /// repeated while others are in their way, as long as the wait lasts.
    pub(crate) async fn take(&self, name: &str, sql: &str, wait: &WaitLimit) -> Result<Reply> {
        loop {
            let failure = match self.main.reply(sql.to_owned()).await {
                Ok(reply) => return Ok(reply),
                Err(failure) => failure,
            };
            self.free(name).await;
            let again = failure.is_conflict() || (failure.is_busy() && !wait.is_over());
            if self.main.is_dead() || !again {
                return Err(self.failed(failure));
            }
        }
    }

    /// Frees a named lock of the main connection, of which it is not known whether we have it.
    pub(crate) async fn free(&self, name: &str) {
        while !self.main.is_dead() {
            match self.main.urge(format!("DO RELEASE_LOCK({name})")).await {
                // Somebody else ended the statement.
                Err(failure) if failure.is(errors::INTERRUPTED) || failure.is_busy() => {}
                Ok(_) => return,
                // With the connection, the server frees all.
                Err(_) => self.main.cut().await,
            }
        }
    }

    /// Ends the wait of a session's listener, so that the session looks at what it has lost.
    pub(crate) async fn wake(&self, listener: u64) {
        // It may have ended, or be another user's, whose sessions look by themselves.
        let _ = self.main.urge(format!("KILL QUERY {listener}")).await;
    }

    /// Asks on a connection of its own, whatever has become of the main one.
    pub(crate) async fn ask_elsewhere(&self, sql: String) -> Result<Rows> {
        let connection = self.main.another().await?;
        let rows = connection.ask(sql).await;
        connection.close().await;
        Ok(rows?)
    }
}
