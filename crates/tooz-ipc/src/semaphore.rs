//! System V semaphore sets, behind a safe interface.

#![allow(unsafe_code, reason = "no safe crate wraps System V semaphores")]

use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

use libc::{c_int, sembuf, semid_ds, size_t, timespec};

/// Only the user who made it may use it, as in Python.
const MODE: c_int = 0o600;

unsafe extern "C" {
    /// Both glibc and musl have it; the crate `libc` does not declare it.
    fn semtimedop(
        id: c_int,
        operations: *mut sembuf,
        count: size_t,
        limit: *const timespec,
    ) -> c_int;
}

/// The fourth argument of `semctl`.
#[repr(C)]
union Argument {
    value: c_int,
    status: *mut semid_ds,
}

/// A set of semaphores, by its id: the kernel never gives the id of a removed set to the next one
/// of the same key. Nothing is removed when this is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Set(c_int);

/// A change of one semaphore of a set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    semaphore: u16,
    by: i16,
    undo: bool,
}

impl Step {
    /// For good.
    pub(crate) const fn by(semaphore: u16, by: i16) -> Self {
        Self { semaphore, by, undo: false }
    }

    /// Until this process ends: then the kernel takes it back.
    pub(crate) const fn undone_at_exit(semaphore: u16, by: i16) -> Self {
        Self { semaphore, by, undo: true }
    }
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// All its steps were made at once.
    Made,
    /// A value would have fallen below zero. Nothing was changed.
    Blocked,
    /// The set was removed.
    Gone,
}

/// What the kernel says of a set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Status {
    /// How many semaphores it has.
    pub(crate) size: usize,
    /// Whether any change was ever made: initialising it is none.
    pub(crate) was_changed: bool,
    /// When it was made or initialised, in seconds since 1970.
    pub(crate) made: i64,
}

impl Set {
    /// The set of that key, if there is one.
    pub(crate) fn open(key: i32) -> io::Result<Option<Self>> {
        Self::get(key, 0, 0, libc::ENOENT)
    }

    /// Makes the set of that key, with all values 0, if there is none.
    pub(crate) fn create(key: i32, size: u16) -> io::Result<Option<Self>> {
        Self::get(key, size.into(), libc::IPC_CREAT | libc::IPC_EXCL | MODE, libc::EEXIST)
    }

    fn get(key: i32, size: c_int, flags: c_int, not: c_int) -> io::Result<Option<Self>> {
        // SAFETY: takes and returns numbers only.
        match check(unsafe { libc::semget(key, size, flags) }) {
            Ok(id) => Ok(Some(Self(id))),
            Err(error) if error.raw_os_error() == Some(not) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes all steps at once, now or not at all.
    pub(crate) fn change<const N: usize>(self, steps: [Step; N]) -> io::Result<Change> {
        let mut operations = steps.map(|step| operation(step, libc::IPC_NOWAIT));
        loop {
            // SAFETY: the pointer leads to N operations, which live as long as the call.
            let made = check(unsafe { libc::semop(self.0, operations.as_mut_ptr(), N) });
            match outcome(made)? {
                Some(change) => return Ok(change),
                None => continue,
            }
        }
    }

    /// Makes all steps at once as soon as they can be made. Blocks the thread for at most about
    /// `limit`.
    pub(crate) fn wait<const N: usize>(
        self,
        steps: [Step; N],
        limit: Duration,
    ) -> io::Result<Change> {
        let mut operations = steps.map(|step| operation(step, 0));
        // SAFETY: all its fields are numbers, for which zero is valid.
        let mut time: timespec = unsafe { std::mem::zeroed() };
        time.tv_sec = limit.as_secs().try_into().unwrap_or(i32::MAX.into());
        time.tv_nsec = limit.subsec_nanos().into();
        // SAFETY: both pointers lead to values that live as long as the call, the first to N.
        let made = check(unsafe { semtimedop(self.0, operations.as_mut_ptr(), N, &time) });
        // A signal ends the waiting early, which the caller bears as well as its time being over.
        Ok(outcome(made)?.unwrap_or(Change::Blocked))
    }

    /// The value of a semaphore; `None` if the set was removed.
    pub(crate) fn value(self, semaphore: u16) -> io::Result<Option<i32>> {
        // SAFETY: this command takes no fourth argument.
        let value = check(unsafe { libc::semctl(self.0, semaphore.into(), libc::GETVAL) });
        unless_gone(value)
    }

    /// What the kernel knows of it; `None` if it was removed.
    #[allow(clippy::useless_conversion, reason = "a time has 32 bits on some platforms")]
    pub(crate) fn status(self) -> io::Result<Option<Status>> {
        let mut status = MaybeUninit::<semid_ds>::zeroed();
        let argument = Argument { status: status.as_mut_ptr() };
        // SAFETY: the command fills the structure that the argument leads to, which lives as long
        // as the call.
        let asked = check(unsafe { libc::semctl(self.0, 0, libc::IPC_STAT, argument) });
        if unless_gone(asked)?.is_none() {
            return Ok(None);
        }
        // SAFETY: all its fields are numbers; it was zeroed, and the kernel has filled it.
        let status = unsafe { status.assume_init() };
        Ok(Some(Status {
            size: usize::try_from(status.sem_nsems).unwrap_or(usize::MAX),
            was_changed: status.sem_otime != 0,
            made: i64::from(status.sem_ctime),
        }))
    }

    /// Removes it, which wakes all who wait; whether it was there.
    pub(crate) fn remove(self) -> io::Result<bool> {
        // SAFETY: this command takes no fourth argument.
        let removed = check(unsafe { libc::semctl(self.0, 0, libc::IPC_RMID) });
        Ok(unless_gone(removed)?.is_some())
    }

    /// Sets a value outright, as Python does after it has made a set.
    #[cfg(test)]
    pub(crate) fn set(self, semaphore: u16, value: i32) -> io::Result<()> {
        let argument = Argument { value };
        // SAFETY: this command takes a number for its fourth argument.
        check(unsafe { libc::semctl(self.0, semaphore.into(), libc::SETVAL, argument) })?;
        Ok(())
    }
}

fn operation(step: Step, flags: c_int) -> sembuf {
    let flags = flags | if step.undo { libc::SEM_UNDO } else { 0 };
    // Both flags are far below the limit of the type.
    sembuf { sem_num: step.semaphore, sem_op: step.by, sem_flg: flags as libc::c_short }
}

fn check(returned: c_int) -> io::Result<c_int> {
    if returned == -1 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}

/// `None` if a signal came in between.
fn outcome(made: io::Result<c_int>) -> io::Result<Option<Change>> {
    match made {
        Ok(_) => Ok(Some(Change::Made)),
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Ok(Some(Change::Blocked)),
        Err(error) if error.raw_os_error() == Some(libc::EINTR) => Ok(None),
        Err(error) if is_gone(&error) => Ok(Some(Change::Gone)),
        Err(error) => Err(error),
    }
}

fn unless_gone(asked: io::Result<c_int>) -> io::Result<Option<c_int>> {
    match asked {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removed before the call, or while it waited.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EIDRM))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::unused_key;

    /// Removes the set at the end of a test, also of one that fails.
    struct Removed(Set);

    impl Drop for Removed {
        fn drop(&mut self) {
            let _ = self.0.remove();
        }
    }

    #[test]
    fn a_set_is_made_once_and_found_until_it_is_removed() {
        let key = unused_key();
        assert_eq!(Set::open(key).unwrap(), None);
        let set = Removed(Set::create(key, 2).unwrap().unwrap());
        assert_eq!(Set::create(key, 2).unwrap(), None);
        assert_eq!(Set::open(key).unwrap(), Some(set.0));
        let status = set.0.status().unwrap().unwrap();
        assert_eq!((status.size, status.was_changed), (2, false));
        assert!(status.made > 0);
        assert!(set.0.remove().unwrap());
        assert!(!set.0.remove().unwrap());
        assert_eq!(Set::open(key).unwrap(), None);
        assert!(set.0.status().unwrap().is_none() && set.0.value(0).unwrap().is_none());
    }

    #[test]
    fn steps_are_made_together_or_not_at_all() {
        let set = Removed(Set::create(unused_key(), 2).unwrap().unwrap());
        let steps = [Step::by(1, 1), Step::by(0, -1)];
        assert_eq!(set.0.change(steps).unwrap(), Change::Blocked);
        assert_eq!(set.0.value(1).unwrap(), Some(0));
        assert!(!set.0.status().unwrap().unwrap().was_changed);
        let pass = [Step::by(0, 1), Step::undone_at_exit(0, -1)];
        assert_eq!(set.0.change(pass).unwrap(), Change::Made);
        assert_eq!(set.0.value(0).unwrap(), Some(0));
        assert!(set.0.status().unwrap().unwrap().was_changed);
        set.0.set(0, 1).unwrap();
        assert_eq!(set.0.change([Step::by(0, -1), Step::by(1, 1)]).unwrap(), Change::Made);
        assert_eq!((set.0.value(0).unwrap(), set.0.value(1).unwrap()), (Some(0), Some(1)));
    }

    #[test]
    fn a_wait_ends_with_its_time_with_a_change_and_with_the_set() {
        let set = Removed(Set::create(unused_key(), 1).unwrap().unwrap());
        let (id, moment, long) = (set.0, Duration::from_millis(5), Duration::from_secs(30));
        assert_eq!(id.wait([Step::by(0, -1)], moment).unwrap(), Change::Blocked);
        let waiter = std::thread::spawn(move || id.wait([Step::by(0, -1)], long).unwrap());
        assert_eq!(id.change([Step::by(0, 1)]).unwrap(), Change::Made);
        assert_eq!(waiter.join().unwrap(), Change::Made);
        let waiter = std::thread::spawn(move || id.wait([Step::by(0, -1)], long).unwrap());
        assert!(id.remove().unwrap());
        assert_eq!(waiter.join().unwrap(), Change::Gone);
    }
}
