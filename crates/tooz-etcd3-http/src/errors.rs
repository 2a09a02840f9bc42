//! What the gateway's and the HTTP client's errors mean.

use serde::Deserialize;
use tooz_core::{Error, ErrorKind, Outcome};
use tooz_etcd3_core::{Failure, code};
use tooz_http::Response;

/// What stands in the body of an error: the status of gRPC.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    code: i32,
    message: String,
    /// The message, of servers before 3.4.
    error: String,
}

/// What stands in a line of a stream instead of a result.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct StreamError {
    grpc_code: i32,
    message: String,
}

impl From<StreamError> for Failure {
    fn from(error: StreamError) -> Self {
        Self::status(error.grpc_code, error.message)
    }
}

pub(crate) fn from_response(response: &Response) -> Failure {
    from_body(response.status(), response.body(), || response.error())
}

fn from_body(http: u16, body: &[u8], otherwise: impl FnOnce() -> Error) -> Failure {
    match serde_json::from_slice::<Status>(body) {
        Ok(Status { code, message, error }) if code != 0 => {
            Failure::status(code, if message.is_empty() { error } else { message })
        }
        // A proxy's answer, or that of something that is no gateway.
        _ => {
            let code = match http {
                401 => code::UNAUTHENTICATED,
                403 => code::PERMISSION_DENIED,
                404 | 405 | 501 => code::UNIMPLEMENTED,
                400 => code::INVALID_ARGUMENT,
                _ => code::UNAVAILABLE,
            };
            let error = otherwise();
            let says = error.context("answer").unwrap_or_default();
            Failure::status(code, format!("status {http}, {says}"))
        }
    }
}

/// The failure of a request that got no answer, or of a stream that could not be opened.
pub(crate) fn from_error(error: Error) -> Failure {
    if let Some(status) = error.context("status").and_then(|status| status.parse().ok()) {
        let body = error.context("answer").unwrap_or_default().to_owned();
        return from_body(status, body.as_bytes(), || error);
    }
    match (error.kind(), error.outcome()) {
        (ErrorKind::Authentication, _) => Failure::untrusted(error),
        (_, Outcome::NotApplied) => Failure::unreachable(error),
        (ErrorKind::TimedOut, _) => Failure::timed_out().caused_by(error),
        _ => Failure::broken(error),
    }
}
