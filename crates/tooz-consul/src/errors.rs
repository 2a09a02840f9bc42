//! The servers' errors as ours.

use tooz_core::{Error, ErrorKind, Outcome};
use tooz_http::Response;

/// What an answer means that was not expected.
pub(crate) fn failure(response: &Response) -> Error {
    let text = response.text();
    if text.contains("No cluster leader") {
        return Error::new(ErrorKind::Connection, "the servers have no leader at the moment")
            .outcome_is(Outcome::NotApplied);
    }
    if is_denied(&text) {
        return denied(&text);
    }
    if text.contains("Invalid Session TTL") {
        return Error::invalid("the servers do not allow this time to live for sessions")
            .with("answer", text);
    }
    if text.contains("invalid session") {
        return session_lost();
    }
    response.error()
}

/// Whether the server did nothing because of the token. Transactions say so in their own way.
pub(crate) fn is_refusal(response: &Response) -> bool {
    response.status() == 403 || (!response.is_success() && is_denied(&response.text()))
}

/// Whether an answer says that the token is not good enough.
pub(crate) fn is_denied(answer: &str) -> bool {
    answer.contains("Permission denied") || is_unknown_token(answer)
}

/// Whether an answer says that there is no such token.
pub(crate) fn is_unknown_token(answer: &str) -> bool {
    answer.contains("ACL not found")
}

pub(crate) fn denied(answer: &str) -> Error {
    Error::new(ErrorKind::Authentication, "the token lacks a permission, or is unknown")
        .with("answer", answer)
}

pub(crate) fn session_lost() -> Error {
    Error::new(ErrorKind::SessionLost, "the servers no longer know the session")
}
