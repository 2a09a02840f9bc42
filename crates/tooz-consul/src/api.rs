//! Consul's HTTP API, as far as it is needed.

use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tooz_core::{Error, ErrorKind, Outcome, Result};
use tooz_http::{Http, Request, Response};

use crate::keys::path;
use crate::transaction::{self, Done, Entry, Op, RawEntry, RawOutcome, Refusal};

/// The servers of a URL.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    http: Http,
    /// Datacenter and, with Consul Enterprise, namespace.
    scope: Vec<(&'static str, String)>,
    response_timeout: Duration,
}

/// A blocking query's answer.
#[derive(Debug)]
pub(crate) struct Polled<T> {
    pub(crate) value: T,
    /// Where the next query goes on.
    pub(crate) index: u64,
}

impl Api {
    pub(crate) fn new(
        http: Http,
        scope: Vec<(&'static str, String)>,
        response_timeout: Duration,
    ) -> Self {
        Self { http, scope, response_timeout }
    }

    /// How many servers there are to choose from.
    pub(crate) fn servers(&self) -> usize {
        self.http.endpoints().len()
    }

    /// Sends a request; the answer if its status is 2xx or one of `expected`.
    pub(crate) async fn call(&self, request: Request, expected: &[u16]) -> Result<Response> {
        let request =
            self.scope.iter().fold(request, |request, (name, value)| request.query(name, value));
        let response = self.http.send(&request).await?;
        if response.is_success() || expected.contains(&response.status()) {
            return Ok(response);
        }
        if response.status() >= 500 {
            // It may be cut off from the others, and another one not.
            self.http.avoid(response.endpoint());
        }
        Err(Self::failure(&response))
    }

    /// What an answer means that was not expected.
    pub(crate) fn failure(response: &Response) -> Error {
        translate(response)
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
        let response = self.call(request.json(&ops)?, &[409]).await?;
        let outcome: RawOutcome = response.json()?;
        let errors = outcome.errors.unwrap_or_default();
        for error in &errors {
            if error.what.contains("invalid session") {
                return Err(session_lost());
            }
            if error.what.contains("Permission denied") {
                return Err(refused().with("answer", &error.what));
            }
        }
        if !errors.is_empty() {
            let failed = errors.iter().map(|error| error.op_index).collect();
            return Ok(transaction::Outcome::Refused(Refusal { failed }));
        }
        let entries =
            outcome.results.unwrap_or_default().into_iter().filter_map(|result| result.kv);
        let entries = entries.map(RawEntry::read).collect::<Result<_>>()?;
        Ok(transaction::Outcome::Done(Done { entries }))
    }

    /// One key as it is now.
    pub(crate) async fn get(&self, key: &str) -> Result<Option<Entry>> {
        let request = Request::get(path(key)).query("consistent", "");
        Ok(self.entries(request).await?.pop())
    }

    /// All keys that begin so, as they are now.
    pub(crate) async fn tree(&self, prefix: &str) -> Result<Vec<Entry>> {
        let request = Request::get(path(prefix)).query("recurse", "").query("consistent", "");
        self.entries(request).await
    }

    async fn entries(&self, request: Request) -> Result<Vec<Entry>> {
        let response = self.call(request, &[404]).await.map_err(nothing_changed)?;
        entries(&response)
    }

    /// One key as soon as it may be another than at `index`, or after `wait`.
    pub(crate) async fn poll(
        &self,
        key: &str,
        index: u64,
        wait: Duration,
    ) -> Result<Polled<Option<Entry>>> {
        let response = self.block(Request::get(path(key)), index, wait).await?;
        Ok(Polled { value: entries(&response)?.pop(), index: next_index(&response, index) })
    }

    /// The keys that begin so, as soon as they may be others than at `index`, or after `wait`.
    pub(crate) async fn poll_tree(
        &self,
        prefix: &str,
        index: u64,
        wait: Duration,
    ) -> Result<Polled<Vec<Entry>>> {
        let request = Request::get(path(prefix)).query("recurse", "");
        let response = self.block(request, index, wait).await?;
        Ok(Polled { value: entries(&response)?, index: next_index(&response, index) })
    }

    /// Something in JSON as soon as it may be another than at `index`, or after `wait`.
    pub(crate) async fn poll_json<T: DeserializeOwned>(
        &self,
        request: Request,
        index: u64,
        wait: Duration,
    ) -> Result<Polled<T>> {
        let response = self.block(request, index, wait).await?;
        Ok(Polled { value: response.json()?, index: next_index(&response, index) })
    }

    async fn block(&self, request: Request, index: u64, wait: Duration) -> Result<Response> {
        // The server adds up to a sixteenth of the time.
        let limit = wait + wait / 16 + self.response_timeout;
        let wait = format!("{}ms", wait.as_millis());
        let request = match index {
            0 => request,
            index => request.query("index", index).query("wait", wait),
        };
        self.call(request.within(limit), &[404]).await.map_err(nothing_changed)
    }
}

/// Of what only reads.
fn nothing_changed(error: Error) -> Error {
    error.outcome_is(Outcome::NotApplied)
}

fn entries(response: &Response) -> Result<Vec<Entry>> {
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

fn translate(response: &Response) -> Error {
    let text = response.text();
    if text.contains("No cluster leader") {
        return Error::new(ErrorKind::Connection, "the servers have no leader at the moment")
            .outcome_is(Outcome::NotApplied);
    }
    if text.contains("Permission denied") || text.contains("ACL not found") {
        return refused().with("answer", text);
    }
    if text.contains("Invalid Session TTL") {
        return Error::invalid("the servers do not allow this time to live of sessions")
            .with("answer", text);
    }
    if text.contains("invalid session") {
        return session_lost();
    }
    response.error()
}

fn refused() -> Error {
    Error::new(ErrorKind::Authentication, "the token lacks a permission, or is unknown")
}

pub(crate) fn session_lost() -> Error {
    Error::new(ErrorKind::SessionLost, "the servers know the session no more")
}

/// What the server says of a session.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct SessionInfo {
    #[serde(rename = "ID")]
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) name: String,
}
