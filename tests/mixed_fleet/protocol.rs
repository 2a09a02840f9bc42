//! What a peer of either language is asked and answers: a line of JSON each.
//!
//! A request is a map with its name under `do`; `worker.rs` and `peer.py` say what each does. An
//! answer is `{"Ok": …}` or `{"Err": {"kind": …, "message": …}}`, with the kinds of errors called
//! as ours are.

use serde::{Deserialize, Serialize};

/// An answer that is an error.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) kind: String,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(kind: &str, message: impl ToString) -> Self {
        Self { kind: kind.to_owned(), message: message.to_string() }
    }
}

impl From<tooz_core::Error> for Failure {
    fn from(error: tooz_core::Error) -> Self {
        Self::new(&format!("{:?}", error.kind()), error)
    }
}
