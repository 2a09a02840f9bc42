//! Consul's HTTP API, as far as it is needed.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::future::try_join_all;
use serde::Deserialize;
use tooz_core::{Error, Moment, Outcome, Result};
use tooz_http::{Request, Response};

use crate::config::Access;
use crate::connection::{Connections, Lane};
use crate::errors;
use crate::keys::path;
use crate::token::Token;
use crate::transaction::{self, Entry, Op, RawEntry, RawOutcome};

/// How long a server that was started may take to know its tokens again.
const LOG_READ_AGAIN: Duration = Duration::from_secs(1);

/// The servers of a URL.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) connections: Arc<Connections>,
    lane: Lane,
}

/// A blocking query's answer.
#[derive(Debug)]
pub(crate) struct Polled<T> {
    pub(crate) value: T,
    /// Where the next query continues.
    pub(crate) index: u64,
}

/// What the server says of a session.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct SessionInfo {
    #[serde(rename = "ID")]
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) node: String,
}

impl Client {
    pub(crate) fn new(access: Access) -> Result<Self> {
        Ok(Self { connections: Arc::new(Connections::new(access)?), lane: Lane::Requests })
    }

    /// For heartbeats, which have connections of their own.
    pub(crate) fn for_heartbeats(&self) -> Self {
        Self { connections: self.connections.clone(), lane: Lane::Heartbeats }
    }

    /// Sends a request; the answer if its status is 2xx or one of `expected`.
    pub(crate) async fn call(&self, request: Request, expected: &[u16]) -> Result<Response> {
        self.call_by(self.lane, request, expected).await
    }

    async fn call_by(&self, lane: Lane, request: Request, expected: &[u16]) -> Result<Response> {
        let Access { scope, token, .. } = &self.connections.access;
        let request =
            scope.iter().fold(request, |request, (name, value)| request.query(name, value));
        let response = match token {
            None => self.connections.send(lane, &request).await?,
            Some(token) => self.send_with(lane, &request, token).await?,
        };
        if response.is_success() || expected.contains(&response.status()) {
            self.connections.token_was_accepted.store(true, Relaxed);
            return Ok(response);
        }
        if response.status() >= 500 {
            // It may be cut off from the others, and another one not.
            self.connections.avoid(response.endpoint());
        }
        Err(errors::failure(&response))
    }

    /// Sends it again if the file of the token has another one by now than was refused, or if a token
    /// that was good is unknown all of a sudden: a server that was started a moment ago knows it only
    /// when it has read its log again. A refused request has done nothing.
    async fn send_with(&self, lane: Lane, request: &Request, token: &Token) -> Result<Response> {
        let until = Moment::now() + LOG_READ_AGAIN;
        loop {
            let current = token.current();
            let request = request.clone().header("x-consul-token", &current)?;
            let response = self.connections.send(lane, &request).await?;
            if !errors::is_refusal(&response) {
                return Ok(response);
            }
            if token.reread(&current).await {
                continue;
            }
            let was_good = self.connections.token_was_accepted.load(Relaxed);
            let is_passing = was_good && errors::is_unknown_token(&response.text());
            if !is_passing || until.has_passed() {
                return Ok(response);
            }
            tokio::time::sleep(LOG_READ_AGAIN / 10).await;
        }
    }

    /// Carries out a transaction of at most [`LIMIT`](transaction::LIMIT) operations.
    pub(crate) async fn transact(&self, ops: &[Op]) -> Result<transaction::Outcome> {
        self.transaction(Request::put("/v1/txn"), ops).await
    }

    /// The same, of operations that only read: it may be sent to one server after the other.
    pub(crate) async fn read(&self, ops: &[Op]) -> Result<transaction::Outcome> {
        let request = Request::put("/v1/txn").query("consistent", "").repeatable();
        self.transaction(request, ops).await.map_err(nothing_changed)
    }

    async fn transaction(&self, request: Request, ops: &[Op]) -> Result<transaction::Outcome> {
        let request = request.json(&ops)?;
        if request.length() > transaction::LARGEST {
            return Err(Error::invalid(format!(
                "servers take {} bytes at once, names and capabilities in base64 included",
                transaction::LARGEST
            ))
            .with("bytes", request.length()));
        }
        self.call(request, &[409]).await?.json::<RawOutcome>()?.read()
    }

    /// One key as it is now.
    pub(crate) async fn get(&self, key: &str) -> Result<Option<Entry>> {
        Ok(self.entries(Request::get(path(key))).await?.pop())
    }

    /// Those of the keys that are there, as they are now.
    pub(crate) async fn get_each(&self, keys: &[&str]) -> Result<HashMap<String, Entry>> {
        let chunks = transaction::chunks(keys).map(|chunk| self.get_some(chunk));
        Ok(try_join_all(chunks).await?.into_iter().flatten().map(|e| (e.key.clone(), e)).collect())
    }

    async fn get_some(&self, keys: &[&str]) -> Result<Vec<Entry>> {
        let mut present = keys.to_owned();
        // A key that is missing hides the others: once more without it.
        while !present.is_empty() {
            let ops: Vec<_> = present.iter().map(|key| Op::get(key)).collect();
            match self.read(&ops).await? {
                transaction::Outcome::Done(done) => return Ok(done.entries),
                transaction::Outcome::Refused(refusal) if refusal.failed.is_empty() => {
                    return Err(Error::unexpected_answer());
                }
                transaction::Outcome::Refused(refusal) => {
                    let mut positions = 0..;
                    present.retain(|_| !positions.next().is_some_and(|p| refusal.has(p)));
                }
            }
        }
        Ok(Vec::new())
    }

    /// All keys that begin so, as they are now.
    pub(crate) async fn tree(&self, prefix: &str) -> Result<Vec<Entry>> {
        self.entries(Request::get(path(prefix)).query("recurse", "")).await
    }

    async fn entries(&self, request: Request) -> Result<Vec<Entry>> {
        let response = self.call(request.query("consistent", ""), &[404]).await;
        entries(&response.map_err(nothing_changed)?)
    }

    /// What `read` finds in the answer to `request`, as soon as it may be another than at `index`, or
    /// after `wait`.
    pub(crate) async fn poll<T>(
        &self,
        request: Request,
        index: u64,
        wait: Duration,
        read: impl FnOnce(&Response) -> Result<T>,
    ) -> Result<Polled<T>> {
        let response = match index {
            0 => self.call(request, &[404]).await,
            _ => {
                // The server adds up to a sixteenth of the time.
                let limit = wait + wait / 16 + self.connections.access.response_timeout;
                let wait = format!("{}ms", wait.as_millis());
                let blocking = request.query("index", index).query("wait", wait).within(limit);
                self.call_by(Lane::Polls, blocking, &[404]).await
            }
        };
        let response = response.map_err(nothing_changed)?;
        Ok(Polled { value: read(&response)?, index: next_index(&response, index) })
    }
}

/// The error of a request that only reads.
fn nothing_changed(error: Error) -> Error {
    error.outcome_is(Outcome::NotApplied)
}

/// The keys that an answer shows.
pub(crate) fn entries(response: &Response) -> Result<Vec<Entry>> {
    if response.status() == 404 {
        return Ok(Vec::new());
    }
    response.json::<Vec<RawEntry>>()?.into_iter().map(RawEntry::read).collect()
}

/// An index that is lower than the last one means that the server's state is another: from the
/// start, then.
fn next_index(response: &Response, last: u64) -> u64 {
    let index = response.header("x-consul-index").and_then(|index| index.parse().ok()).unwrap_or(0);
    if index < last { 0 } else { index }
}
