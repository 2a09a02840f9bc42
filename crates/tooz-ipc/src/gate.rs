//! The semaphores of a lock: what excludes Python, and is free for it when our process dies.
//!
//! Python's lock is a set of one semaphore: 1 is free, 0 is held, and a release removes the set. It
//! opens our sets as well, because it asks for no more than one semaphore. Ours have two:
//!
//! - [`GATE`] is Python's semaphore. An exclusive holder has taken it with an undo: when the holder
//!   dies, the kernel sets it back to 1.
//! - [`READERS`] is 1 while readers have the set. There may be many, and an undo of each would open
//!   the gate when the first of them dies. So they share it without an undo, and the last to leave
//!   removes the set. If all die, the next of ours does: the gate is never opened for Python while
//!   a reader lives.
//!
//! The [queue](tooz_file::queue) decides among our own, so that here at most one exclusive holder
//! acts on a set, or readers under the mutex, or who cleans up under the mutex with nobody in the
//! queue.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;
use tooz_core::{Error, ErrorKind, Mode, Result};
use tracing::warn;

use crate::errors::refused;
use crate::semaphore::{Change, Set, Status, Step};

const GATE: u16 = 0;
const READERS: u16 = 1;
const SIZE: u16 = 2;

/// Takes the gate from 0 or from 1, and back again when the process ends.
const TAKE: Step = Step::undone_at_exit(GATE, -1);
/// What was never opened, or not by Python, is opened for a [`TAKE`] of the same change.
const OPEN: Step = Step::by(GATE, 1);

/// How long Python may take between making a set and initialising it, which is one system call,
/// before it counts as dead.
const MAKING_LIMIT: Duration = Duration::from_secs(2);
/// How long a thread that waits for Python may outlive the wish to wait.
const SLICE: Duration = Duration::from_millis(200);

/// The semaphores of a lock that we hold.
#[derive(Debug)]
pub(crate) struct Gate {
    key: i32,
    set: Set,
    mode: Mode,
}

/// What one attempt came to.
enum Attempt {
    Taken(Set),
    /// Python has it.
    Busy(Set),
}

impl Gate {
    /// One attempt; `None` if Python has it. Whoever calls it is the only one of ours that may:
    /// see the module.
    pub(crate) fn try_take(key: i32, mode: Mode) -> Result<Option<Self>> {
        match attempt(key, mode)? {
            Attempt::Taken(set) => Ok(Some(Self { key, set, mode })),
            Attempt::Busy(_) => Ok(None),
        }
    }

    /// Waits until Python gives it back; `None` if `over` came before.
    ///
    /// For an exclusive holder it is taken then. For a reader it was only seen free: another
    /// attempt takes it, under the mutex.
    pub(crate) async fn wait(
        key: i32,
        mode: Mode,
        over: impl Future<Output = ()>,
    ) -> Result<Option<Waited>> {
        let stop = Arc::new(Stop::default());
        let _stop_on_drop = StopOnDrop(stop.clone());
        let (reply, answer) = oneshot::channel();
        let waiter = move || {
            // If nobody listens any more, what was taken is dropped here, which gives it back.
            let _ = reply.send(wait_blocking(key, mode, &stop));
        };
        // The kernel's waiting cannot be ended from outside but by a signal, which is the
        // application's business. So it is done in slices, on a thread that nobody waits for.
        std::thread::Builder::new().name("tooz-ipc-wait".to_owned()).spawn(waiter).map_err(
            |error| {
                Error::new(ErrorKind::Backend, "could not start a thread to wait for the semaphore")
                    .caused_by(error)
            },
        )?;
        tokio::select! {
            biased;
            waited = answer => match waited {
                Ok(waited) => waited,
                Err(_) => Err(Error::new(ErrorKind::Internal, "the waiting thread ended")),
            },
            () = over => Ok(None),
        }
    }

    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether it is still there: Python breaks a lock by removing the set.
    pub(crate) fn is_there(&self) -> Result<bool> {
        let value = self.set.value(GATE);
        Ok(value.map_err(|error| refused("read the semaphores", self.key, error))?.is_some())
    }

    /// Gives it back, as the only or the last holder; whether it was there.
    pub(crate) fn open(&self) -> Result<bool> {
        self.set.remove().map_err(|error| refused("remove the semaphores", self.key, error))
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // Readers leave under the mutex. For a holder that gave it back, there is nothing here.
        if self.mode == Mode::Exclusive
            && let Err(error) = self.open()
        {
            warn!(%error, "a lock could not be released");
        }
    }
}

/// How waiting for Python ended.
#[derive(Debug)]
pub(crate) enum Waited {
    Taken(Gate),
    SeenFree,
}

#[derive(Debug, Default)]
struct Stop(AtomicBool);

struct StopOnDrop(Arc<Stop>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

fn wait_blocking(key: i32, mode: Mode, stop: &Stop) -> Result<Option<Waited>> {
    let failed = |error| refused("wait for the semaphores", key, error);
    let taken = |set| Ok(Some(Waited::Taken(Gate { key, set, mode })));
    while !stop.0.load(Ordering::Relaxed) {
        match mode {
            Mode::Exclusive => match attempt(key, mode)? {
                Attempt::Taken(set) => return taken(set),
                Attempt::Busy(set) => match set.wait([TAKE], SLICE).map_err(failed)? {
                    Change::Made => return taken(set),
                    // What was removed is made again at once, before Python does.
                    Change::Gone | Change::Blocked => {}
                },
            },
            Mode::Shared => {
                let Some(set) = Set::open(key).map_err(failed)? else {
                    return Ok(Some(Waited::SeenFree));
                };
                // Waits until it could be taken, and takes nothing.
                let seen = set.wait([Step::by(GATE, -1), OPEN], SLICE).map_err(failed)?;
                if seen != Change::Blocked || is_readers(set).map_err(failed)? {
                    return Ok(Some(Waited::SeenFree));
                }
                clean_unmade(set).map_err(failed)?;
            }
        }
    }
    Ok(None)
}

fn attempt(key: i32, mode: Mode) -> Result<Attempt> {
    let failed = |error| refused("use the semaphores", key, error);
    loop {
        let found = match Set::open(key).map_err(failed)? {
            Some(set) => Some((set, false)),
            None => Set::create(key, SIZE).map_err(failed)?.map(|set| (set, true)),
        };
        // Somebody else has made it in between.
        let Some((set, is_new)) = found else { continue };
        let tried = match mode {
            Mode::Exclusive => take_alone(set, is_new),
            Mode::Shared => take_shared(set, is_new),
        };
        match tried.map_err(failed)? {
            Change::Made => return Ok(Attempt::Taken(set)),
            Change::Blocked if clean_unmade(set).map_err(failed)? => {}
            Change::Blocked => return Ok(Attempt::Busy(set)),
            Change::Gone => {}
        }
    }
}

fn take_alone(set: Set, is_new: bool) -> io::Result<Change> {
    // A new set is as good as taken, with no value for anybody to take: but the undo is missing.
    if is_new {
        return set.change([OPEN, TAKE]);
    }
    let taken = set.change([TAKE])?;
    if taken != Change::Blocked {
        return Ok(taken);
    }
    let Some(status) = set.status()? else { return Ok(Change::Gone) };
    if !is_ours(&status) {
        return Ok(Change::Blocked);
    }
    // None of ours has it, so readers that are noted have died.
    match set.change([Step::by(READERS, -1), OPEN, TAKE])? {
        Change::Blocked if !status.was_changed => set.change([OPEN, TAKE]),
        changed => Ok(changed),
    }
}

fn take_shared(set: Set, is_new: bool) -> io::Result<Change> {
    let join = Step::by(READERS, 1);
    if is_new {
        return set.change([join]);
    }
    let Some(status) = set.status()? else { return Ok(Change::Gone) };
    if !is_ours(&status) {
        // There is no room for readers in it: it is taken, removed, and made again.
        let taken = set.change([TAKE])?;
        if taken == Change::Made {
            set.remove()?;
            return Ok(Change::Gone);
        }
        return Ok(taken);
    }
    if is_readers(set)? {
        return Ok(Change::Made);
    }
    match set.change([Step::by(GATE, -1), join])? {
        // Its maker has died before it was taken.
        Change::Blocked if !status.was_changed => set.change([join]),
        changed => Ok(changed),
    }
}

/// Whether we made it; so that nobody but us and a Python process that was let in can hold it.
fn is_ours(status: &Status) -> bool {
    status.size == usize::from(SIZE)
}

/// Whether readers have it, dead or alive.
fn is_readers(set: Set) -> io::Result<bool> {
    let Some(status) = set.status()? else { return Ok(false) };
    Ok(is_ours(&status) && set.value(READERS)? == Some(1))
}

/// Removes a set of Python's that was made and never initialised: its maker has died between the
/// two, and everybody would wait for ever. Whether it did.
fn clean_unmade(set: Set) -> io::Result<bool> {
    let Some(status) = set.status()? else { return Ok(false) };
    if is_ours(&status) || status.was_changed || set.value(GATE)? != Some(0) {
        return Ok(false);
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let made = Duration::from_secs(u64::try_from(status.made).unwrap_or(0));
    if now.saturating_sub(made) < MAKING_LIMIT {
        return Ok(false);
    }
    warn!("a Python process died while it made a lock: it is made again");
    set.remove()
}

/// Removes what the dead have left. Under the mutex, with none of ours in the queue.
pub(crate) fn clean(key: i32) -> Result<()> {
    let cleaned = || {
        let Some(set) = Set::open(key)? else { return Ok(()) };
        let Some(status) = set.status()? else { return Ok(()) };
        if !is_ours(&status) {
            return Ok(());
        }
        // What Python was let into is Python's to remove.
        let is_pythons = set.value(GATE)? == Some(0) && status.was_changed && !is_readers(set)?;
        if !is_pythons {
            set.remove()?;
        }
        Ok(())
    };
    cleaned().map_err(|error| refused("clean up the semaphores", key, error))
}

/// Takes the semaphores from their holder; returns whether anybody but dead readers could have them.
/// Under the mutex.
pub(crate) fn break_open(key: i32) -> Result<bool> {
    let broken = || {
        let Some(set) = Set::open(key)? else { return Ok(false) };
        let is_held = set.value(GATE)? == Some(0) && !is_readers(set)?;
        let was_changed = set.status()?.is_some_and(|status| status.was_changed);
        Ok(set.remove()? && is_held && was_changed)
    };
    broken().map_err(|error| refused("remove the semaphores", key, error))
}

/// What the semaphores of a key say, if there are any.
pub(crate) fn describe(key: i32) -> io::Result<Option<String>> {
    let Some(set) = Set::open(key)? else { return Ok(None) };
    let (Some(status), Some(gate)) = (set.status()?, set.value(GATE)?) else { return Ok(None) };
    let whose = if is_ours(&status) { "ours" } else { "Python's" };
    let readers = if is_readers(set)? { ", with readers" } else { "" };
    Ok(Some(format!("semaphores {key:#010x} at {gate}, {whose}{readers}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::unused_key;
    use std::future::{pending, ready};

    /// A set as Python makes it, released when dropped.
    struct Python(Set);

    impl Python {
        fn holds(key: i32) -> Self {
            let python = Self::made(key);
            python.0.set(GATE, 1).unwrap();
            assert_eq!(python.0.change([TAKE]).unwrap(), Change::Made);
            python
        }

        /// Made, and not initialised.
        fn made(key: i32) -> Self {
            Self(Set::create(key, 1).unwrap().unwrap())
        }
    }

    impl Drop for Python {
        fn drop(&mut self) {
            let _ = self.0.remove();
        }
    }

    fn take(key: i32, mode: Mode) -> Option<Gate> {
        Gate::try_take(key, mode).unwrap()
    }

    fn nothing_left(key: i32) -> bool {
        Set::open(key).unwrap().is_none()
    }

    #[test]
    fn python_and_we_exclude_each_other() {
        for mode in [Mode::Exclusive, Mode::Shared] {
            let key = unused_key();
            let python = Python::holds(key);
            assert!(take(key, mode).is_none());
            drop(python);
            let gate = take(key, mode).unwrap();
            assert_eq!(gate.set.value(GATE).unwrap(), Some(0), "for Python it is held");
            assert!(gate.is_there().unwrap() && gate.open().unwrap());
            assert!(!gate.is_there().unwrap() && !gate.open().unwrap());
        }
    }

    #[test]
    fn dropping_an_exclusive_gate_opens_it() {
        let key = unused_key();
        drop(take(key, Mode::Exclusive).unwrap());
        assert!(nothing_left(key));
    }

    #[test]
    fn readers_share_one_set_until_the_last_leaves() {
        let key = unused_key();
        let (one, two) = (take(key, Mode::Shared).unwrap(), take(key, Mode::Shared).unwrap());
        assert_eq!(one.set, two.set);
        drop(one);
        assert!(two.is_there().unwrap() && two.open().unwrap());
        assert!(nothing_left(key));
    }

    #[test]
    fn what_dead_readers_leave_is_taken_over_or_cleaned() {
        let key = unused_key();
        drop(take(key, Mode::Shared).unwrap());
        let gate = take(key, Mode::Exclusive).unwrap();
        assert!(!is_readers(gate.set).unwrap());
        drop(gate);
        drop(take(key, Mode::Shared).unwrap());
        clean(key).unwrap();
        assert!(nothing_left(key));
    }

    #[test]
    fn a_set_whose_maker_died_is_taken_over_or_cleaned() {
        for mode in [Mode::Exclusive, Mode::Shared] {
            let key = unused_key();
            Set::create(key, SIZE).unwrap().unwrap();
            let gate = take(key, mode).unwrap();
            assert!(gate.open().unwrap());
            Set::create(key, SIZE).unwrap().unwrap();
            clean(key).unwrap();
            assert!(nothing_left(key));
        }
    }

    #[test]
    fn a_set_that_an_undo_has_opened_is_taken_over_or_cleaned() {
        for mode in [Mode::Exclusive, Mode::Shared] {
            let key = unused_key();
            let set = Set::create(key, SIZE).unwrap().unwrap();
            // What is left of a holder of ours that was killed.
            assert_eq!(set.change([OPEN]).unwrap(), Change::Made);
            assert!(take(key, mode).unwrap().open().unwrap());
            let set = Set::create(key, SIZE).unwrap().unwrap();
            assert_eq!(set.change([OPEN]).unwrap(), Change::Made);
            clean(key).unwrap();
            assert!(nothing_left(key));
        }
    }

    #[test]
    fn what_python_was_let_into_is_not_cleaned() {
        let key = unused_key();
        let python = Python(Set::create(key, SIZE).unwrap().unwrap());
        assert_eq!(python.0.change([OPEN, TAKE]).unwrap(), Change::Made);
        clean(key).unwrap();
        assert!(!nothing_left(key));
        for mode in [Mode::Exclusive, Mode::Shared] {
            assert!(take(key, mode).is_none());
        }
        assert!(break_open(key).unwrap() && nothing_left(key));
    }

    #[test]
    fn a_set_that_python_never_initialised_does_not_block_for_ever() {
        let key = unused_key();
        let python = Python::made(key);
        assert!(take(key, Mode::Exclusive).is_none(), "it may still be at it");
        std::thread::sleep(MAKING_LIMIT + Duration::from_secs(1));
        assert!(take(key, Mode::Exclusive).unwrap().is_there().unwrap());
        assert!(python.0.status().unwrap().is_none());
    }

    #[tokio::test]
    async fn a_release_by_python_wakes_who_waits() {
        for mode in [Mode::Exclusive, Mode::Shared] {
            let key = unused_key();
            let python = Python::holds(key);
            let waits = Gate::wait(key, mode, pending());
            let (waited, ()) = tokio::join!(waits, async { drop(python) });
            match (mode, waited.unwrap().unwrap()) {
                (Mode::Exclusive, Waited::Taken(gate)) => assert!(gate.is_there().unwrap()),
                (Mode::Shared, Waited::SeenFree) => {}
                other => panic!("not expected: {other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn who_no_longer_waits_leaves_nothing() {
        let key = unused_key();
        let python = Python::holds(key);
        let waited = Gate::wait(key, Mode::Exclusive, ready(())).await.unwrap();
        assert!(waited.is_none());
        drop(python);
        // The thread may still have taken it, and then gives it back.
        let until = std::time::Instant::now() + Duration::from_secs(10);
        while !nothing_left(key) {
            assert!(std::time::Instant::now() < until);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
