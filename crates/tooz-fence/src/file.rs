//! A file: replaced as a whole, or appended to.
//!
//! Beside the file `NAME` is `NAME.fence-…`, with the name of the lock or the term. It has the highest
//! token, and who has it open holds an exclusive lock on it (`flock`), from [`raise`] until the
//! [`FencedFile`] is dropped. Why it is correct:
//!
//! - *It locks.* No other holder reads or writes between the check of a token and the write. A holder
//!   that is paused meanwhile keeps the others waiting; when it is killed, the kernel unlocks.
//! - *The token is on the disk before anything is written under it* (`fsync`). It is kept twice, by turns
//!   in one of two places, and the lower one is overwritten: a crash in the middle of it leaves the other.
//!   So it never goes back.
//! - *A replacement is whole or not there*: a new file is written and synced, then renamed over the old
//!   one, and the folder is synced. Whoever has the old one open reads on in it.
//! - *A crash in the middle of an append* can leave a part of a record, as with every log: let a reader
//!   know whole records.
//!
//! It is for the processes of one host, on a local file system. A symbolic link is replaced, not followed.
//! Keep the file beside it: without it every token is taken as the first. Several locks on one file do not
//! exclude each other, here as elsewhere: choose one.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::{Error, Fence, Stale};

/// How far apart the two places of the token are: never in one sector, which a crash may spoil.
const APART: u64 = 4096;

/// A file that this holder alone may write, until it is dropped. Made by [`raise`].
#[derive(Debug)]
#[must_use = "dropping it lets the next holder in"]
pub struct FencedFile {
    path: PathBuf,
    /// Where a replacement is written before it is renamed.
    new: PathBuf,
    /// Locked.
    _fence: File,
}

/// Shows the fence to the file, which need not exist, and waits until no other holder has it open.
/// Blocks: on an async runtime, call it where that is allowed.
///
/// # Errors
/// [`Error::Stale`] if a later holder was there.
///
/// ```
/// # use tooz_fence::{Fence, FenceName};
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("balance");
/// # let fence = Fence::new(FenceName::of_lock("account-7"), 5);
/// let mut file = tooz_fence::file::raise(&path, fence)?;
/// file.replace(b"100")?;
/// assert_eq!(file.read()?, b"100");
/// drop(file);
/// assert!(tooz_fence::file::raise(&path, Fence::new(fence.name(), 4)).unwrap_err().is_stale());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn raise(path: impl AsRef<Path>, fence: Fence) -> Result<FencedFile, Error<io::Error>> {
    let path = path.as_ref();
    let with = |ending: String| {
        let mut name = OsString::from(path);
        name.push(ending);
        PathBuf::from(name)
    };
    let beside = with(format!(".fence-{}", fence.name()));
    let file = File::options().read(true).write(true).create(true).truncate(false).open(&beside)?;
    file.lock()?;
    let tokens = [token_at(&file, 0)?, token_at(&file, APART)?];
    if tokens == [None, None] {
        sync_folder(path)?;
    }
    let highest = tokens[0].max(tokens[1]).unwrap_or(0);
    Stale::check(fence, highest).map_err(Error::Stale)?;
    if highest < fence.token() {
        let lower = if tokens[0] <= tokens[1] { 0 } else { APART };
        file.write_all_at(record(fence.token()).as_bytes(), lower)?;
    }
    // Also if it was there: the holder that wrote it may have been killed before it was on the disk.
    file.sync_data()?;
    let new = with(format!(".new-{}", fence.name()));
    Ok(FencedFile { path: path.to_owned(), new, _fence: file })
}

impl FencedFile {
    /// What is in the file now.
    ///
    /// # Errors
    /// Those of the file system, such as `NotFound`.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        fs::read(&self.path)
    }

    /// Replaces the file, or makes it. The permissions of the old one stay. It is on the disk when this
    /// returns.
    ///
    /// # Errors
    /// Those of the file system: the file is the old one, or the new one if only the last sync failed.
    pub fn replace(&mut self, contents: &[u8]) -> io::Result<()> {
        let mut new = File::create(&self.new)?;
        match fs::metadata(&self.path) {
            Ok(old) => new.set_permissions(old.permissions())?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        new.write_all(contents)?;
        new.sync_all()?;
        fs::rename(&self.new, &self.path)?;
        sync_folder(&self.path)
    }

    /// Appends to the file, or makes it. It is on the disk when this returns.
    ///
    /// # Errors
    /// Those of the file system: a part of it may have been written.
    pub fn append(&mut self, record: &[u8]) -> io::Result<()> {
        let is_new = !self.path.exists();
        let mut file = File::options().append(true).create(true).open(&self.path)?;
        file.write_all(record)?;
        file.sync_all()?;
        if is_new { sync_folder(&self.path) } else { Ok(()) }
    }
}

/// The token twice: one that was written in part is none.
fn record(token: u64) -> String {
    format!("{token:020} {token:020}\n")
}

fn token_at(file: &File, place: u64) -> io::Result<Option<u64>> {
    let mut bytes = [0; 42];
    match file.read_exact_at(&mut bytes, place) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let text = std::str::from_utf8(&bytes).ok();
    let token = text.and_then(|text| text.get(..20)?.parse().ok());
    Ok(token.filter(|&token| record(token).as_bytes() == bytes))
}

/// Makes what was renamed or made in the path's folder last.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FenceName;

    fn fence(token: u64) -> Fence {
        Fence::new(FenceName::of_lock("a"), token)
    }

    #[test]
    fn a_token_that_was_written_in_part_does_not_go_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for token in [1, 5, u64::MAX - 1] {
            drop(raise(&path, fence(token)).unwrap());
        }
        let beside = folder.path().join(format!("file.fence-{}", fence(1).name()));
        let whole = fs::read(&beside).unwrap();
        let highest = record(u64::MAX - 1);
        let place = if whole.starts_with(highest.as_bytes()) { 0 } else { APART };
        // As if the machine had died in the middle of the next one.
        for cut in 0..42 {
            let file = File::options().write(true).open(&beside).unwrap();
            let next = record(u64::MAX);
            file.write_all_at(&next.as_bytes()[..cut], APART - place).unwrap();
            let stale = raise(&path, fence(u64::MAX - 2)).unwrap_err();
            assert!(stale.is_stale(), "{cut}: {stale}");
        }
    }

    #[test]
    fn what_is_there_stays_as_it_is_until_it_is_replaced() {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut file = raise(&path, fence(1)).unwrap();
        assert_eq!(file.read().unwrap_err().kind(), io::ErrorKind::NotFound);
        file.append(b"a").unwrap();
        file.append(b"b").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(file.read().unwrap(), b"ab");
        file.replace(b"c").unwrap();
        assert_eq!(file.read().unwrap(), b"c");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        let left = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 2, "the file, and the one beside it");
    }
}
