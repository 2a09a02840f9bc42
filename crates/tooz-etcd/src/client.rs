//! The requests of the v2 API that the driver makes, and what the server answers.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tooz_core::{Error, ErrorKind, Moment, Outcome, Result};
use tooz_http::{Request, Response};

use crate::config::{Config, Ttl};
use crate::connection::Connection;
use crate::errors::{Failure, Refusal, refusal};

/// How often a write is repeated of which nobody knows what became of it.
const REPEATS: u32 = 3;
/// The pause before that.
const PAUSE: Duration = Duration::from_millis(50);
/// How many of the requests of a renewal are to be answered in the time of a heartbeat.
const HEARTBEATS: u32 = 2;
/// A long poll ends when something happens, or with its connection.
const FOREVER: Duration = Duration::from_secs(24 * 60 * 60);

/// The servers of a URL.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    connection: Connection,
    heartbeat_timeout: Duration,
    opening_timeout: Duration,
    servers: u32,
}

/// A key as the server shows it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Node {
    #[serde(default)]
    pub(crate) key: String,
    #[serde(default)]
    pub(crate) value: String,
    #[serde(default)]
    pub(crate) dir: bool,
    #[serde(default)]
    pub(crate) nodes: Vec<Node>,
    #[serde(rename = "modifiedIndex", default)]
    pub(crate) modified: u64,
    #[serde(rename = "createdIndex", default)]
    pub(crate) created: u64,
    /// The seconds that it has to live, rounded up.
    #[serde(default)]
    pub(crate) ttl: u64,
}

/// What was done, or what happened.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Event {
    pub(crate) action: String,
    pub(crate) node: Node,
}

impl Event {
    /// Whether the key is gone.
    pub(crate) fn is_end(&self) -> bool {
        matches!(&*self.action, "delete" | "expire" | "compareAndDelete")
    }
}

/// An answer, and what is known with it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) result: std::result::Result<Event, Refusal>,
    /// The index of the store that the answer speaks of.
    pub(crate) index: u64,
    /// The moment before the request was sent for the first time.
    pub(crate) sent: Moment,
    /// Whether an earlier request may have done the same already.
    pub(crate) again: bool,
}

/// What a long poll brought.
#[derive(Debug)]
pub(crate) enum Watched {
    Event(Event),
    /// The server no longer knows what happened since then.
    Forgotten,
}

/// What must be so for a write to be done.
#[derive(Clone, Copy, Debug)]
pub(crate) enum If<'a> {
    Absent,
    Present,
    Value(&'a str),
    Index(u64),
}

impl Client {
    pub(crate) fn new(config: &Arc<Config>) -> Result<Self> {
        let connection = Connection::new(config)?;
        Ok(Self {
            connection,
            heartbeat_timeout: config.heartbeat_timeout(),
            opening_timeout: config.opening_timeout(),
            servers: config.servers,
        })
    }

    /// A key, or a directory with what is directly in it. The newest, as most of the servers know
    /// it.
    pub(crate) async fn get(&self, key: &str) -> Result<Answer> {
        self.read(Request::get(path(key)).query("quorum", "true")).await
    }

    /// A directory with everything in it.
    pub(crate) async fn tree(&self, key: &str) -> Result<Answer> {
        self.read(Request::get(path(key)).query("quorum", "true").query("recursive", "true")).await
    }

    /// Sets a key that lives for `ttl`, or for ever.
    pub(crate) async fn put(
        &self,
        key: &str,
        value: &str,
        ttl: Option<Ttl>,
        condition: Option<If<'_>>,
    ) -> Result<Answer> {
        let ttl = ttl.map(|ttl| ttl.seconds().to_string()).unwrap_or_default();
        let mut fields = vec![("value", value)];
        if !ttl.is_empty() {
            fields.push(("ttl", &ttl));
        }
        self.write(|_| condition.iter().fold(Request::put(path(key)).form(&fields), given)).await
    }

    /// Sets the key of a session that is being opened. If no server answers, that is told once each was
    /// tried: somebody waits who can try again.
    pub(crate) async fn open(&self, key: &str, value: &str, ttl: Ttl) -> Result<Answer> {
        let fields = [("value", value), ("ttl", &*ttl.seconds().to_string())];
        let request = Request::put(path(key)).form(&fields).within(self.opening_timeout);
        let limit = |error: &Error| match error.kind() {
            ErrorKind::TimedOut => self.servers - 1,
            _ => REPEATS,
        };
        self.repeat(|_| request.clone(), limit).await
    }

    /// Renews the time to live of a key. It wakes nobody.
    pub(crate) async fn refresh(&self, key: &str, ttl: Ttl, condition: If<'_>) -> Result<Answer> {
        let fields = [("refresh", "true"), ("ttl", &*ttl.seconds().to_string())];
        self.write(|repeats| {
            let request = given(Request::put(path(key)).form(&fields), &condition);
            // A server that is slow rather than out of reach gets its chance then.
            let is_urgent = repeats < HEARTBEATS;
            if is_urgent { request.within(self.heartbeat_timeout) } else { request }
        })
        .await
    }

    pub(crate) async fn delete(&self, key: &str, condition: Option<If<'_>>) -> Result<Answer> {
        self.write(|_| condition.iter().fold(Request::delete(path(key)), given)).await
    }

    /// Deletes a directory if it is empty.
    pub(crate) async fn delete_empty(&self, key: &str) -> Result<Answer> {
        self.write(|_| Request::delete(path(key)).query("dir", "true")).await
    }

    /// Deletes a directory with all that is in it.
    pub(crate) async fn delete_tree(&self, key: &str) -> Result<Answer> {
        self.write(|_| Request::delete(path(key)).query("dir", "true").query("recursive", "true"))
            .await
    }

    /// Changes the index of a key and nothing else, which wakes whoever watches it.
    pub(crate) async fn touch(&self, key: &str) -> Result<()> {
        loop {
            let Ok(Event { node, .. }) = self.get(key).await?.result else { return Ok(()) };
            // It lives on for as long as it has: its own options say how long that is, not ours.
            let ttl = Ttl(Duration::from_secs(node.ttl.max(1)));
            let unchanged = Some(If::Index(node.modified));
            match self.put(key, &node.value, Some(ttl), unchanged).await?.result {
                // Renewed meanwhile.
                Err(Refusal::Differs) => {}
                _ => return Ok(()),
            }
        }
    }

    /// Whether a key has that value.
    pub(crate) async fn has(&self, key: &str, value: &str) -> Result<bool> {
        Ok(self.get(key).await?.result.is_ok_and(|event| event.node.value == value))
    }

    /// Waits for the first thing that happened to a key, or in a directory, after that index.
    pub(crate) async fn watch(&self, key: &str, after: u64, recursive: bool) -> Result<Watched> {
        let mut request = Request::get(path(key)).query("wait", "true").within(FOREVER);
        request = request.query("waitIndex", after + 1);
        if recursive {
            request = request.query("recursive", "true");
        }
        let response = self.connection.poll(&request).await?;
        if response.is_success() {
            // A server that is being stopped ends the poll with nothing.
            return response.json().map(Watched::Event).map_err(|e| {
                Error::new(ErrorKind::Connection, "the long poll ended without an answer")
                    .caused_by(e)
            });
        }
        match response.json::<Failure>() {
            Ok(failure) if failure.code == 401 => Ok(Watched::Forgotten),
            _ => Err(response.error()),
        }
    }

    async fn read(&self, request: Request) -> Result<Answer> {
        answer(&self.connection.send(&request).await?)
    }

    /// Sends a write, again while it is unknown what became of it. Each is made so that it does
    /// no harm to be done twice.
    async fn write(&self, request: impl Fn(u32) -> Request) -> Result<Answer> {
        self.repeat(request, |_| REPEATS).await
    }

    /// The same, as often again as `limit` says after an error.
    async fn repeat(
        &self,
        request: impl Fn(u32) -> Request,
        limit: impl Fn(&Error) -> u32,
    ) -> Result<Answer> {
        let (sent, mut repeats) = (Moment::now(), 0);
        loop {
            let answer = self.connection.send(&request(repeats)).await.and_then(|r| answer(&r));
            let failed = match answer {
                Ok(answer) => return Ok(Answer { sent, again: repeats > 0, ..answer }),
                Err(error) => error,
            };
            if failed.outcome() != Outcome::Unknown || repeats >= limit(&failed) {
                // Not applied is what the last one was; an earlier one may have been.
                let outcome = if repeats > 0 { Outcome::Unknown } else { failed.outcome() };
                return Err(failed.outcome_is(outcome));
            }
            repeats += 1;
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn path(key: &str) -> String {
    format!("/v2/keys{key}")
}

fn given(request: Request, condition: &If<'_>) -> Request {
    match condition {
        If::Absent => request.query("prevExist", "false"),
        If::Present => request.query("prevExist", "true"),
        If::Value(value) => request.query("prevValue", value),
        If::Index(index) => request.query("prevIndex", index),
    }
}

fn answer(response: &Response) -> Result<Answer> {
    let index = response.header("x-etcd-index").and_then(|index| index.parse().ok()).unwrap_or(0);
    let result = if response.is_success() { Ok(response.json()?) } else { Err(refusal(response)?) };
    Ok(Answer { result, index, sent: response.sent(), again: false })
}
