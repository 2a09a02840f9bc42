//! What the server's and the client's errors mean.

use std::fmt;

use sqlx::mysql::MySqlDatabaseError;
use tooz_core::{Error, ErrorKind, Outcome};

pub(crate) const DEADLOCK: u16 = 1213;
/// MariaDB, with innodb_snapshot_isolation: a row has changed since the transaction read it.
const CHANGED: u16 = 1020;
pub(crate) const DUPLICATE: u16 = 1062;
/// MySQL's answer to a statement that a KILL QUERY ended. MariaDB's GET_LOCK answers NULL then.
pub(crate) const INTERRUPTED: u16 = 1317;
pub(crate) const NO_SUCH_TABLE: u16 = 1146;
/// The connection is no longer there.
pub(crate) const NO_SUCH_THREAD: u16 = 1094;
const LOCK_WAIT_TIMEOUT: u16 = 1205;

/// Users, passwords, permissions, transport that the server insists on.
const DENIED: [u16; 11] = [1044, 1045, 1095, 1142, 1143, 1227, 1370, 1698, 3118, 3159, 4151];

/// The server ends the connection with these: a shutdown, a KILL, its wait_timeout.
const ENDINGS: [u16; 6] = [1053, 1077, 1152, 1184, 1927, 4031];

/// A request that failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The client library's error.
    Client(sqlx::Error),
    /// No answer came in time.
    Silence,
    /// It was slow, and the server ended it for us.
    Slow,
    /// It was not sent: the server takes no request of this length.
    TooLarge { length: u64, most: u64 },
    /// The connection was gone before.
    Gone,
    /// The answer does not follow the protocol: the client library gave up.
    Malformed,
}

impl Failure {
    fn number(&self) -> Option<u16> {
        match self {
            Self::Client(sqlx::Error::Database(error)) => {
                error.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number)
            }
            _ => None,
        }
    }

    /// Whether the server answered with this error.
    pub(crate) fn is(&self, number: u16) -> bool {
        self.number() == Some(number)
    }

    /// Whether it is a matter of permissions.
    pub(crate) fn is_denied(&self) -> bool {
        self.number().is_some_and(|number| DENIED.contains(&number))
    }

    /// Whether the same may succeed at once: two transactions were in each other's way.
    pub(crate) fn is_conflict(&self) -> bool {
        self.is(DEADLOCK) || self.is(CHANGED)
    }

    /// Whether the same may succeed later: somebody keeps a table or a row locked.
    pub(crate) fn is_busy(&self) -> bool {
        self.is(LOCK_WAIT_TIMEOUT) || matches!(self, Self::Slow)
    }

    /// Whether the connection can no longer be used.
    pub(crate) fn is_fatal(&self) -> bool {
        !self.is_busy()
            && !matches!(self, Self::TooLarge { .. })
            && self.number().is_none_or(|number| ENDINGS.contains(&number))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(error) => error.fmt(f),
            Self::Silence => f.write_str("no answer came in time"),
            Self::Slow => f.write_str("the statement took too long and was ended"),
            Self::TooLarge { length, most } => {
                write!(f, "the request has {length} bytes, and max_allowed_packet is {most}")
            }
            Self::Gone => f.write_str("the connection is gone"),
            Self::Malformed => f.write_str("the answer does not follow MySQL's protocol"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Client(error)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let (kind, message) = match (&failure, failure.number()) {
            (Failure::Silence, _) => (ErrorKind::TimedOut, "no answer came in time"),
            (Failure::TooLarge { .. }, _) => {
                (ErrorKind::InvalidInput, "this is more than the server accepts in one request")
            }
            _ if failure.is_busy() => (
                ErrorKind::TimedOut,
                "a table or a row of tooz stays locked at the server, by a backup or an ALTER TABLE \
                 say, or the server is overloaded",
            ),
            (Failure::Gone, _) => (ErrorKind::Connection, "the connection is gone"),
            (Failure::Malformed, _) => (
                ErrorKind::Connection,
                "this is not a MySQL or MariaDB server, or something changed its answer",
            ),
            (Failure::Client(sqlx::Error::Tls(_)), _) => {
                (ErrorKind::Connection, "no secure connection to the server could be made")
            }
            (Failure::Client(sqlx::Error::Configuration(_)), _) => {
                (ErrorKind::InvalidInput, "the client refused the configuration")
            }
            (_, Some(1049)) => (ErrorKind::InvalidInput, "the server has no such database"),
            (_, Some(1040 | 1203 | 1226)) => {
                (ErrorKind::Connection, "the server has no more connections for this user")
            }
            (_, Some(1290 | 1792 | 1836)) => (ErrorKind::Backend, "the server is read-only"),
            (_, Some(number)) if ENDINGS.contains(&number) => {
                (ErrorKind::Connection, "the server ended the connection")
            }
            _ if failure.is_denied() => (
                ErrorKind::Authentication,
                "the server refused the user, the password or the permission",
            ),
            (_, Some(_)) => (ErrorKind::Backend, "the server answered with an error"),
            (_, None) => (ErrorKind::Connection, "the connection broke"),
        };
        let unknown = failure.is_fatal() && !matches!(failure, Failure::Gone);
        let outcome = if unknown { Outcome::Unknown } else { Outcome::NotApplied };
        let busy = failure.is_busy();
        let error = Error::new(kind, message).outcome_is(outcome).caused_by(failure);
        if busy { error.retryable(true) } else { error }
    }
}

/// The session is over.
pub(crate) fn session_over() -> Error {
    Error::new(ErrorKind::SessionLost, "the session is over").outcome_is(Outcome::NotApplied)
}

/// NULL from GET_LOCK: neither got nor busy.
pub(crate) fn no_verdict() -> Error {
    Error::new(
        ErrorKind::Backend,
        "the server could not decide about the lock: it is short of memory, \
               or the statement was killed",
    )
    .outcome_is(Outcome::NotApplied)
    .retryable(true)
}
