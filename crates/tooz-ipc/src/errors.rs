//! From the system's errors to ours.

use std::fmt;
use std::io;
use std::path::Path;

use tooz_core::{Error, ErrorKind};

/// What could not be done to which path, and why.
pub(crate) fn failed(action: impl fmt::Display, path: &Path, error: io::Error) -> Error {
    let kind = kind_of(&error);
    Error::new(kind, format!("cannot {action} {}: {}", path.display(), why(&error)))
        .caused_by(error)
}

/// What could not be done to the semaphores or the segment of which key, and why.
pub(crate) fn refused(action: &str, key: i32, error: io::Error) -> Error {
    let help = match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => {
            "; it belongs to another user: run as that user, or choose a namespace of your own"
        }
        Some(libc::ENOSPC) => {
            "; the system's limit is reached: remove what nobody needs (ipcs lists it), or raise \
             kernel.sem or kernel.shmmni"
        }
        _ => "",
    };
    // As `ipcs` shows keys.
    let message = format!("cannot {action} with the key {key:#010x}: {}{help}", why(&error));
    Error::new(kind_of(&error), message).caused_by(error)
}

pub(crate) fn session_lost() -> Error {
    Error::new(ErrorKind::SessionLost, "the session has ended")
}

fn kind_of(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::PermissionDenied => ErrorKind::Authentication,
        _ => ErrorKind::Backend,
    }
}

/// The class of the error alone, such as "permission denied"; the whole of it is the source. Some
/// have no class: too many open files, for one.
fn why(error: &io::Error) -> String {
    let why = error.kind().to_string();
    if why.starts_with("uncategorized") { error.to_string() } else { why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_would_help() {
        let full = refused("make the semaphores", 1, io::Error::from_raw_os_error(libc::ENOSPC));
        assert!(full.to_string().contains("raise kernel.sem"), "{full}");
        let foreign = refused("open the segment", -1, io::Error::from_raw_os_error(libc::EACCES));
        assert_eq!(foreign.kind(), ErrorKind::Authentication);
        assert!(
            foreign.to_string().contains("with the key 0xffffffff: permission denied; it belongs")
        );
    }
}
