//! A directory that coordinators share, as one session sees it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::libc;
use nix::sys::statfs::statfs;
use tooz_core::{Error, ErrorKind, Mode, OperationId, Result};
use tracing::warn;

use crate::access;
use crate::config::Config;
use crate::errors::{failed, unreachable};
use crate::layout::Layout;
use crate::line::Line;
use crate::locked_file::LockedFile;
use crate::watch::{Changes, GONE, Hub, Watch};

/// How long to wait for the driver lock, which is only ever held for a few system calls.
const DRIVER_LOCK_LIMIT: Duration = Duration::from_secs(10);

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
pub(crate) struct Place {
    pub(crate) layout: Layout,
    /// How long a Python member lives after its file was touched.
    pub(crate) timeout: Duration,
    hub: Arc<Hub>,
    polls: bool,
    /// Nothing can be written: it is looked at, as it is.
    only_reads: bool,
}

impl Place {
    /// Makes the directories that are missing, if they can be made: groups can be looked at where
    /// nothing can be written. On the thread of the runtime.
    pub(crate) fn open(config: &Config) -> Result<Self> {
        let layout = Layout::new(&config.dir);
        let failed = |dir: &Path, error| unreachable("create the directory", dir, error);
        layout.create().map_err(|error| failed(&config.dir, error))?;
        // Before anything is put there.
        access::check(&config.dir, config.world_writable)?;
        let only_reads = match layout.repair() {
            Ok(()) => false,
            Err((_, error)) if access::is_unwritable(&error) => true,
            Err((dir, error)) => return Err(failed(&dir, error)),
        };
        let polls = is_remote(&config.dir);
        if polls {
            warn!(dir = %config.dir.display(), "a network file system: its changes are looked for");
        }
        Ok(Self { layout, timeout: config.timeout, hub: Hub::of_this_thread(), polls, only_reads })
    }

    pub(crate) fn watch(&self) -> Watch {
        Watch::new(self.hub.clone(), self.polls)
    }

    /// The line of those who wait for that lock or leader's file. On a network file system there is
    /// none: the tickets of other hosts would look dead.
    pub(crate) fn line(&self, file: &Path, operation: OperationId, mode: Mode) -> Line {
        match self.polls {
            true => Line::none(),
            false => Line::of(self.layout.queue(file), operation, mode),
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
    fn repair(&self) -> Result<()> {
        if self.only_reads {
            return Ok(());
        }
        self.layout.repair().map_err(|(dir, error)| failed("create the directory", &dir, error))
    }

    /// Takes the lock around all changes of groups, which Python takes too.
    pub(crate) async fn driver_lock(&self) -> Result<LockedFile> {
        self.repair()?;
        let path = self.layout.driver_lock();
        let over = tokio::time::sleep(DRIVER_LOCK_LIMIT);
        let locked = LockedFile::lock(self, &path, Mode::Exclusive, Line::none(), over).await?;
        locked.ok_or_else(|| {
            Error::new(
                ErrorKind::TimedOut,
                format!(
                    "{} was locked for more than {DRIVER_LOCK_LIMIT:?}: some process that uses \
                     this directory is stopped or hangs",
                    path.display()
                ),
            )
        })
    }

    /// The same, if it is free.
    pub(crate) async fn try_driver_lock(&self) -> Result<Option<LockedFile>> {
        let path = self.layout.driver_lock();
        let over = std::future::ready(());
        LockedFile::lock(self, &path, Mode::Exclusive, Line::none(), over).await
    }
}

fn is_remote(dir: &Path) -> bool {
    // Wider than the type of any platform.
    statfs(dir).is_ok_and(|found| REMOTE.contains(&i128::from(found.filesystem_type().0)))
}
