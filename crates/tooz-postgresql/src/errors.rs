//! What the server's and the client's errors mean.

use std::io;

use tokio_postgres::Row;
use tokio_postgres::types::FromSql;
use tooz_core::kit::find_cause;
use tooz_core::{Error, ErrorKind, Outcome};

use crate::answers::TooLarge;

const LOCKED_OUT: &str = "55P03";

/// After a broken connection, nothing that depended on it is left: what is not a row of its own was
/// not applied.
pub(crate) fn translate(error: tokio_postgres::Error) -> Error {
    let Some(code) = error.code() else {
        return Error::new(ErrorKind::SessionLost, "the connection to the server ended")
            .caused_by(error);
    };
    let (kind, message) = match code.code() {
        "28P01" | "28000" => {
            (ErrorKind::Authentication, "the server refused the user or the password")
        }
        "42501" => (ErrorKind::Authentication, "the role lacks a permission"),
        "3D000" => (ErrorKind::InvalidInput, "the server has no such database"),
        "53300" => (
            ErrorKind::Connection,
            "the server has no free connection: raise max_connections, or let fewer acquisitions \
             wait at a time",
        ),
        "53200" => (
            ErrorKind::Backend,
            "the server has no room for more locks: raise max_locks_per_transaction",
        ),
        "25006" => (ErrorKind::Backend, "the server is read-only: a standby, or set to be so"),
        "57P03" => (ErrorKind::Connection, "the server is starting or shutting down"),
        "57P01" | "57P02" | "57P05" | "25P03" => {
            (ErrorKind::SessionLost, "the server ended the session")
        }
        LOCKED_OUT => (
            ErrorKind::Connection,
            "a table or sequence of tooz is locked by somebody else (VACUUM FULL, ALTER or LOCK, \
             perhaps behind a dump): see pg_locks",
        ),
        "22P05" => (
            ErrorKind::InvalidInput,
            "the database's encoding lacks a character of the schema's name: choose another name",
        ),
        "40001" | "40P01" | "57014" => (ErrorKind::Connection, "the server gave up the request"),
        _ => (ErrorKind::Backend, "the server answered with an error"),
    };
    let code = code.code().to_owned();
    Error::new(kind, message).with("sqlstate", code).caused_by(error)
}

/// Whether a statement was given up because somebody has locked what it needs. Nothing of it was
/// carried out, but for an advisory lock that it took before.
pub(crate) fn is_locked_out(error: &Error) -> bool {
    error.context("sqlstate") == Some(LOCKED_OUT)
}

/// Whether the answer is lost, and the session with it.
pub(crate) fn is_session_lost(error: &Error) -> bool {
    error.kind() == ErrorKind::SessionLost
}

/// [`translate`] for a connection that is being opened.
pub(crate) fn translate_opening(error: tokio_postgres::Error) -> Error {
    let refused = |kind, message: &str| Error::new(kind, message);
    match error.code() {
        Some(_) => translate(error),
        None => {
            let text = error.to_string();
            let error = if find_cause::<TooLarge>(&error).is_some() {
                refused(ErrorKind::Backend, &TooLarge.to_string()).caused_by(error)
            } else if text.contains("authentication") || text.contains("configuration") {
                refused(ErrorKind::Authentication, "the login failed: is a password missing?")
                    .caused_by(error)
            } else {
                refused(ErrorKind::Connection, "could not connect").caused_by(error)
            };
            error.outcome_is(Outcome::NotApplied)
        }
    }
}

/// Of a server before the log-in.
pub(crate) fn unreachable(error: io::Error) -> Error {
    let error = Error::new(ErrorKind::Connection, "could not connect").caused_by(error);
    error.outcome_is(Outcome::NotApplied)
}

/// Of a server that has no TLS, or not the right one.
pub(crate) fn no_tls(error: io::Error) -> Error {
    let message = "no TLS connection could be made: see sslmode and sslrootcert";
    let error = Error::new(ErrorKind::Connection, message).retryable(false).caused_by(error);
    error.outcome_is(Outcome::NotApplied)
}

/// No answer in time; the request may still be carried out.
pub(crate) fn timed_out() -> Error {
    Error::new(ErrorKind::TimedOut, "the server did not answer in time")
        .outcome_is(Outcome::Unknown)
}

/// A column of an answer.
pub(crate) fn get<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T, Error> {
    row.try_get(column).map_err(|error| Error::unexpected_answer().caused_by(error))
}
