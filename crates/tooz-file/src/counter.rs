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
        let next = self.read()?.checked_add(1).ok_or_else(|| {
            Error::new(
                ErrorKind::Backend,
                format!(
                    "the counter of {} is at its end, which nobody reaches by counting; remove the \
                     file while nobody holds the lock, if no resource has seen its token {}",
                    self.path.display(),
                    u64::MAX
                ),
            )
        })?;
        let token = next.max(time_of_day());
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
        if let Some((line, note)) = content.split_at_checked(LINE)
            && let Some(token) = number(line)
        {
            // A note that has no end was cut off, and says nothing.
            let note = std::str::from_utf8(note).ok().filter(|note| note.ends_with('\n'));
            let note = note.and_then(|note| note.lines().next()).unwrap_or_default().to_owned();
            return Some(Self { token, note });
        }
        is_torn(content).then(Self::default)
    }
}

/// What the line of the counter says, if it is one.
fn number(line: &[u8]) -> Option<u64> {
    let digits = line.strip_suffix(b"\n").filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Whether it is what a power failure or a full disk makes of a lock file: NULs in place of all or
/// of the beginning, or a counter that is cut off. The clock makes up for the number that is lost.
/// No counter of ours is so far that it begins with fewer zeros.
fn is_torn(content: &[u8]) -> bool {
    let is_own = |byte: &u8| matches!(byte, 0 | b'0'..=b'9' | b'a'..=b'f' | b' ' | b'\n');
    let has_lost_its_beginning =
        content.starts_with(b"\0") && content.iter().all(is_own) && content.len() < LONGEST;
    let is_cut = content.starts_with(b"0000")
        && content.len() < LINE
        && content.iter().all(u8::is_ascii_digit);
    has_lost_its_beginning || is_cut
}

/// Replaces the content of a file that is locked. If the disk is full, the counter stays as it was.
pub(crate) fn write(file: &File, token: u64, note: &str) -> std::io::Result<()> {
    let content = content(token, note);
    let (line, note) = content.as_bytes().split_at(LINE);
    let length = file.metadata()?.len();
    // The note first: it names the token, so it counts only with the line, which is too short to be
    // written in part.
    if let Err(error) = file.write_all_at(note, LINE as u64) {
        // What stays of it is read as a note that was cut off.
        let _ = file.set_len(length.min(LINE as u64));
        return Err(error);
    }
    file.write_all_at(line, 0)?;
    if length > content.len() as u64 {
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
            b"42",
            b"0",
            b"0000000000000000004x\n",
            b"99999999999999999999\n",
            b"\0\0\0\0ELF",
            &[0xff; 21],
            &[0; LONGEST],
        ] {
            assert_eq!(Content::parse(content), None, "{content:?}");
        }
    }

    #[test]
    fn our_own_torn_files_are_known_and_keep_the_number_that_they_have() {
        let content = content(42, "who 6d 42");
        for length in 4..content.len() {
            let read = Content::parse(&content.as_bytes()[..length]).unwrap();
            let token = if length < LINE { 0 } else { 42 };
            assert_eq!(read, Content { token, note: String::new() }, "{length}");
        }
        let torn = [&[0; LINE][..], b"ab 6d 42\n"].concat();
        for content in [&[0][..], &[0; LINE], &[0; 4096], &torn] {
            assert_eq!(Content::parse(content), Some(Content::default()), "{content:?}");
        }
        let torn = [&b"00000000000000000042\n"[..], &[0; 100]].concat();
        assert_eq!(Content::parse(&torn).unwrap().token, 42);
    }

    #[tokio::test]
    async fn a_torn_counter_goes_on_from_the_clock_and_one_at_its_end_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        let path = std::path::Path::new("x");
        file.write_all_at(b"0000000000", 0).unwrap();
        let counting = Counting::of_file(&file, path).await.unwrap();
        let before = time_of_day();
        let token = counting.next(|_| String::new()).unwrap();
        assert!(token >= before);
        assert_eq!(counting.read().unwrap(), token);
        write(&file, u64::MAX - 1, "").unwrap();
        assert_eq!(counting.next(|_| String::new()).unwrap(), u64::MAX);
        let error = counting.next(|_| String::new()).unwrap_err();
        assert!(error.to_string().contains("is at its end"), "{error}");
        assert_eq!(counting.read().unwrap(), u64::MAX, "it does not start again");
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
