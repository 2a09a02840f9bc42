//! The server's refusals, and its errors as ours.

use serde::Deserialize;
use tooz_core::{Error, ErrorKind, Outcome, Result};
use tooz_http::Response;

/// Why the server did not do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There is no such key.
    Missing,
    /// The key is not what it was said to be.
    Differs,
    /// The key exists.
    Exists,
    /// The directory is not empty, or no directory.
    InUse,
}

/// The body of an answer that is no success.
#[derive(Deserialize)]
pub(crate) struct Failure {
    #[serde(rename = "errorCode")]
    pub(crate) code: u32,
    #[serde(default)]
    message: String,
}

/// The refusal that an answer is, if it is no error.
pub(crate) fn refusal(response: &Response) -> Result<Refusal> {
    let Ok(failure) = response.json::<Failure>() else { return Err(response.error()) };
    match failure.code {
        100 => Ok(Refusal::Missing),
        101 => Ok(Refusal::Differs),
        105 => Ok(Refusal::Exists),
        102 | 104 | 107 | 108 => Ok(Refusal::InUse),
        // The cluster has no leader, or it changed meanwhile.
        300.. => Err(Error::new(ErrorKind::Connection, "the cluster is in trouble")
            .with("answer", failure.message)
            .outcome_is(Outcome::Unknown)),
        _ => Err(response.error()),
    }
}

/// A refusal for which the driver's own requests give no reason.
pub(crate) fn unexpected(what: &str, refusal: Refusal) -> Error {
    let problem = match refusal {
        Refusal::Missing => "is missing",
        Refusal::Differs => "was changed by somebody else",
        Refusal::Exists => "already exists",
        Refusal::InUse => "is a directory, or has one above it that is a key",
    };
    Error::new(ErrorKind::Backend, format!("{what} {problem}"))
}
