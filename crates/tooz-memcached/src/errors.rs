//! What the server's and the connection's errors mean.

use std::io;

use tooz_core::{Error, ErrorKind};

/// What the server says instead of an answer: `SERVER_ERROR …`, `CLIENT_ERROR …` or `ERROR`.
pub(crate) fn server_said(text: &str) -> Error {
    if text.contains("unauthenticated") || text.contains("authentication failure") {
        let what = "the server refused the user or the password";
        return Error::new(ErrorKind::Authentication, what);
    }
    let message = match text {
        _ if text.contains("out of memory") => "the server is out of memory",
        _ if text.contains("too large") => {
            "the server refuses an item of this size; see its option -I"
        }
        _ => "the server answered with an error",
    };
    Error::new(ErrorKind::Backend, message).with("answer", text)
}

pub(crate) fn broken(error: io::Error) -> Error {
    Error::new(ErrorKind::Connection, "the connection broke").caused_by(error)
}

/// The connection ended, and what is known of why was logged.
pub(crate) fn ended() -> Error {
    Error::new(
        ErrorKind::Connection,
        "the server ended the connection, or did not answer in memcached's protocol",
    )
}

pub(crate) fn refused(error: io::Error) -> Error {
    Error::new(ErrorKind::Connection, "could not connect").caused_by(error)
}

pub(crate) fn no_answer() -> Error {
    Error::new(ErrorKind::TimedOut, "no answer came in time")
}
