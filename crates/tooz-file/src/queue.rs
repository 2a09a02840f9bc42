//! The processes of a host in the order of their arrival: who waits for a lock and, if its owner
//! says so, who holds it.
//!
//! Each is a ticket: a named pipe `NUMBER-MODE-OPERATION` in the directory of the lock. Whoever has
//! the ticket keeps its pipe open and locked, and can make it executable to show that it holds the
//! lock. A waiter opens the pipe of the one right before it: when that is released, or its
//! process dies, the kernel closes the other end and so wakes this waiter and no other. A ticket
//! whose pipe nobody has locked is a dead process's: the kernel undoes semaphores, then drops the
//! lock of a file, then tells those who poll it.
//!
//! A new ticket is above all that are there, and none is ever renamed. Who draws under a mutex, so
//! that no two draw at the same moment, can rely on the order. Without one, two may both come to be
//! first: then the queue is a courtesy, and something else must exclude.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;
use nix::sys::stat;
use nix::unistd::mkfifo;
use tokio::io::Interest;
use tokio::net::unix::pipe::Receiver;
use tooz_core::{Error, ErrorKind, Mode, OperationId, Result};

use crate::access::{list, make_dirs, remove};
use crate::errors::failed;
use crate::ofd;

/// The mode of a pipe whose owner waits, as far as the process lets others have its files.
const WAITING: stat::Mode = stat::Mode::from_bits_truncate(0o660);
/// The mode of a pipe whose owner holds the lock.
const HOLDING: stat::Mode = stat::Mode::S_IRWXU;

/// The queue of one lock: a directory, which need not be there.
#[derive(Clone, Debug)]
pub struct Queue {
    dir: PathBuf,
}

/// A ticket that is there, anybody's.
#[derive(Clone, Debug)]
pub struct Entry {
    number: u64,
    /// What it is to hold.
    pub mode: Mode,
    /// Whoever has drawn it.
    pub operation: String,
    path: PathBuf,
}

/// A ticket of our own. It leaves the queue when it is dropped.
#[derive(Debug)]
pub struct Ticket {
    entry: Entry,
    pipe: Receiver,
}

impl Queue {
    /// The one whose tickets are in that directory and nothing else is.
    pub fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Those in the directories of that directory, in order; none if it does not exist.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub fn all_in(dir: &Path) -> Result<Vec<Self>> {
        let dirs = list(dir).map_err(|error| failed("list", dir, error))?;
        Ok(dirs.into_iter().map(Self::at).collect())
    }

    /// The name of its directory.
    pub fn name(&self) -> &str {
        self.dir.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// Draws the next ticket.
    ///
    /// # Errors
    /// When the pipe cannot be made, opened or locked. Nothing is left then.
    pub fn draw(&self, operation: OperationId, mode: Mode) -> Result<Ticket> {
        loop {
            self.make_dir().map_err(|error| failed("create the directory", &self.dir, error))?;
            let number = self.next_number()?;
            let entry = Entry::new(&self.dir, number, mode, operation.to_string());
            match mkfifo(&entry.path, WAITING) {
                Ok(()) => {}
                // The directory was removed by who left last.
                Err(nix::Error::ENOENT) => continue,
                Err(error) => return Err(failed("make", &entry.path, error.into())),
            }
            let opened = open(&entry.path, true).and_then(|pipe| {
                ofd::try_lock(&pipe, Mode::Exclusive)?;
                Receiver::from_file(pipe)
            });
            match opened {
                Ok(pipe) => {
                    let ticket = Ticket { entry, pipe };
                    if ticket.is_in_place() {
                        return Ok(ticket);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    // A dead ticket otherwise, which others would remove.
                    let _ = fs::remove_file(&entry.path);
                    return Err(failed("open", &entry.path, error));
                }
            }
            // Somebody who saw it before it was locked took it for a dead one's.
        }
    }

    /// A number above all that are there.
    fn next_number(&self) -> Result<u64> {
        let Some(last) = self.entries()?.pop() else { return Ok(1) };
        last.number.checked_add(1).ok_or_else(|| {
            Error::new(
                ErrorKind::Backend,
                format!(
                    "{} has the highest number that there is, which nobody draws by counting; \
                     remove it",
                    last.path.display()
                ),
            )
        })
    }

    /// Makes its directory and the one of all queues, but nothing above them.
    fn make_dir(&self) -> io::Result<()> {
        let top = self.dir.ancestors().nth(2).unwrap_or(&self.dir);
        make_dirs(top, &self.dir)
    }

    /// The tickets that are there, dead ones too, in order.
    ///
    /// # Errors
    /// When the directory cannot be listed.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let listed = list(&self.dir).map_err(|error| failed("list", &self.dir, error))?;
        Ok(listed.into_iter().filter_map(Entry::parse).collect())
    }

    /// The tickets of the living; those of the dead are removed.
    ///
    /// # Errors
    /// When a ticket cannot be examined or removed.
    pub fn living(&self) -> Result<Vec<Entry>> {
        let mut living = Vec::new();
        for entry in self.entries()? {
            match entry.is_living()? {
                true => living.push(entry),
                false => entry.remove()?,
            }
        }
        Ok(living)
    }

    /// Takes away all tickets before this one that exclude it.
    ///
    /// # Errors
    /// When one cannot be removed or nobody can be told.
    pub fn pass_over(&self, ticket: &Ticket) -> Result<()> {
        self.before(&ticket.entry)?.iter().try_for_each(Entry::break_ticket)
    }

    /// The tickets before that one which exclude it, in order.
    fn before(&self, own: &Entry) -> Result<Vec<Entry>> {
        let mut before = self.entries()?;
        before.retain(|entry| entry.path < own.path && entry.excludes(own.mode));
        Ok(before)
    }

    /// Whether any ticket is a living one's.
    ///
    /// # Errors
    /// When a ticket cannot be examined.
    pub fn has_living(&self) -> Result<bool> {
        for entry in self.entries()? {
            if entry.is_living()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Waits until none that is before the ticket excludes it; `false` if `over` came first. One
    /// look is taken in any case. Dropping the future leaves the ticket in its place.
    ///
    /// # Errors
    /// When a ticket cannot be examined or removed.
    pub async fn turn(&self, ticket: &Ticket, over: impl Future<Output = ()>) -> Result<bool> {
        let mut over = std::pin::pin!(over);
        loop {
            let before = self.before(&ticket.entry)?;
            let Some(next) = before.last() else { return Ok(true) };
            let Some(pipe) = next.open_living()? else {
                next.remove()?;
                continue;
            };
            let pipe =
                Receiver::from_file(pipe).map_err(|error| failed("watch", &next.path, error))?;
            tokio::select! {
                biased;
                // It is closed, or its ticket was broken and it was told so in the pipe.
                ready = pipe.ready(Interest::READABLE) => {
                    ready.map_err(|error| failed("watch", &next.path, error))?;
                }
                () = &mut over => return Ok(false),
            }
        }
    }

    /// Removes the directory if no ticket is in it; whether it did.
    pub fn remove_if_empty(&self) -> bool {
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
    pub fn is_holding(&self) -> bool {
        // What is gone holds nothing.
        let found = fs::symlink_metadata(&self.path);
        found.is_ok_and(|found| found.mode() & HOLDING.bits() == HOLDING.bits())
    }

    fn excludes(&self, mode: Mode) -> bool {
        self.mode == Mode::Exclusive || mode == Mode::Exclusive
    }

    /// Whether somebody alive has it.
    ///
    /// # Errors
    /// When it cannot be examined.
    pub fn is_living(&self) -> Result<bool> {
        self.open_living().map(|pipe| pipe.is_some())
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
    fn remove(&self) -> Result<()> {
        remove(&self.path).map_err(|error| failed("remove", &self.path, error))
    }

    /// Breaks the ticket: its owner is told, and so are those who wait for it.
    ///
    /// # Errors
    /// When it cannot be removed or nobody can be told.
    pub fn break_ticket(&self) -> Result<()> {
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
    ///
    /// # Errors
    /// When the pipe cannot be made executable.
    pub fn holds(&self) -> Result<()> {
        stat::fchmod(&self.pipe, HOLDING)
            .map_err(|error| failed("mark", &self.entry.path, error.into()))
    }

    /// Whether it is still in the queue.
    pub fn is_in_place(&self) -> bool {
        // The operation's id is in its name: it cannot be another's.
        fs::symlink_metadata(&self.entry.path).is_ok()
    }

    /// Whoever has drawn it.
    pub fn operation(&self) -> &str {
        &self.entry.operation
    }

    /// Leaves the queue before it is dropped.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn leave(&self) -> Result<()> {
        self.entry.remove()?;
        // Wakes those who wait for it, as closing the pipe would. It is full only if they are awake.
        let _ = nix::unistd::write(&self.pipe, b"!");
        Ok(())
    }

    /// Waits until it is broken.
    pub async fn broken(&self) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    fn queue() -> (tempfile::TempDir, Queue) {
        let dir = tempfile::tempdir().unwrap();
        let queue = Queue::at(dir.path().join("queue"));
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

    /// Whoever leaves last removes the directory, at any moment of another's coming.
    #[tokio::test]
    async fn a_ticket_is_drawn_while_others_make_and_remove_the_directory() {
        let (_dir, queue) = queue();
        let (until_dropped, ends) = std::sync::mpsc::channel::<()>();
        let others = queue.clone();
        let others = std::thread::spawn(move || {
            while ends.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                let _ = fs::create_dir(&others.dir);
                others.remove_if_empty();
            }
        });
        for _ in 0..1000 {
            drop(draw(&queue, Mode::Exclusive));
        }
        drop(until_dropped);
        others.join().unwrap();
    }

    #[tokio::test]
    async fn after_the_highest_number_comes_an_error() {
        let (_dir, queue) = queue();
        fs::create_dir(&queue.dir).unwrap();
        let path = queue.dir.join(format!("{}-x-somebody", u64::MAX));
        fs::write(&path, "").unwrap();
        let error = queue.draw(OperationId::random(), Mode::Exclusive).unwrap_err();
        assert!(error.to_string().contains("18446744073709551615-x-somebody has the highest"));
        // It is a dead one's, and goes with the next look.
        assert!(queue.living().unwrap().is_empty());
        assert_eq!(draw(&queue, Mode::Exclusive).entry.number, 1);
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
    async fn who_passes_over_others_is_the_first_of_those_that_are_left() {
        let (_dir, queue) = queue();
        let (stopped, reader) = (draw(&queue, Mode::Exclusive), draw(&queue, Mode::Shared));
        let (late, next) = (draw(&queue, Mode::Shared), draw(&queue, Mode::Exclusive));
        queue.pass_over(&late).unwrap();
        assert!(!stopped.is_in_place() && reader.is_in_place());
        assert!(queue.turn(&late, ready(())).await.unwrap());
        assert!(!queue.turn(&next, ready(())).await.unwrap());
    }

    #[tokio::test]
    async fn who_loses_a_ticket_is_told_and_so_is_the_next() {
        let (_dir, queue) = queue();
        let (one, two) = (draw(&queue, Mode::Exclusive), draw(&queue, Mode::Exclusive));
        one.holds().unwrap();
        let (turn, (), ()) = tokio::join!(queue.turn(&two, pending()), one.broken(), async {
            let entries = queue.living().unwrap();
            assert_eq!((entries.len(), entries[0].is_holding()), (2, true));
            entries[0].break_ticket().unwrap();
        });
        assert!(turn.unwrap() && !one.is_in_place() && two.is_in_place());
    }
}
