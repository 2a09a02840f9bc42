//! The fencing token of a name: a decimal counter that is the content of its lock file.
//!
//! `00000000000000000042\n`, and for a leader a second line that says who it is. Each change is one
//! write of one line of fixed width.
//!
//! It counts on by one, and at least to the time of day in microseconds. So the tokens of a name
//! rise also when its file or the whole directory was removed, moved away, or came back.

use std::fs::{File, TryLockError};
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime};

use tooz_core::{Error, ErrorKind, Moment, Result};

use crate::errors::failed;
use crate::locked_file::LockedFile;

/// The length of the line of the counter.
const LINE: usize = 21;
/// More than the longest content: a counter, two ids and a member's id of 64 KiB in hexadecimal.
const LONGEST: usize = 132 * 1024;
/// How long to wait for the others that count at this moment, each for some microseconds.
const COUNTING_LIMIT: Duration = Duration::from_secs(5);

/// Keeps the counter of a file from being changed by others. Several readers may hold the lock of
/// the file at once, so it needs a lock of its own; `flock` is apart from record locks.
#[derive(Debug)]
pub(crate) struct Counting<'a> {
    locked: &'a File,
    path: &'a std::path::Path,
}

impl<'a> Counting<'a> {
    pub(crate) async fn of(file: &'a LockedFile) -> Result<Self> {
        Self::of_file(file.file(), file.path()).await
    }

    pub(crate) async fn of_file(locked: &'a File, path: &'a std::path::Path) -> Result<Self> {
        let limit = Moment::now() + COUNTING_LIMIT;
        loop {
            match locked.try_lock() {
                Ok(()) => return Ok(Self { locked, path }),
                Err(TryLockError::WouldBlock) if !limit.has_passed() => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::new(
                        ErrorKind::TimedOut,
                        format!(
                            "the counter of {} was locked for more than {COUNTING_LIMIT:?}: some \
                             process that uses it is stopped or hangs",
                            path.display()
                        ),
                    ));
                }
                Err(TryLockError::Error(error)) => return Err(failed("flock", path, error)),
            }
        }
    }

    /// The number of the last acquisition, 0 before the first.
    pub(crate) fn read(&self) -> Result<u64> {
        let content = Content::read(self.locked).map_err(|e| failed("read", self.path, e))?;
        content
            .ok_or_else(|| {
                Error::invalid(format!(
                    "{} has a content that no lock has; choose another name, or remove the file if \
                 nobody needs it",
                    self.path.display()
                ))
            })
            .map(|content| content.token)
    }

    /// Counts on, and leaves a note.
    pub(crate) fn next(&self, note: impl FnOnce(u64) -> String) -> Result<u64> {
        let token = (self.read()? + 1).max(time_of_day());
        write(self.locked, token, &note(token)).map_err(|e| failed("write", self.path, e))?;
        Ok(token)
    }
}

impl Drop for Counting<'_> {
    fn drop(&mut self) {
        // If it fails, the close of the file unlocks.
        let _ = self.locked.unlock();
    }
}

/// In microseconds since 1970.
fn time_of_day() -> u64 {
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(time.as_micros()).unwrap_or(0)
}

/// What a lock file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) token: u64,
    /// The second line: empty for locks, and while nobody leads.
    pub(crate) note: String,
}

impl Content {
    /// `None` if it is not a lock file's. An empty file is: Python makes them.
    pub(crate) fn read(file: &File) -> std::io::Result<Option<Self>> {
        let mut content = vec![0; LINE];
        let mut length = 0;
        loop {
            match file.read_at(&mut content[length..], length as u64)? {
                0 => break,
                read => length += read,
            }
            if length == content.len() {
                content.resize((length * 4).min(LONGEST), 0);
            }
        }
        Ok(Self::parse(&content[..length]))
    }

    fn parse(content: &[u8]) -> Option<Self> {
        if content.is_empty() {
            return Some(Self::default());
        }
        let (line, note) = std::str::from_utf8(content).ok()?.split_at_checked(LINE)?;
        let digits = line.strip_suffix('\n').filter(|d| d.bytes().all(|b| b.is_ascii_digit()))?;
        if !note.is_empty() && !note.ends_with('\n') {
            return None;
        }
        let note = note.lines().next().unwrap_or_default().to_owned();
        Some(Self { token: digits.parse().ok()?, note })
    }
}

/// Replaces the content of a file that is locked.
pub(crate) fn write(file: &File, token: u64, note: &str) -> std::io::Result<()> {
    let content = content(token, note);
    file.write_all_at(content.as_bytes(), 0)?;
    if file.metadata()?.len() > content.len() as u64 {
        file.set_len(content.len() as u64)?;
    }
    Ok(())
}

/// The content of a lock file.
pub(crate) fn content(token: u64, note: &str) -> String {
    let end = if note.is_empty() { "" } else { "\n" };
    format!("{token:020}\n{note}{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for (token, note) in [(0, ""), (42, ""), (u64::MAX, "who")] {
            let content = content(token, note);
            let read = Content::parse(content.as_bytes()).unwrap();
            assert_eq!(read, Content { token, note: note.to_owned() });
        }
        assert_eq!(Content::parse(b""), Some(Content::default()));
    }

    #[test]
    fn the_files_of_others_are_refused() {
        for content in [
            &b"root:x:0:0\n"[..],
            b"42\n",
            b"00000000000000000042",
            b"00000000000000000042\nno end",
            b"0000000000000000004x\n",
            b"99999999999999999999\n",
            &[0; 21],
            &[0xff; 21],
        ] {
            assert_eq!(Content::parse(content), None, "{content:?}");
        }
    }

    #[test]
    fn a_shorter_content_leaves_nothing_of_the_longer() {
        let file = tempfile::tempfile().unwrap();
        write(&file, 1, "a long note").unwrap();
        write(&file, 2, "").unwrap();
        let content = Content::read(&file).unwrap().unwrap();
        assert_eq!(content, Content { token: 2, note: String::new() });
        assert_eq!(file.metadata().unwrap().len(), LINE as u64);
    }
}
