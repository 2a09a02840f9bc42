//! Requests and their answers, over one connection after the other.

use std::sync::Arc;

use tooz_core::kit::{Current, Reconnecting};
use tooz_core::{Moment, Outcome, Result};

use crate::config::Config;
use crate::connection::Connection;
use crate::errors;
use crate::wire::{self, Change, Item, Reply, Request};

/// The connection to the server that a session's requests take.
#[derive(Debug)]
pub(crate) struct Client {
    config: Arc<Config>,
    pub(crate) connections: Reconnecting<Connection>,
}

impl Client {
    pub(crate) fn new(config: Arc<Config>, connection: Connection) -> Self {
        Self { config, connections: Reconnecting::new(connection) }
    }

    /// No connection follows.
    pub(crate) fn end(&self) {
        if let Some(connection) = self.connections.end() {
            connection.end();
        }
    }

    /// Waits until the connection is broken.
    pub(crate) async fn down(&self) {
        let Some(current) = self.connections.present() else { return };
        current.connection.down().await;
        self.suspend(&current);
    }

    fn suspend(&self, which: &Current<Connection>) {
        which.connection.end();
        self.connections.suspend(which);
    }

    /// Several requests in one round trip, and when the answered ones were sent. What only reads is
    /// repeated on the next connection; of a change whose answer was lost, the outcome is unknown.
    pub(crate) async fn call(&self, requests: &[Request]) -> Result<(Vec<Reply>, Moment)> {
        let until = Moment::now() + self.config.membership_timeout;
        loop {
            let current = self.connections.current(until).await?;
            let sent = Moment::now();
            let answer = current.connection.call(requests);
            let answer = tokio::time::timeout(self.config.response_timeout, answer).await;
            let error = match answer {
                Ok(Ok(replies)) => return Ok((replies, sent)),
                Ok(Err(error)) => error,
                Err(_) if requests.iter().all(Request::only_reads) => errors::no_answer(),
                Err(_) => errors::no_answer().outcome_is(Outcome::Unknown),
            };
            // Answers that come late would be taken for those of the next requests.
            self.suspend(&current);
            if error.outcome() == Outcome::Unknown || until.has_passed() {
                return Err(error);
            }
        }
    }

    /// The same, for a number of requests that is known.
    pub(crate) async fn call_each<const N: usize>(
        &self,
        requests: [Request; N],
    ) -> Result<[Reply; N]> {
        wire::each(self.call(&requests).await?.0)
    }

    /// The item that a request is about.
    pub(crate) async fn item(&self, request: Request) -> Result<Option<Item>> {
        let [reply] = self.call_each([request]).await?;
        reply.item()
    }

    /// The item of a key.
    pub(crate) async fn get(&self, key: &[u8]) -> Result<Option<Item>> {
        self.item(Request::get(key)).await
    }

    /// What became of a store or a deletion.
    pub(crate) async fn change(&self, request: Request) -> Result<Change> {
        let [reply] = self.call_each([request]).await?;
        reply.change()
    }
}
