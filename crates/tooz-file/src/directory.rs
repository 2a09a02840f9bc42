//! A directory that coordinators share, as one session sees it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::libc;
use nix::sys::statfs::statfs;
use tooz_core::{Mode, OperationId, Result};
use tracing::warn;

use crate::access;
use crate::config::Config;
use crate::errors::{failed, unreachable};
use crate::keys::Keys;
use crate::queue::Queue;
use crate::turn::Turn;
use crate::watch::{Changes, GONE, Hub, Watch};

/// File systems where other hosts' changes raise no events here.
const REMOTE: [i128; 8] = [
    libc::NFS_SUPER_MAGIC as i128,
    libc::SMB_SUPER_MAGIC as i128,
    libc::AFS_SUPER_MAGIC as i128,
    libc::CODA_SUPER_MAGIC as i128,
    0xff53_4d42, // CIFS
    0xfe53_4d42, // SMB 2 and 3
    0x0102_1997, // 9P
    0x00c3_6400, // Ceph
];

/// The directory, and the means to watch it.
#[derive(Clone, Debug)]
pub(crate) struct Directory {
    pub(crate) keys: Keys,
    /// How long a Python member lives after its file was touched.
    pub(crate) timeout: Duration,
    hub: Arc<Hub>,
    polls: bool,
    /// Nothing can be written: it is looked at, as it is.
    only_reads: bool,
}

impl Directory {
    /// Makes the directories that are missing, if they can be made: groups can be looked at where
    /// nothing can be written. On the thread of the runtime.
    pub(crate) fn open(config: &Config) -> Result<Self> {
        let keys = Keys::new(&config.dir);
        let failed = |dir: &Path, error| unreachable("create the directory", dir, error);
        keys.create().map_err(|error| failed(&config.dir, error))?;
        // Before anything is put there.
        access::check(&config.dir, config.world_writable)?;
        let only_reads = match keys.repair() {
            Ok(()) => false,
            Err((_, error)) if access::is_unwritable(&error) => true,
            Err((dir, error)) => return Err(failed(&dir, error)),
        };
        let polls = is_remote(&config.dir);
        if polls {
            warn!(dir = %config.dir.display(), "a network file system: changes are polled");
        }
        Ok(Self { keys, timeout: config.timeout, hub: Hub::of_this_thread(), polls, only_reads })
    }

    pub(crate) fn watch(&self) -> Watch {
        Watch::new(self.hub.clone(), self.polls)
    }

    /// A turn in the queue before that lock or leader's file. On a network file system there is no
    /// queue: the tickets of other hosts would look dead.
    pub(crate) fn turn(&self, file: &Path, operation: OperationId, mode: Mode) -> Turn {
        match self.polls {
            true => Turn::without_queue(),
            false => Turn::in_queue(Queue::at(self.keys.queue(file)), operation, mode),
        }
    }

    /// Watches a directory of the driver's own, which is made again if somebody has removed it.
    pub(crate) fn watch_dir(&self, watch: &mut Watch, dir: &Path, changes: Changes) -> Result<()> {
        if !watch.on(dir, changes | GONE) {
            self.repair()?;
            watch.on(dir, changes | GONE);
        }
        Ok(())
    }

    /// Makes directories that somebody has removed: what clears away temporary files does so with
    /// empty ones.
    pub(crate) fn repair(&self) -> Result<()> {
        if self.only_reads {
            return Ok(());
        }
        self.keys.repair().map_err(|(dir, error)| failed("create the directory", &dir, error))
    }
}

fn is_remote(dir: &Path) -> bool {
    // Wider than the type of any platform.
    statfs(dir).is_ok_and(|found| REMOTE.contains(&i128::from(found.filesystem_type().0)))
}
