//! Record locks that belong to an open file, over the whole of it.
//!
//! A POSIX record lock belongs to a process: two coordinators of one process would share it, and it
//! would end when any descriptor of the file is closed. OFD locks do neither, and conflict with
//! the record locks that Python takes.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use tooz_core::Mode;

/// Takes the lock unless somebody else's excludes it; returns whether it did. It is released when the
/// last descriptor of the open file is closed.
///
/// # Errors
/// When the file cannot be locked in this mode: it must be open to write for an exclusive lock, and
/// to read for a shared one.
pub fn try_lock(file: &File, mode: Mode) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole_file(kind_of(mode)))) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Gives the lock back, if there is one.
pub(crate) fn unlock(file: &File) -> io::Result<()> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_UNLCK)))?;
    Ok(())
}

/// Whether anybody has a lock through another open file. Looking takes no lock, not even for a
/// moment.
///
/// # Errors
/// When the file cannot be examined.
pub fn is_locked(file: &File) -> io::Result<bool> {
    is_excluded(file, Mode::Exclusive)
}

/// Whether somebody's lock, through another open file, excludes this one.
pub(crate) fn is_excluded(file: &File, mode: Mode) -> io::Result<bool> {
    let mut found = whole_file(kind_of(mode));
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut found))?;
    Ok(i32::from(found.l_type) != libc::F_UNLCK)
}

/// Whether anybody has locked the file of that path; not if there is none.
pub(crate) fn is_path_locked(path: &Path) -> io::Result<bool> {
    is_path_excluded(path, Mode::Exclusive)
}

/// Whether somebody's lock of the file of that path excludes this one; not if there is no file.
/// Wakes nobody.
pub(crate) fn is_path_excluded(path: &Path, mode: Mode) -> io::Result<bool> {
    match File::open(path) {
        Ok(file) => is_excluded(&file, mode),
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Which file it is, whatever its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        file.metadata().map(|m| Self { device: m.dev(), inode: m.ino() })
    }

    /// Whether the path leads to this file. What cannot be looked at does not.
    pub(crate) fn is_at(self, path: &Path) -> bool {
        std::fs::symlink_metadata(path)
            .is_ok_and(|m| Self { device: m.dev(), inode: m.ino() } == self)
    }
}

/// Whether the error says that there is nothing at the path.
pub(crate) fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn kind_of(mode: Mode) -> i32 {
    match mode {
        Mode::Exclusive => libc::F_WRLCK,
        Mode::Shared => libc::F_RDLCK,
    }
}

fn whole_file(kind: i32) -> libc::flock {
    // The constants are small; the field is narrower than they are declared.
    libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}
