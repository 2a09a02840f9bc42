//! Consul's HTTP API, as far as it is needed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tooz_core::{Error, ErrorKind, Outcome, Result, Secret};
use tooz_http::{Request, Response};

use crate::agent::{Access, Agent, Lane};
use crate::keys::path;
use crate::token::Token;
use crate::transaction::{self, Done, Entry, Op, RawEntry, RawOutcome, Refusal};

/// The servers of a URL.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    agent: Arc<Agent>,
    lane: Lane,
}

/// A blocking query's answer.
#[derive(Debug)]
pub(crate) struct Polled<T> {
    pub(crate) value: T,
    /// Where the next query goes on.
    pub(crate) index: u64,
}

impl Api {
    pub(crate) fn new(access: Access) -> Result<Self> {
        Ok(Self { agent: Arc::new(Agent::new(access)?), lane: Lane::Requests })
    }

    /// The same, sharing its connections with all who use the servers alike.
    pub(crate) fn shared(self) -> Self {
        Self { agent: self.agent.shared(), lane: self.lane }
    }

    /// For heartbeats, which have connections of their own.
    pub(crate) fn of_heartbeats(&self) -> Self {
        Self { agent: self.agent.clone(), lane: Lane::Heartbeats }
    }

    pub(crate) fn agent(&self) -> &Agent {
        &self.agent
    }

    /// What all keys begin with.
    pub(crate) fn namespace(&self) -> &str {
        &self.agent.access.namespace
    }

    /// How many servers there are to choose from.
    pub(crate) fn servers(&self) -> usize {
        self.agent.servers()
    }

    /// Sends a request; the answer if its status is 2xx or one of `expected`.
    pub(crate) async fn call(&self, request: Request, expected: &[u16]) -> Result<Response> {
        self.call_by(self.lane, request, expected).await
    }

    async fn call_by(&self, lane: Lane, request: Request, expected: &[u16]) -> Result<Response> {
        let Access { scope, token, .. } = &self.agent.access;
        let request =
            scope.iter().fold(request, |request, (name, value)| request.query(name, value));
        let response = match token {
            None => self.agent.send(lane, &request).await?,
            Some(token) => self.send_with(lane, &request, token).await?,
        };
        if response.is_success() || expected.contains(&response.status()) {
            return Ok(response);
        }
        if response.status() >= 500 {
            // It may be cut off from the others, and another one not.
            self.agent.avoid(response.endpoint());
        }
        Err(Self::failure(&response))
    }

    /// Once more if the file of the token has another one by now than was refused.
    async fn send_with(&self, lane: Lane, request: &Request, token: &Token) -> Result<Response> {
        let current = token.current();
        let send = async |token: &Secret| {
            let request = request.clone().header("x-consul-token", token)?;
            self.agent.send(lane, &request).await
        };
        let response = send(&current).await?;
        if is_refusal(&response) && token.reread(&current).await {
            return send(&token.current()).await;
        }
        Ok(response)
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
        let request = request.json(&ops)?;
        if request.length() > transaction::LARGEST {
            return Err(Error::invalid(format!(
                "servers take {} bytes at once, names and capabilities in base64 included",
                transaction::LARGEST
            ))
            .with("bytes", request.length()));
        }
        let response = self.call(request, &[409]).await?;
        let outcome: RawOutcome = response.json()?;
        let errors = outcome.errors.unwrap_or_default();
        for error in &errors {
            if error.what.contains("invalid session") {
                return Err(session_lost());
            }
            if is_denied(&error.what) {
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
                    return Err(odd_answer());
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

    /// Where a blocking query goes on whose answer does not matter.
    pub(crate) async fn poll_any(
        &self,
        request: Request,
        index: u64,
        wait: Duration,
    ) -> Result<u64> {
        Ok(next_index(&self.block(request, index, wait).await?, index))
    }

    async fn block(&self, request: Request, index: u64, wait: Duration) -> Result<Response> {
        let blocking = || {
            // The server adds up to a sixteenth of the time.
            let limit = wait + wait / 16 + self.agent.access.response_timeout;
            let wait = format!("{}ms", wait.as_millis());
            request.clone().query("index", index).query("wait", wait).within(limit)
        };
        let response = match index {
            0 => self.call(request, &[404]).await,
            _ => self.call_by(Lane::Polls, blocking(), &[404]).await,
        };
        response.map_err(nothing_changed)
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
    if is_denied(&text) {
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

/// Whether the server did nothing because of the token. Transactions say so in their own way.
fn is_refusal(response: &Response) -> bool {
    response.status() == 403 || (!response.is_success() && is_denied(&response.text()))
}

fn is_denied(text: &str) -> bool {
    text.contains("Permission denied") || text.contains("ACL not found")
}

fn refused() -> Error {
    Error::new(ErrorKind::Authentication, "the token lacks a permission, or is unknown")
}

/// That there is no such step in the protocol.
pub(crate) fn odd_answer() -> Error {
    Error::new(ErrorKind::Backend, "the server's answer makes no sense")
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
    #[serde(default)]
    pub(crate) node: String,
}
