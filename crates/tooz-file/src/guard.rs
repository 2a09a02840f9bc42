//! Leases that end with what is found at a path.

use std::path::Path;

use tokio::task::AbortHandle;
use tooz_core::{Lease, Loss};

use crate::directory::Directory;
use crate::ofd::Identity;
use crate::watch::{GONE, Watch};

/// Loses a lease as soon as a path leads elsewhere than it should. Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Guard(AbortHandle);

impl Guard {
    pub(crate) fn over(
        directory: &Directory,
        path: &Path,
        identity: Identity,
        lease: &Lease,
        loss: Loss,
    ) -> Self {
        Self::over_all(directory, path, identity, lease, loss, directory.keys.root())
    }

    /// The same for the session itself, which is lost with the whole directory: what it has there
    /// needs to look no further than the directory.
    pub(crate) fn over_session(
        directory: &Directory,
        path: &Path,
        identity: Identity,
        lease: &Lease,
    ) -> Self {
        Self::over_all(directory, path, identity, lease, Loss::SessionEnded, Path::new("/"))
    }

    fn over_all(
        directory: &Directory,
        path: &Path,
        identity: Identity,
        lease: &Lease,
        loss: Loss,
        top: &Path,
    ) -> Self {
        let (path, top) = (path.to_owned(), top.to_owned());
        Self::while_true(directory, lease, loss, move |watch| {
            watch.on_way(&path, &top);
            watch.on(&path, GONE) && identity.is_at(&path)
        })
    }

    /// Loses a lease as soon as something is no longer true. `holds` puts the watch where a change
    /// would show, then looks.
    pub(crate) fn while_true(
        directory: &Directory,
        lease: &Lease,
        loss: Loss,
        holds: impl Fn(&mut Watch) -> bool + Send + 'static,
    ) -> Self {
        let (mut watch, lease) = (directory.watch(), lease.clone());
        let task = tokio::spawn(async move {
            while holds(&mut watch) {
                watch.changed().await;
            }
            lease.lose(loss);
        });
        Self(task.abort_handle())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abort();
    }
}
