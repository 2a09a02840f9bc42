//! What the client library's errors mean.

use std::error::Error as StdError;

use tooz_core::{Error, ErrorKind, Outcome};

use crate::client::LARGEST_ANSWER;

/// An attempt failed before the head of a response came.
pub(crate) fn failed(error: hyper_util::client::legacy::Error) -> Error {
    let unsent = error.is_connect();
    #[cfg(feature = "tls")]
    if let Some(refusal) = crate::tls::refusal(&error) {
        return refusal.caused_by(error);
    }
    let message =
        if unsent { "could not connect" } else { "the connection broke before the answer" };
    let outcome = if unsent { Outcome::NotApplied } else { Outcome::Unknown };
    Error::new(ErrorKind::Connection, message).outcome_is(outcome).caused_by(error)
}

/// The connection broke within a response.
pub(crate) fn broken(error: hyper::Error) -> Error {
    Error::new(ErrorKind::Connection, "the connection broke during the answer")
        .outcome_is(Outcome::Unknown)
        .caused_by(error)
}

/// A response was not read to its end.
pub(crate) fn unread(error: Box<dyn StdError + Send + Sync>) -> Error {
    match error.downcast::<hyper::Error>() {
        Ok(error) => broken(*error),
        Err(_) => too_large(),
    }
}

/// A response has more than anybody keeps.
pub(crate) fn too_large() -> Error {
    let limit = LARGEST_ANSWER >> 20;
    Error::new(ErrorKind::Backend, format!("the answer is larger than {limit} MiB"))
        .outcome_is(Outcome::Unknown)
}

/// No answer came in time.
pub(crate) fn timed_out() -> Error {
    Error::new(ErrorKind::TimedOut, "no answer came in time").outcome_is(Outcome::Unknown)
}
