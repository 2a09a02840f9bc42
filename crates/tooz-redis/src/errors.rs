//! What the server's and the client's errors mean.

use redis::{ErrorKind as Redis, RedisError, ServerErrorKind as Server};
use tooz_core::{Error, ErrorKind, Outcome};

use crate::answers::REFUSALS;

/// What can be done about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Another connection; whether the request was carried out is unknown.
    Reconnect,
    /// Another connection, to another server; the request was not carried out.
    FindMaster,
    /// The same request, a little later.
    Wait,
    /// Load the scripts.
    Load,
    /// None.
    None,
}

pub(crate) fn remedy(error: &RedisError) -> Remedy {
    match error.kind() {
        _ if refusal(error).is_some() => Remedy::None,
        Redis::Io | Redis::Parse => Remedy::Reconnect,
        Redis::Server(Server::NoScript) => Remedy::Load,
        Redis::Server(Server::Moved | Server::ReadOnly) => Remedy::FindMaster,
        Redis::Server(
            Server::BusyLoading
            | Server::TryAgain
            | Server::Ask
            | Server::ClusterDown
            | Server::MasterDown,
        ) => Remedy::Wait,
        // Somebody else's script runs too long.
        _ if error.code() == Some("BUSY") => Remedy::Wait,
        _ => Remedy::None,
    }
}

pub(crate) fn translate(error: RedisError) -> Error {
    if let Some(why) = refusal(&error) {
        return Error::new(ErrorKind::Backend, why).outcome_is(Outcome::Unknown);
    }
    let detail = error.detail().unwrap_or_default();
    let (kind, message) = match (error.kind(), error.code()) {
        (Redis::AuthenticationFailed, _) | (_, Some("WRONGPASS" | "NOAUTH")) => {
            (ErrorKind::Authentication, "the server refused the user or the password")
        }
        // A script's lack of permission has no code, only the server's words.
        (_, code)
            if code == Some("NOPERM") || detail.contains("The user executing the script can't") =>
        {
            let message = "the user lacks permission for a command, key or channel";
            (ErrorKind::Authentication, message)
        }
        (_, Some("READONLY")) => (ErrorKind::Backend, "the server is a read-only replica"),
        (_, Some("MISCONF")) => {
            (ErrorKind::Backend, "the server refuses writes because it cannot save to its disk")
        }
        (_, Some("OOM")) => (ErrorKind::Backend, "the server is out of memory"),
        (_, Some("NOREPLICAS")) => {
            (ErrorKind::Backend, "the server refuses writes because it has too few replicas")
        }
        (_, Some("WRONGTYPE")) => {
            (ErrorKind::Backend, "a key of this name contains something else")
        }
        (_, Some("LOADING")) => (ErrorKind::Connection, "the server is still loading its data"),
        (_, Some("MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "MOVED" | "ASK" | "BUSY")) => {
            (ErrorKind::Connection, "the server cannot serve this at the moment")
        }
        (Redis::RESP3NotSupported, _) => {
            (ErrorKind::NotImplemented, "the server is older than Redis 6 and cannot push")
        }
        (Redis::InvalidClientConfig, _) => {
            (ErrorKind::InvalidInput, "the client refused the configuration")
        }
        (Redis::Io, _) if error.is_timeout() => return silent(),
        (Redis::Io, _) if error.is_connection_refusal() => {
            (ErrorKind::Connection, "could not connect")
        }
        (Redis::Parse, _) => (ErrorKind::Connection, "the answer does not follow Redis' protocol"),
        (Redis::Io, _) => (ErrorKind::Connection, "the connection broke"),
        _ if detail.contains("would overflow") => {
            (ErrorKind::Backend, "the namespace has given out its last fencing token, 2^63 - 1")
        }
        _ if detail.contains("DB index is out of range") => {
            (ErrorKind::InvalidInput, "the server has no database with that number")
        }
        _ => (ErrorKind::Backend, "the server answered with an error"),
    };
    let broken = matches!(error.kind(), Redis::Io | Redis::Parse);
    let unknown = broken && !error.is_connection_refusal();
    let outcome = if unknown { Outcome::Unknown } else { Outcome::NotApplied };
    Error::new(kind, message).outcome_is(outcome).caused_by(error)
}

/// The same for a connection that is being opened.
pub(crate) fn not_connected(error: RedisError) -> Error {
    match error.kind() {
        Redis::Io if !error.is_timeout() => {
            Error::new(ErrorKind::Connection, "could not connect").caused_by(error)
        }
        _ => translate(error),
    }
}

/// The client's own text adds nothing.
fn silent() -> Error {
    Error::new(ErrorKind::TimedOut, "no answer came in time").outcome_is(Outcome::Unknown)
}

/// Why the answer was refused, if it was: another connection would get the same one again.
fn refusal(error: &RedisError) -> Option<&'static str> {
    // The client library gives no access to the error within.
    let text = error.is_io_error().then(|| error.to_string())?;
    REFUSALS.into_iter().find(|why| text.contains(why))
}
