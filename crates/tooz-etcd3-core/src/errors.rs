//! What went wrong on the way, what can be done about it, and how it is reported.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use tooz_core::{Error, ErrorKind, Outcome};

/// The status codes of gRPC that etcd uses; the gateway repeats them.
#[allow(missing_docs, reason = "gRPC's own names say it")]
pub mod code {
    pub const INVALID_ARGUMENT: i32 = 3;
    pub const DEADLINE_EXCEEDED: i32 = 4;
    pub const NOT_FOUND: i32 = 5;
    pub const PERMISSION_DENIED: i32 = 7;
    pub const RESOURCE_EXHAUSTED: i32 = 8;
    pub const FAILED_PRECONDITION: i32 = 9;
    pub const OUT_OF_RANGE: i32 = 11;
    pub const UNIMPLEMENTED: i32 = 12;
    pub const UNAVAILABLE: i32 = 14;
    pub const UNAUTHENTICATED: i32 = 16;
}

/// What the server says of a token that is no longer valid. Which code comes with it depends
/// on the version and on the way: UNAUTHENTICATED, INVALID_ARGUMENT, or UNKNOWN where the server
/// forgot to translate its own error; a watch is ended with the text alone.
const OLD_TOKEN: [&str; 3] = [
    // It has expired, or the server was started since.
    "invalid auth token",
    // With JWT, users or roles were changed since; with simple tokens, while the request was under
    // way. The second is what 3.3 and the first servers of 3.4 say.
    "revision of auth store is old",
    "revision in header is old",
];

/// A call that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    what: What,
    message: String,
    /// The server that was asked.
    server: Option<String>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// The request never left.
    Unreachable,
    /// The request left, and no whole answer came.
    Broken,
    /// No answer came in time.
    TimedOut,
    /// One side refused the other's certificate.
    Untrusted,
    /// The answer is larger than we take.
    TooLarge,
    /// The server answered with an error of this code.
    Status(i32),
}

/// What can be done about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// The same, a little later, over another connection or to another server.
    Elsewhere,
    /// The same, a little later.
    Wait,
    /// The same with a new token.
    Authenticate,
    /// Nothing.
    None,
}

impl Failure {
    /// The request never left, because there is no connection.
    pub fn unreachable(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new(What::Unreachable, "could not connect").caused_by(source)
    }

    /// The request left, or may have, and no whole answer came.
    pub fn broken(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new(What::Broken, "the connection broke before the answer").caused_by(source)
    }

    /// One side refused the other's certificate.
    pub fn untrusted(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new(What::Untrusted, "a certificate was refused").caused_by(source)
    }

    /// The answer is larger than we take.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(What::TooLarge, message)
    }

    /// The server answered with an error: a [`code`] and its message.
    pub fn status(code: i32, message: impl Into<String>) -> Self {
        Self::new(What::Status(code), message)
    }

    /// The server ended a watch, and gave as reasons the revision up to which it has compacted, if
    /// not 0, or a text.
    pub fn watch_cancelled(compact_revision: i64, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        if compact_revision > 0 {
            return Self::status(code::OUT_OF_RANGE, "the watched revision was compacted");
        }
        // Before 3.5 it says "permission denied" of a token that has expired, too.
        let code = if is_old_token(&reason) || reason.contains("permission denied") {
            code::UNAUTHENTICATED
        } else if reason.contains("user name is empty") {
            code::INVALID_ARGUMENT
        } else {
            code::UNAVAILABLE
        };
        Self::status(code, reason)
    }

    /// The server's answer makes no sense.
    pub fn unexpected_answer() -> Self {
        Self::new(What::Broken, "the server's answer makes no sense")
    }

    /// No answer came in time.
    pub fn timed_out() -> Self {
        Self::new(What::TimedOut, "no answer came in time")
    }

    fn new(what: What, message: impl Into<String>) -> Self {
        Self { what, message: message.into(), server: None, source: None }
    }

    /// The server that was asked.
    pub(crate) fn at(mut self, server: String) -> Self {
        self.server.get_or_insert(server);
        self
    }

    /// What was underneath.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    fn says(&self, text: &str) -> bool {
        self.message.contains(text)
    }

    pub(crate) fn is(&self, code: i32) -> bool {
        self.what == What::Status(code)
    }

    pub(crate) fn is_timeout(&self) -> bool {
        self.what == What::TimedOut
    }

    /// Whether one side refused the other's certificate.
    pub(crate) fn is_refusal(&self) -> bool {
        self.what == What::Untrusted
    }

    /// Whether the server cannot be reached or does not speak, or not as one of etcd does.
    pub(crate) fn is_out_of_reach(&self) -> bool {
        matches!(self.what, What::Unreachable | What::TimedOut | What::Broken)
    }

    pub(crate) fn remedy(&self) -> Remedy {
        use code::*;
        match self.what {
            What::Unreachable | What::Broken | What::TimedOut => Remedy::Elsewhere,
            What::Untrusted | What::TooLarge => Remedy::None,
            What::Status(UNAUTHENTICATED) => Remedy::Authenticate,
            What::Status(_) if is_old_token(&self.message) => Remedy::Authenticate,
            What::Status(RESOURCE_EXHAUSTED) if self.says("too many requests") => Remedy::Wait,
            What::Status(
                INVALID_ARGUMENT | NOT_FOUND | PERMISSION_DENIED | RESOURCE_EXHAUSTED
                | FAILED_PRECONDITION | OUT_OF_RANGE | UNIMPLEMENTED,
            ) => Remedy::None,
            // UNAVAILABLE, DEADLINE_EXCEEDED, and what breaks within the server.
            What::Status(_) => Remedy::Elsewhere,
        }
    }

    /// Whether the server may have carried out the request in spite of it.
    pub(crate) fn may_have_been_applied(&self) -> bool {
        match self.what {
            What::Unreachable | What::Untrusted => false,
            What::Broken | What::TimedOut | What::TooLarge => true,
            What::Status(code::UNAVAILABLE) => !self.says("no leader"),
            What::Status(_) => self.remedy() == Remedy::Elsewhere,
        }
    }

    /// As the error of a call, one attempt of which may have been applied if `unknown`.
    pub(crate) fn into_error(self, unknown: bool) -> Error {
        use code::*;
        let backend = ErrorKind::Backend;
        let (kind, message) = match self.what {
            What::Unreachable => (ErrorKind::Connection, "could not connect"),
            What::Broken => (ErrorKind::Connection, "the connection broke before the answer"),
            What::TimedOut => (ErrorKind::TimedOut, "no answer came in time"),
            What::Untrusted => {
                (ErrorKind::Authentication, "one side refused the other's certificate")
            }
            What::TooLarge => (backend, "the server's answer is larger than 64 MiB"),
            What::Status(DEADLINE_EXCEEDED) => {
                (ErrorKind::TimedOut, "the server gave up on the request")
            }
            What::Status(UNAVAILABLE) => {
                (ErrorKind::Connection, "the server cannot serve this at the moment")
            }
            What::Status(PERMISSION_DENIED) => {
                (ErrorKind::Authentication, "the user lacks permission for a key")
            }
            What::Status(INVALID_ARGUMENT) if self.says("user name is empty") => {
                (ErrorKind::Authentication, "the server demands a user and a password")
            }
            What::Status(_) if self.remedy() == Remedy::Authenticate => {
                (ErrorKind::Authentication, "the server refused the token of the user")
            }
            What::Status(INVALID_ARGUMENT) if self.says("authentication failed") => {
                (ErrorKind::Authentication, "the server refused the user or the password")
            }
            What::Status(FAILED_PRECONDITION) if self.says("authentication is not enabled") => (
                ErrorKind::Authentication,
                "the server has no users: leave user and password out of the URL",
            ),
            What::Status(NOT_FOUND) if self.says("lease not found") => {
                (ErrorKind::SessionLost, "the server no longer knows the session's lease")
            }
            What::Status(RESOURCE_EXHAUSTED) if self.says("space exceeded") => {
                (backend, "the server refuses writes because its database is full")
            }
            What::Status(RESOURCE_EXHAUSTED) if self.says("too many requests") => {
                (ErrorKind::Connection, "the server is overloaded")
            }
            // The second where it is even too large for the server's gRPC.
            What::Status(INVALID_ARGUMENT | RESOURCE_EXHAUSTED)
                if self.says("too large") || self.says("message larger than max") =>
            {
                (
                    ErrorKind::InvalidInput,
                    "the name or the capabilities are larger than the server's --max-request-bytes",
                )
            }
            What::Status(UNIMPLEMENTED) => (backend, "the server does not know the request"),
            What::Status(_) => (backend, "the server answered with an error"),
        };
        let mut error = Error::new(kind, message);
        if let Some(server) = &self.server {
            error = error.with("server", server);
        }
        if matches!(self.what, What::Status(_)) {
            error = error.with("answer", &self.message);
        }
        let unknown = unknown || self.may_have_been_applied();
        let outcome = if unknown { Outcome::Unknown } else { Outcome::NotApplied };
        error.outcome_is(outcome).caused_by(self)
    }
}

fn is_old_token(message: &str) -> bool {
    OLD_TOKEN.iter().any(|text| message.contains(text))
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Failure {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_says_becomes_a_kind_and_an_outcome() {
        use ErrorKind::{Authentication, Backend, Connection, InvalidInput, SessionLost};
        for (code, message, remedy, kind, outcome) in [
            (5, "etcdserver: requested lease not found", Remedy::None, SessionLost, false),
            (7, "etcdserver: permission denied", Remedy::None, Authentication, false),
            (16, "etcdserver: invalid auth token", Remedy::Authenticate, Authentication, false),
            (14, "etcdserver: leader changed", Remedy::Elsewhere, Connection, true),
            (14, "etcdserver: no leader", Remedy::Elsewhere, Connection, false),
            (8, "etcdserver: mvcc: database space exceeded", Remedy::None, Backend, false),
            (8, "etcdserver: too many requests", Remedy::Wait, Connection, false),
            (3, "etcdserver: request is too large", Remedy::None, InvalidInput, false),
            (
                8,
                "grpc: received message larger than max (3 vs. 2)",
                Remedy::None,
                InvalidInput,
                false,
            ),
            (3, "etcdserver: user name is empty", Remedy::None, Authentication, false),
            (
                3,
                "etcdserver: revision of auth store is old",
                Remedy::Authenticate,
                Authentication,
                false,
            ),
            (2, "auth: revision in header is old", Remedy::Authenticate, Authentication, false),
            (2, "auth: invalid auth token", Remedy::Authenticate, Authentication, false),
        ] {
            let failure = Failure::status(code, message);
            assert_eq!(failure.remedy(), remedy, "{message}");
            let error = failure.into_error(false);
            assert_eq!(error.kind(), kind, "{message}");
            assert_eq!(error.outcome() == Outcome::Unknown, outcome, "{message}");
            assert_eq!(error.context("answer"), Some(message));
        }
        for (reason, remedy) in [
            ("etcdserver: permission denied", Remedy::Authenticate),
            (
                "rpc error: code = InvalidArgument desc = etcdserver: revision of auth store is old",
                Remedy::Authenticate,
            ),
            ("etcdserver: invalid auth token", Remedy::Authenticate),
            ("etcdserver: user name is empty", Remedy::None),
            ("", Remedy::Elsewhere),
        ] {
            assert_eq!(Failure::watch_cancelled(0, reason).remedy(), remedy, "{reason}");
        }
        let error = Failure::unreachable("refused").into_error(true);
        assert_eq!(error.outcome(), Outcome::Unknown, "an earlier attempt may have been applied");
    }
}
