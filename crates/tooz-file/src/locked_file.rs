//! A file whose lock we have: waiting for it, and giving it back.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::time::Duration;

use nix::libc;
use tooz_core::{Error, Mode, Result};

use crate::access;
use crate::errors::failed;
use crate::layout;
use crate::line::Line;
use crate::ofd::{self, Identity};
use crate::place::Place;
use crate::watch::{Aftermath, CLOSED, GONE};

/// An open file with a record lock, which is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct LockedFile {
    file: File,
    path: PathBuf,
    identity: Identity,
}

/// How long the lock must have been nobody else's, and be free, before somebody takes it who is not
/// the first in the line. Far longer than a hand-over.
const PATIENCE: Duration = Duration::from_secs(1);

/// How waiting for one open file can end.
enum Turn {
    Ours,
    Over,
    /// The path leads to another file by now.
    Replaced,
}

impl LockedFile {
    /// Locks the file of that path, made if it is missing; `None` if `over` came before. One
    /// attempt is made in any case. Who waits does so in the line.
    ///
    /// Closing a file that was opened to write wakes all who wait for it. So it is opened once and
    /// kept open while waiting, and who will not wait looks first.
    pub(crate) async fn lock(
        place: &Place,
        path: &Path,
        mode: Mode,
        mut line: Line,
        over: impl Future<Output = ()>,
    ) -> Result<Option<Self>> {
        access::refuse_links(place.layout.root(), path)?;
        let mut over = pin!(over);
        // A future must not be polled again once it is ready.
        let will_wait = !is_ready(over.as_mut()).await;
        if !will_wait {
            // One more reader beside others would keep out who waits.
            let needs = match mode {
                Mode::Shared if line.is_joined_by_others() => Mode::Exclusive,
                mode => mode,
            };
            if ofd::is_path_excluded(path, needs).map_err(|e| failed("examine", path, e))? {
                return Ok(None);
            }
        }
        loop {
            let locked = Self::open(place, path)?;
            let turn = match will_wait {
                true => locked.wait(place, mode, &mut line, over.as_mut()).await?,
                false => locked.attempt(mode)?.unwrap_or(Turn::Over),
            };
            match turn {
                Turn::Ours => return Ok(Some(locked)),
                Turn::Over => return Ok(None),
                Turn::Replaced => {}
            }
        }
    }

    fn open(place: &Place, path: &Path) -> Result<Self> {
        let file = open(place.layout.root(), path)?;
        let identity = Identity::of(&file).map_err(|e| failed("examine", path, e))?;
        Ok(Self { file, path: path.to_owned(), identity })
    }

    /// One attempt; `None` if somebody else has the lock.
    fn attempt(&self, mode: Mode) -> Result<Option<Turn>> {
        match ofd::try_lock(&self.file, mode) {
            Ok(false) => Ok(None),
            Ok(true) if self.is_in_place() => Ok(Some(Turn::Ours)),
            Ok(true) => Ok(Some(Turn::Replaced)),
            Err(error) => Err(failed("lock", &self.path, error)),
        }
    }

    async fn wait(
        &self,
        place: &Place,
        mode: Mode,
        line: &mut Line,
        mut over: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Turn> {
        let mut content = self.head();
        if !line.is_joined_by_others()
            && let Some(turn) = self.attempt(mode)?
        {
            return Ok(turn);
        }
        if let Some(turn) = self.wait_in_line(mode, line, over.as_mut()).await? {
            return Ok(turn);
        }
        let mut watch = place.watch();
        watch.on_way(&self.path, place.layout.root());
        if !watch.on(&self.path, CLOSED | GONE) || !self.is_in_place() {
            return Ok(Turn::Replaced);
        }
        let mut aftermath = Aftermath::default();
        loop {
            // The first after the watch is there: the release may have come before it.
            if let Some(turn) = self.attempt(mode)? {
                return Ok(turn);
            }
            // A holder writes its token: if there is a new one, the lock has passed on. Yet it too
            // may be dying by now, so look once more.
            let latest = self.head();
            if latest != content {
                content = latest;
                aftermath.skip_to_last();
            }
            tokio::select! {
                () = &mut over => return Ok(Turn::Over),
                changes = watch.changed() => if changes.intersects(CLOSED) { aftermath.begin() },
                () = aftermath.pause() => {}
            }
            if !self.is_in_place() {
                return Ok(Turn::Replaced);
            }
        }
    }

    /// Waits to be the first, who alone is told of a release: then it is `None`.
    async fn wait_in_line(
        &self,
        mode: Mode,
        line: &mut Line,
        mut over: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Option<Turn>> {
        loop {
            let content = self.head();
            tokio::select! {
                is_first = line.turn(over.as_mut()) => {
                    return Ok((!is_first).then_some(Turn::Over));
                }
                () = tokio::time::sleep(PATIENCE) => {}
            }
            // Who is before may be stopped, and must not keep others from what it does not hold.
            if self.head() == content
                && let Some(turn) = self.attempt(mode)?
            {
                line.pass_over();
                return Ok(Some(turn));
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
            layout::make_dirs(top, above).map_err(|error| refuse(path, error))?;
        }
        opened = options.open(path);
    }
    let file = opened.map_err(|error| refuse(path, error))?;
    if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Ok(file);
    }
    Err(Error::invalid(format!("{} is no regular file; choose another name", path.display())))
}

fn refuse(path: &Path, error: io::Error) -> Error {
    let why = match error.kind() {
        io::ErrorKind::IsADirectory => "is a directory: other locks lie below it",
        _ if error.raw_os_error() == Some(libc::ELOOP) => "is a symbolic link",
        io::ErrorKind::NotADirectory => "lies below a lock of that name",
        _ => return failed("open", path, error),
    };
    Error::invalid(format!("{} {why}; choose another name", path.display())).caused_by(error)
}
