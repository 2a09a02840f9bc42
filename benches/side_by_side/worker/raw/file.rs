//! Files: the system calls themselves, on the thread that asks.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use sha1::{Digest as _, Sha1};
use tooz::CoordinatorUrl;
use tooz::driver::async_trait;

use super::Raw;
use super::place::own_name;

/// What a lock file of the driver has in it.
const COUNTER: &str = "00000000000000000001\n";

pub(super) struct Files {
    dir: PathBuf,
    lock: PathBuf,
}

impl Files {
    pub(super) fn open(url: &CoordinatorUrl) -> anyhow::Result<Self> {
        let dir = PathBuf::from(url.path());
        ensure!(dir.is_absolute(), "the URL names no directory");
        fs::create_dir_all(&dir)?;
        let lock = dir.join(own_name());
        fs::write(&lock, COUNTER)?;
        Ok(Self { dir, lock })
    }
}

#[async_trait]
impl Raw for Files {
    /// A file of 21 bytes: opened, read and closed.
    async fn read(&mut self) -> anyhow::Result<()> {
        fs::read(&self.lock)?;
        Ok(())
    }

    /// A whole cycle of a free lock: the file is opened, locked, unlocked and closed, each in one
    /// system call.
    ///
    /// The driver does as much, and more, which is not in it: it looks whether the path still leads
    /// to the file, counts the fencing token on in it under a lock of its own, and watches it.
    async fn write(&mut self) -> anyhow::Result<()> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).custom_flags(libc::O_NOFOLLOW);
        let file = options.open(&self.lock)?;
        set_lock(&file, libc::F_WRLCK).context("the lock is not free")?;
        set_lock(&file, libc::F_UNLCK)?;
        Ok(())
    }

    async fn read_group(&mut self, group: &str) -> anyhow::Result<usize> {
        Ok(read_group(&self.dir, group)?)
    }

    async fn close(&mut self) -> anyhow::Result<()> {
        Ok(fs::remove_file(&self.lock)?)
    }
}

/// The whole file, for its open description, as the driver locks it.
fn set_lock(file: &File, kind: i32) -> nix::Result<()> {
    // The constants are small; the field is narrower than they are declared.
    let whole = libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&whole)).map(drop)
}

/// The records of a group's members, as they are. Whether these live, which the driver asks the
/// kernel for each of them, is not in it.
pub(super) fn read_group(dir: &Path, group: &str) -> io::Result<usize> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir.join("groups").join(hex_of(group)))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "raw") {
            bytes += fs::read(path)?.len();
        }
    }
    Ok(bytes)
}

/// The SHA-1 of a name, as the drivers name directories.
pub(super) fn hex_of(name: &str) -> String {
    Sha1::digest(name).iter().map(|byte| format!("{byte:02x}")).collect()
}
