use std::fmt;

use bytes::Bytes;
use hyper::HeaderMap;
use serde::de::DeserializeOwned;
use tooz_core::{Error, ErrorKind, Moment, Outcome, Result};

/// How much of a server's message is repeated in an error.
const EXCERPT: usize = 300;

/// A whole response.
pub struct Response {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) sent: Moment,
    pub(crate) endpoint: usize,
}

impl Response {
    /// The status code.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Whether the status is 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// A header's value, named in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as it came.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The body as a text without blanks around it: what servers give as the reason of an error.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().chars().take(EXCERPT).collect()
    }

    /// The body read as JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|e| {
            Error::new(ErrorKind::Serialization, "the server's answer is not the expected JSON")
                .outcome_is(Outcome::Applied)
                .caused_by(e)
        })
    }

    /// The moment before the request was sent.
    pub fn sent(&self) -> Moment {
        self.sent
    }

    /// Which of the endpoints answered.
    pub fn endpoint(&self) -> usize {
        self.endpoint
    }

    /// Itself if the status is 2xx, else [`error`](Self::error).
    pub fn success(self) -> Result<Self> {
        if self.is_success() { Ok(self) } else { Err(self.error()) }
    }

    /// What a status means in general: 401 and 403 a refusal; 408, 429 and 5xx a server in trouble,
    /// which may have carried out the request unless it says 429 or 501; others a backend's error.
    /// A driver that knows more of its server's answers looks at them first.
    pub fn error(&self) -> Error {
        let (kind, message, outcome) = match self.status {
            401 | 403 => (
                ErrorKind::Authentication,
                "the server refused the credentials or the permission",
                Outcome::NotApplied,
            ),
            408 | 504 => {
                (ErrorKind::TimedOut, "the server gave up on the request", Outcome::Unknown)
            }
            429 => (ErrorKind::Connection, "the server is overloaded", Outcome::NotApplied),
            501 => {
                (ErrorKind::Backend, "the server does not know the request", Outcome::NotApplied)
            }
            500..600 => (ErrorKind::Connection, "the server is in trouble", Outcome::Unknown),
            _ => (ErrorKind::Backend, "the server refused the request", Outcome::NotApplied),
        };
        Error::new(kind, message)
            .outcome_is(outcome)
            .with("status", self.status)
            .with("answer", self.text())
    }
}

/// Without headers and body: they may hold secrets.
impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.status)
            .field("length", &self.body.len())
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}
