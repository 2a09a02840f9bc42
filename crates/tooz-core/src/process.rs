//! Which process something belongs to: a `fork` copies everything but the threads.

use crate::{Error, ErrorKind, Result};

/// The process that made this. In a forked child the engine's threads do not exist, so
/// nothing would ever answer, and the sockets and locks are the parent's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(u32);

impl Process {
    pub(crate) fn current() -> Self {
        Self(std::process::id())
    }

    /// Whether we are still in that process, not in a child of it. One system call.
    pub(crate) fn is_current(self) -> bool {
        self == Self::current()
    }

    /// Fails in a child of that process.
    pub(crate) fn check(self) -> Result<()> {
        if self.is_current() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::NotRunning,
            "this process is a fork of the one that the coordinator runs in; make and start a new \
             coordinator after the fork",
        ))
    }
}
