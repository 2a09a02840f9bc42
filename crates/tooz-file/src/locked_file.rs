//! A file whose lock we have: waiting for it, and giving it back.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::time::Duration;

use nix::libc;
use tooz_core::{Error, ErrorKind, Mode, Result};

use crate::access;
use crate::directory::Directory;
use crate::errors::failed;
use crate::ofd::{self, Identity};
use crate::turn::Turn;
use crate::watch::{Aftermath, CLOSED, GONE};

/// How long to wait for the driver lock, which is only ever held for a few system calls.
const DRIVER_LOCK_LIMIT: Duration = Duration::from_secs(10);

/// An open file with a record lock, which is released when this is dropped.
#[derive(Debug)]
pub(crate) struct LockedFile {
    file: File,
    path: PathBuf,
    identity: Identity,
}

/// How long the lock must have been nobody else's, and be free, before somebody takes it who is not
/// the first in the queue. Far longer than a hand-over.
const PATIENCE: Duration = Duration::from_secs(1);

/// How waiting for one open file can end.
enum Ending {
    Ours,
    Over,
    /// The path leads to another file by now.
    Replaced,
}

impl LockedFile {
    /// Locks the file of that path, made if it is missing; `None` if `over` came before. One
    /// attempt is made in any case. A process that waits does so in the queue.
    ///
    /// Closing a file that was opened to write wakes all who wait for it. So it is opened once and
    /// kept open while waiting, and who will not wait looks first.
    pub(crate) async fn lock(
        directory: &Directory,
        path: &Path,
        mode: Mode,
        mut turn: Turn,
        over: impl Future<Output = ()>,
    ) -> Result<Option<Self>> {
        access::refuse_links(directory.keys.root(), path)?;
        let mut over = pin!(over);
        // A future must not be polled again once it is ready.
        let will_wait = !is_ready(over.as_mut()).await;
        if !will_wait {
            // One more reader beside the others would keep the waiters out.
            let needs = match mode {
                Mode::Shared if turn.others_wait() => Mode::Exclusive,
                mode => mode,
            };
            if ofd::is_path_excluded(path, needs).map_err(|e| failed("examine", path, e))? {
                return Ok(None);
            }
        }
        loop {
            let locked = Self::open(directory, path)?;
            let ending = match will_wait {
                true => locked.wait(directory, mode, &mut turn, over.as_mut()).await?,
                false => locked.attempt(mode)?.unwrap_or(Ending::Over),
            };
            match ending {
                Ending::Ours => return Ok(Some(locked)),
                Ending::Over => return Ok(None),
                Ending::Replaced => {}
            }
        }
    }

    /// Takes the lock around all changes of groups, which Python takes too.
    pub(crate) async fn driver_lock(directory: &Directory) -> Result<Self> {
        directory.repair()?;
        let path = directory.keys.driver_lock();
        let over = tokio::time::sleep(DRIVER_LOCK_LIMIT);
        let locked =
            Self::lock(directory, &path, Mode::Exclusive, Turn::without_queue(), over).await?;
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
    pub(crate) async fn try_driver_lock(directory: &Directory) -> Result<Option<Self>> {
        let path = directory.keys.driver_lock();
        let over = std::future::ready(());
        Self::lock(directory, &path, Mode::Exclusive, Turn::without_queue(), over).await
    }

    fn open(directory: &Directory, path: &Path) -> Result<Self> {
        let file = open(directory.keys.root(), path)?;
        let identity = Identity::of(&file).map_err(|e| failed("examine", path, e))?;
        Ok(Self { file, path: path.to_owned(), identity })
    }

    /// One attempt; `None` if somebody else has the lock.
    fn attempt(&self, mode: Mode) -> Result<Option<Ending>> {
        match ofd::try_lock(&self.file, mode) {
            Ok(false) => Ok(None),
            Ok(true) if self.is_in_place() => Ok(Some(Ending::Ours)),
            Ok(true) => Ok(Some(Ending::Replaced)),
            Err(error) => Err(failed("lock", &self.path, error)),
        }
    }

    async fn wait(
        &self,
        directory: &Directory,
        mode: Mode,
        turn: &mut Turn,
        mut over: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Ending> {
        let mut content = self.head();
        if !turn.others_wait()
            && let Some(ending) = self.attempt(mode)?
        {
            return Ok(ending);
        }
        if let Some(ending) = self.wait_for_turn(mode, turn, over.as_mut()).await? {
            return Ok(ending);
        }
        let mut watch = directory.watch();
        watch.on_way(&self.path, directory.keys.root());
        if !watch.on(&self.path, CLOSED | GONE) || !self.is_in_place() {
            return Ok(Ending::Replaced);
        }
        let mut aftermath = Aftermath::default();
        loop {
            // The first after the watch is there: the release may have come before it.
            if let Some(ending) = self.attempt(mode)? {
                return Ok(ending);
            }
            // A holder writes its token: if there is a new one, the lock has passed on. Yet it too
            // may be dying by now, so look once more.
            let latest = self.head();
            if latest != content {
                content = latest;
                aftermath.skip_to_last();
            }
            tokio::select! {
                () = &mut over => return Ok(Ending::Over),
                changes = watch.changed() => if changes.intersects(CLOSED) { aftermath.begin() },
                () = aftermath.pause() => {}
            }
            if !self.is_in_place() {
                return Ok(Ending::Replaced);
            }
        }
    }

    /// Waits to be the first, which alone is told of a release: then it is `None`.
    async fn wait_for_turn(
        &self,
        mode: Mode,
        turn: &mut Turn,
        mut over: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Option<Ending>> {
        loop {
            let content = self.head();
            tokio::select! {
                is_first = turn.wait(over.as_mut()) => {
                    return Ok((!is_first).then_some(Ending::Over));
                }
                () = tokio::time::sleep(PATIENCE) => {}
            }
            // The one before may be stopped, and must not keep others from what it does not hold.
            if self.head() == content
                && let Some(ending) = self.attempt(mode)?
            {
                turn.pass_over();
                return Ok(Some(ending));
            }
        }
    }

    /// The file itself.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }

    /// Whether the path still leads to this file: what is locked elsewhere excludes nobody.
    pub(crate) fn is_in_place(&self) -> bool {
        self.identity.is_at(&self.path)
    }

    /// The first bytes of the content.
    fn head(&self) -> [u8; 32] {
        let mut head = [0; 32];
        // What cannot be read looks unchanged, which costs only some more attempts.
        let _ = self.file.read_at(&mut head, 0);
        head
    }
}

impl Drop for LockedFile {
    fn drop(&mut self) {
        // Unlocked before it is closed, because the waiters are told of the close. If it fails,
        // the close unlocks.
        let _ = ofd::unlock(&self.file);
    }
}

async fn is_ready(future: Pin<&mut impl Future<Output = ()>>) -> bool {
    tokio::select! {
        biased;
        () = future => true,
        () = std::future::ready(()) => false,
    }
}

/// Opens a file to lock it, and makes it, with the directories above it up to `top`, if it is
/// missing.
fn open(top: &Path, path: &Path) -> Result<File> {
    let mut options = access::options();
    options.create(true);
    let mut opened = options.open(path);
    if opened.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        if let Some(above) = path.parent() {
            access::make_dirs(top, above).map_err(|error| refuse(path, error))?;
        }
        opened = options.open(path);
    }
    let file = opened.map_err(|error| refuse(path, error))?;
    if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Ok(file);
    }
    Err(Error::invalid(format!("{} is not a regular file; choose another name", path.display())))
}

fn refuse(path: &Path, error: io::Error) -> Error {
    let why = match error.kind() {
        io::ErrorKind::IsADirectory => "is a directory: there are other locks below it",
        _ if error.raw_os_error() == Some(libc::ELOOP) => "is a symbolic link",
        io::ErrorKind::NotADirectory => "is below another lock's name",
        _ => return failed("open", path, error),
    };
    Error::invalid(format!("{} {why}; choose another name", path.display())).caused_by(error)
}
