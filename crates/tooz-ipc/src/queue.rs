//! Who of ours holds a lock and who waits for it, in the order of arrival.
//!
//! Each is a ticket: a named pipe `NUMBER-MODE-OPERATION` in the directory of the lock. Whoever has
//! the ticket keeps its pipe open and locked, and makes it executable when it holds the lock. A
//! waiter opens the pipe of the one right before it: when that is given back, or its process dies,
//! the kernel closes the other end and so wakes this waiter and no other. A ticket whose pipe nobody
//! has locked is a dead process's: the kernel undoes semaphores, then drops the lock of a file, then
//! tells those who poll it.
//!
//! Tickets are drawn under the mutex of the place, a new one is above all that are there, and none
//! is ever renamed. So a waiter sees all those below it, whenever it looks.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::sys::stat;
use nix::unistd::mkfifo;
use tokio::io::Interest;
use tokio::net::unix::pipe::Receiver;
use tooz_core::{Mode, OperationId, Result};
use tooz_file::ofd;

use crate::errors::failed;
use crate::place;

/// The mode of a pipe whose owner waits.
const WAITING: stat::Mode = stat::Mode::S_IRUSR.union(stat::Mode::S_IWUSR);
/// The mode of a pipe whose owner holds the lock.
const HOLDING: stat::Mode = stat::Mode::S_IRWXU;

/// The queue of one lock.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    dir: PathBuf,
}

/// A ticket that is there, anybody's.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    number: u64,
    pub(crate) mode: Mode,
    pub(crate) operation: String,
    path: PathBuf,
}

/// A ticket of our own. It leaves the queue when it is dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    entry: Entry,
    pipe: Receiver,
}

impl Queue {
    pub(crate) fn of(locks: &Path, key: i32) -> Self {
        Self { dir: locks.join(format!("{key:08x}")) }
    }

    /// The queues that are there, by their keys.
    pub(crate) fn all(locks: &Path) -> io::Result<Vec<(i32, Self)>> {
        let mut found = Vec::new();
        for dir in list(locks)? {
            let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if let Ok(key) = u32::from_str_radix(name, 16) {
                found.push((key as i32, Self { dir }));
            }
        }
        Ok(found)
    }

    /// Draws the next ticket. Only under the mutex.
    pub(crate) fn draw(&self, operation: OperationId, mode: Mode) -> Result<Ticket> {
        loop {
            self.make_dir()?;
            let number = self.entries()?.last().map_or(1, |last| last.number + 1);
            let entry = Entry::new(&self.dir, number, mode, operation.to_string());
            match mkfifo(&entry.path, WAITING) {
                Ok(()) => {}
                // Not made, or removed by who left last, which needs no mutex.
                Err(nix::Error::ENOENT) => continue,
                Err(error) => return Err(failed("make", &entry.path, error.into())),
            }
            let opened = open(&entry.path, true).and_then(|pipe| {
                ofd::try_lock(&pipe, Mode::Exclusive)?;
                Receiver::from_file(pipe)
            });
            return match opened {
                Ok(pipe) => Ok(Ticket { entry, pipe }),
                Err(error) => {
                    // A dead ticket otherwise, which others would remove.
                    let _ = fs::remove_file(&entry.path);
                    Err(failed("open", &entry.path, error))
                }
            };
        }
    }

    fn make_dir(&self) -> Result<()> {
        match fs::create_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                place::make_dir(self.dir.parent().unwrap_or(&self.dir))
            }
            // Or no longer: then there is no room for a ticket, and it is made again.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made.map_err(|error| failed("create the directory", &self.dir, error)),
        }
    }

    /// The tickets that are there, dead ones too, in order.
    pub(crate) fn entries(&self) -> Result<Vec<Entry>> {
        let listed = list(&self.dir).map_err(|error| failed("list", &self.dir, error))?;
        let mut entries: Vec<_> = listed.into_iter().filter_map(Entry::parse).collect();
        entries.sort_by_key(|entry| entry.number);
        Ok(entries)
    }

    /// The tickets of the living; those of the dead are removed.
    pub(crate) fn living(&self) -> Result<Vec<Entry>> {
        let mut living = Vec::new();
        for entry in self.entries()? {
            match entry.open_living()? {
                Some(_) => living.push(entry),
                None => entry.remove()?,
            }
        }
        Ok(living)
    }

    /// Whether any ticket is a living one's.
    pub(crate) fn has_living(&self) -> Result<bool> {
        for entry in self.entries()? {
            if entry.open_living()?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Waits until none that is before the ticket excludes it; `false` if `over` came first. One
    /// look is taken in any case.
    pub(crate) async fn turn(
        &self,
        ticket: &Ticket,
        over: impl Future<Output = ()>,
    ) -> Result<bool> {
        let mut over = std::pin::pin!(over);
        let own = &ticket.entry;
        loop {
            let entries = self.entries()?;
            let before = entries.iter().rev().filter(|entry| entry.number < own.number);
            let Some(next) = before.into_iter().find(|entry| entry.excludes(own.mode)) else {
                return Ok(true);
            };
            let Some(pipe) = next.open_living()? else {
                next.remove()?;
                continue;
            };
            let pipe =
                Receiver::from_file(pipe).map_err(|error| failed("watch", &next.path, error))?;
            tokio::select! {
                biased;
                // It is closed, or its ticket was taken away and it was told so in the pipe.
                ready = pipe.ready(Interest::READABLE) => {
                    ready.map_err(|error| failed("watch", &next.path, error))?;
                }
                () = &mut over => return Ok(false),
            }
        }
    }

    /// Removes the directory if no ticket is in it; whether it did.
    pub(crate) fn remove_if_empty(&self) -> bool {
        fs::remove_dir(&self.dir).is_ok()
    }
}

impl Entry {
    fn new(dir: &Path, number: u64, mode: Mode, operation: String) -> Self {
        let letter = match mode {
            Mode::Exclusive => 'x',
            Mode::Shared => 's',
        };
        let path = dir.join(format!("{number:020}-{letter}-{operation}"));
        Self { number, mode, operation, path }
    }

    fn parse(path: PathBuf) -> Option<Self> {
        let mut parts = path.file_name()?.to_str()?.split('-');
        let number = parts.next()?.parse().ok()?;
        let mode = match parts.next()? {
            "x" => Mode::Exclusive,
            "s" => Mode::Shared,
            _ => return None,
        };
        let operation = parts.next()?.to_owned();
        Some(Self { number, mode, operation, path })
    }

    /// Whether it has had its turn.
    pub(crate) fn is_holding(&self) -> bool {
        // What is gone holds nothing.
        let found = fs::symlink_metadata(&self.path);
        found.is_ok_and(|found| found.mode() & HOLDING.bits() == HOLDING.bits())
    }

    fn excludes(&self, mode: Mode) -> bool {
        self.mode == Mode::Exclusive || mode == Mode::Exclusive
    }

    /// Opens its pipe, if somebody alive has it.
    fn open_living(&self) -> Result<Option<File>> {
        // Opened first: if it is locked after that, its owner will be seen to close it.
        let pipe = match open(&self.path, false) {
            Ok(pipe) => pipe,
            // Gone since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("open", &self.path, error)),
        };
        let is_living = ofd::is_locked(&pipe);
        let is_living = is_living.map_err(|error| failed("examine", &self.path, error))?;
        Ok(is_living.then_some(pipe))
    }

    /// Removes it from the queue: a dead one, or one of our own.
    pub(crate) fn remove(&self) -> Result<()> {
        remove(&self.path).map_err(|error| failed("remove", &self.path, error))
    }

    /// Takes the ticket away from its owner, who is told, and so are those who wait for it.
    pub(crate) fn take_away(&self) -> Result<()> {
        let opened = open(&self.path, true);
        self.remove()?;
        match opened.and_then(|mut pipe| pipe.write_all(b"!")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("write", &self.path, error))
            }
            _ => Ok(()),
        }
    }
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mode = match self.mode {
            Mode::Exclusive => "an exclusive",
            Mode::Shared => "a shared",
        };
        let state = if self.is_holding() { "holding" } else { "waiting" };
        write!(f, "{mode} {state} ticket ({})", self.operation)
    }
}

impl Ticket {
    /// Shows that its turn has come.
    pub(crate) fn holds(&self) -> Result<()> {
        stat::fchmod(&self.pipe, HOLDING)
            .map_err(|error| failed("mark", &self.entry.path, error.into()))
    }

    /// Whether it is still in the queue.
    pub(crate) fn is_in_place(&self) -> bool {
        // The operation's id is in its name: it cannot be another's.
        fs::symlink_metadata(&self.entry.path).is_ok()
    }

    pub(crate) fn operation(&self) -> &str {
        &self.entry.operation
    }

    /// Leaves the queue before it is dropped.
    pub(crate) fn leave(&self) -> Result<()> {
        self.entry.remove()?;
        // Wakes who waits for it, as closing the pipe would. It is full only if they are awake.
        let _ = nix::unistd::write(&self.pipe, b"!");
        Ok(())
    }

    /// Waits until it is taken away.
    pub(crate) async fn taken_away(&self) {
        loop {
            // The owner holds both ends of the pipe, so that it is readable when somebody has
            // written to it, and only then.
            if self.pipe.ready(Interest::READABLE).await.is_err() || !self.is_in_place() {
                return;
            }
            // By nobody who keeps to the rules.
            let _ = self.pipe.try_read(&mut [0; 64]);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // Before the pipe is closed, because that wakes the next, who then looks. What cannot be
        // removed is a dead ticket, and removed by others.
        let _ = remove(&self.entry.path);
    }
}

fn open(path: &Path, as_owner: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(as_owner).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW);
    options.open(path)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What is in a directory; nothing if it does not exist.
fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    entries.map(|entry| Ok(entry?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    fn queue() -> (tempfile::TempDir, Queue) {
        let dir = tempfile::tempdir().unwrap();
        let queue = Queue::of(dir.path(), -2);
        (dir, queue)
    }

    fn draw(queue: &Queue, mode: Mode) -> Ticket {
        queue.draw(OperationId::random(), mode).unwrap()
    }

    #[tokio::test]
    async fn the_first_is_served_and_the_next_is_woken() {
        let (_dir, queue) = queue();
        let (one, two) = (draw(&queue, Mode::Exclusive), draw(&queue, Mode::Exclusive));
        let three = draw(&queue, Mode::Exclusive);
        assert!(queue.turn(&one, ready(())).await.unwrap());
        one.holds().unwrap();
        assert!(!queue.turn(&two, ready(())).await.unwrap());
        let (two_waits, three_waits) = (queue.turn(&two, pending()), queue.turn(&three, pending()));
        let gone = async { drop(one) };
        let (turn, ()) = tokio::join!(two_waits, gone);
        assert!(turn.unwrap());
        let (turn, ()) = tokio::join!(three_waits, async { drop(two) });
        assert!(turn.unwrap());
        drop(three);
        assert!(queue.remove_if_empty());
    }

    #[tokio::test]
    async fn shared_tickets_pass_each_other_but_no_exclusive_one() {
        let (_dir, queue) = queue();
        let (one, two) = (draw(&queue, Mode::Shared), draw(&queue, Mode::Shared));
        let (writer, late) = (draw(&queue, Mode::Exclusive), draw(&queue, Mode::Shared));
        for reader in [&one, &two] {
            assert!(queue.turn(reader, ready(())).await.unwrap());
        }
        for waiting in [&writer, &late] {
            assert!(!queue.turn(waiting, ready(())).await.unwrap());
        }
        drop(writer);
        assert!(queue.turn(&late, ready(())).await.unwrap());
    }

    #[tokio::test]
    async fn the_dead_are_passed_over() {
        let (_dir, queue) = queue();
        let mut dead = draw(&queue, Mode::Exclusive);
        // As if its process had ended: closed, and not removed.
        let path = std::mem::take(&mut dead.entry.path);
        drop(dead);
        assert!(path.exists());
        let next = draw(&queue, Mode::Exclusive);
        assert!(queue.turn(&next, ready(())).await.unwrap());
        assert!(!path.exists());
        assert_eq!(queue.living().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn who_loses_a_ticket_is_told_and_so_is_the_next() {
        let (_dir, queue) = queue();
        let (one, two) = (draw(&queue, Mode::Exclusive), draw(&queue, Mode::Exclusive));
        one.holds().unwrap();
        let (turn, (), ()) = tokio::join!(queue.turn(&two, pending()), one.taken_away(), async {
            let entries = queue.living().unwrap();
            assert_eq!((entries.len(), entries[0].is_holding()), (2, true));
            entries[0].take_away().unwrap();
        });
        assert!(turn.unwrap() && !one.is_in_place() && two.is_in_place());
    }
}
