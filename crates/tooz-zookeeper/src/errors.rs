//! What the server's and the client's errors mean.

use tooz_core::{Error, ErrorKind, Outcome};
use tracing::debug;
use zookeeper_client::Error as Cause;

/// A request that failed, and whether an earlier sending of it may have been carried out.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) cause: Cause,
    pub(crate) again: bool,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        if failure.again && failure.cause == Cause::ConnectionLoss {
            return broke_twice();
        }
        let error = translate(failure.cause);
        if failure.again { error.outcome_is(Outcome::Unknown) } else { error }
    }
}

/// The client tells of some broken connections by the system's own error.
pub(crate) fn normalize(cause: Cause) -> Cause {
    match cause {
        Cause::Custom(error) => {
            debug!(%error, "connection lost");
            Cause::ConnectionLoss
        }
        cause => cause,
    }
}

/// For a request during which the connection broke, and again when it was repeated.
pub(crate) fn broke_twice() -> Error {
    let message = "the connection broke twice during this request; a request above the server's \
                   jute.maxbuffer does that: the option jute_maxbuffer must not be above it";
    Error::new(ErrorKind::Connection, message).outcome_is(Outcome::Unknown)
}

pub(crate) fn translate(cause: Cause) -> Error {
    let (kind, message) = match &cause {
        Cause::ConnectionLoss => (ErrorKind::Connection, "the connection broke"),
        Cause::Timeout => (ErrorKind::TimedOut, "no answer came in time"),
        Cause::NoHosts => (ErrorKind::Connection, "no server could be reached"),
        Cause::SessionExpired | Cause::SessionMoved | Cause::ClientClosed => {
            (ErrorKind::SessionLost, "the session is over")
        }
        Cause::AuthFailed => {
            (ErrorKind::Authentication, "the server refused the user or the password")
        }
        Cause::NoAuth => (
            ErrorKind::Authentication,
            "access to a node is denied: it needs another user, or the password is wrong",
        ),
        Cause::NoNode => (ErrorKind::Backend, "a node that should be there is missing"),
        Cause::QuotaExceeded => (ErrorKind::Backend, "the server's quota is used up"),
        Cause::Throttled => (ErrorKind::Connection, "the server is overloaded at the moment"),
        Cause::NotReadOnly => {
            (ErrorKind::Connection, "the server has no quorum and can only be read")
        }
        Cause::Unimplemented => {
            (ErrorKind::NotImplemented, "the server is older than ZooKeeper 3.5")
        }
        _ => (ErrorKind::Backend, "the server answered with an error"),
    };
    let unknown = matches!(cause, Cause::ConnectionLoss | Cause::Timeout);
    let outcome = if unknown { Outcome::Unknown } else { Outcome::NotApplied };
    Error::new(kind, message).outcome_is(outcome).caused_by(cause)
}

/// For a node of ours that another session made: the client was moved to a new session silently,
/// as some servers that only speak ZooKeeper's protocol do.
pub(crate) fn foreign_session() -> Error {
    Error::new(ErrorKind::SessionLost, "the server replaced the session with another")
        .outcome_is(Outcome::Unknown)
}
