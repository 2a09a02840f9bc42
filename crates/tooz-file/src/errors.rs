//! From the system's errors to ours.

use std::fmt;
use std::io;
use std::path::Path;

use tooz_core::{Error, ErrorKind};

/// What could not be done to which path, and why.
pub(crate) fn failed(action: impl fmt::Display, path: &Path, error: io::Error) -> Error {
    failed_as(ErrorKind::Backend, action, path, error)
}

/// The same, while a session is opened.
pub(crate) fn unreachable(action: impl fmt::Display, path: &Path, error: io::Error) -> Error {
    failed_as(ErrorKind::Connection, action, path, error)
}

fn failed_as(kind: ErrorKind, action: impl fmt::Display, path: &Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied => ErrorKind::Authentication,
        io::ErrorKind::InvalidFilename => ErrorKind::InvalidInput,
        _ => kind,
    };
    // The class of the error alone, such as "permission denied"; the whole of it is the source.
    // Some have no class: too many open files, for one.
    let mut why = error.kind().to_string();
    if why.starts_with("uncategorized") {
        why = error.to_string();
    }
    Error::new(kind, format!("cannot {action} {}: {why}", path.display())).caused_by(error)
}

pub(crate) fn session_lost() -> Error {
    Error::new(ErrorKind::SessionLost, "the session has ended")
}
