//! The side record: a file for each partition, to which its workers append a line for each piece of
//! work.
//!
//! A small write to a file that is opened for appending is atomic, so the lines are in the order in
//! which the work was done, and nobody can keep another from writing. A resource that is fenced
//! refuses the lines whose token is below one before them: here they are kept, and judged.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// One piece of work.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) token: u64,
    pub(crate) member: String,
    /// When the worker looked at its guard, just before it wrote.
    pub(crate) checked: Duration,
}

/// The writing end.
pub(crate) struct Writer {
    file: File,
    member: String,
    token: u64,
}

/// The time on a clock that all processes of the host share.
pub(crate) fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every system has it").into()
}

impl Writer {
    pub(crate) fn open(
        folder: &Path,
        partition: u32,
        member: &str,
        token: u64,
    ) -> io::Result<Self> {
        let path = folder.join(partition.to_string());
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { file, member: member.to_owned(), token })
    }

    pub(crate) fn write(&mut self, checked: Duration) -> io::Result<()> {
        let line = format!("{} {} {}\n", self.token, self.member, checked.as_micros());
        self.file.write_all(line.as_bytes())
    }
}

/// Everything written about a partition so far.
pub(crate) fn read(folder: &Path, partition: u32) -> Vec<Entry> {
    let text = match std::fs::read_to_string(folder.join(partition.to_string())) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => panic!("the record of {partition} cannot be read: {error}"),
    };
    text.lines().map(Entry::parse).collect()
}

impl Entry {
    fn parse(line: &str) -> Self {
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap_or_else(|| panic!("half a line: {line}"));
        let (token, member, checked) = (word(), word(), word());
        Self {
            token: token.parse().unwrap(),
            member: member.to_owned(),
            checked: Duration::from_micros(checked.parse().unwrap()),
        }
    }
}

/// When a worker stood still.
#[derive(Clone, Debug)]
pub(crate) struct Pause {
    pub(crate) member: String,
    pub(crate) from: Duration,
    pub(crate) until: Duration,
}

impl Pause {
    /// Whether a worker that looked at its guard then could have been stopped before it wrote.
    ///
    /// One that looks after the pause finds its guard lost, so it has no excuse.
    fn excuses(&self, entry: &Entry) -> bool {
        // How long a busy machine may leave a process between two instructions.
        const STALL: Duration = Duration::from_millis(500);
        self.member == entry.member
            && entry.checked + STALL >= self.from
            && entry.checked <= self.until
    }
}

/// What the records show.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) writes: usize,
    /// Stale writes of workers that were paused between the look at their guard and the write.
    pub(crate) refused: usize,
    /// The times between the last work of one owner and the first of the next.
    pub(crate) gaps: Vec<Duration>,
    pub(crate) problems: Vec<String>,
}

impl Findings {
    /// Judges the record of one partition. `pauses` are the excuses for stale writes.
    pub(crate) fn add(&mut self, partition: u32, entries: &[Entry], pauses: &[Pause], ttl: bool) {
        let Some((mut last, rest)) = entries.split_first() else { return };
        self.writes += entries.len();
        for entry in rest {
            if entry.token < last.token {
                if ttl && pauses.iter().any(|pause| pause.excuses(entry)) {
                    self.refused += 1;
                } else {
                    let what = "stale, without a pause to excuse it";
                    self.problems.push(format!("{partition}: {entry:?} after {last:?}: {what}"));
                }
                continue;
            }
            if entry.member != last.member {
                if entry.token == last.token {
                    let what = "two owners with one token";
                    self.problems.push(format!("{partition}: {entry:?}, {last:?}: {what}"));
                }
                self.gaps.push(entry.checked.saturating_sub(last.checked));
            }
            last = entry;
        }
    }
}
