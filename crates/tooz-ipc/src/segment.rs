//! System V shared memory, behind a safe interface.

#![allow(unsafe_code, reason = "no safe crate wraps System V shared memory")]

use std::io;
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU8;

use libc::{c_int, c_void, shmid_ds};

/// Only the user who made it may use it, as in Python.
const MODE: c_int = 0o600;

/// A segment that this process has attached, until it is dropped. Nothing is removed then.
#[derive(Debug)]
pub(crate) struct Segment {
    id: c_int,
    start: NonNull<AtomicU8>,
    size: usize,
}

// SAFETY: a mapping belongs to the process and not to a thread, so any thread may detach it.
unsafe impl Send for Segment {}
// SAFETY: what is shared gives access to numbers and to atomics only.
unsafe impl Sync for Segment {}

impl Segment {
    /// Attaches the segment of that key, if there is one.
    pub(crate) fn open(key: i32) -> io::Result<Option<Self>> {
        Self::get(key, 0, 0, libc::ENOENT)
    }

    /// Makes the segment of that key, full of zeros, if there is none.
    pub(crate) fn create(key: i32, size: usize) -> io::Result<Option<Self>> {
        Self::get(key, size, libc::IPC_CREAT | libc::IPC_EXCL | MODE, libc::EEXIST)
    }

    /// The id of the segment of that key, which no later one of the same key has.
    pub(crate) fn id_of(key: i32) -> io::Result<Option<i32>> {
        id(key, 0, 0, libc::ENOENT)
    }

    fn get(key: i32, size: usize, flags: c_int, not: c_int) -> io::Result<Option<Self>> {
        let Some(id) = id(key, size, flags, not)? else { return Ok(None) };
        // SAFETY: with no address given, the kernel maps it where nothing is mapped.
        let start = unsafe { libc::shmat(id, ptr::null(), 0) };
        if start == ptr::without_provenance_mut::<c_void>(usize::MAX) {
            let error = io::Error::last_os_error();
            // Removed since it was found.
            return if is_gone(&error) { Ok(None) } else { Err(error) };
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("no address"))?;
        let mut segment = Self { id, start, size: 0 };
        segment.size = segment.status()?.0;
        Ok(Some(segment))
    }

    pub(crate) fn id(&self) -> i32 {
        self.id
    }

    /// What is in it. Other processes may change it at any time, so the bytes are atomic.
    pub(crate) fn bytes(&self) -> &[AtomicU8] {
        // SAFETY: it is mapped to read and write from `start` on over `size` bytes until `self` is
        // dropped, which the lifetime of the slice excludes. Any value is a valid `AtomicU8`, and
        // within this process nothing else refers to this mapping.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.size) }
    }

    /// How many times it is attached, by this and other processes.
    pub(crate) fn attached(&self) -> io::Result<u64> {
        Ok(self.status()?.1)
    }

    /// Removes it: nobody finds it from now on, and it ends when the last one detaches.
    pub(crate) fn remove(&self) -> io::Result<()> {
        // SAFETY: this command uses no third argument.
        match check(unsafe { libc::shmctl(self.id, libc::IPC_RMID, ptr::null_mut()) }) {
            Err(error) if !is_gone(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Its size, and how many times it is attached.
    #[allow(clippy::useless_conversion, reason = "the count has 32 bits on some platforms")]
    fn status(&self) -> io::Result<(usize, u64)> {
        let mut status = MaybeUninit::<shmid_ds>::zeroed();
        // SAFETY: the command fills the structure, which lives as long as the call.
        check(unsafe { libc::shmctl(self.id, libc::IPC_STAT, status.as_mut_ptr()) })?;
        // SAFETY: all its fields are numbers; it was zeroed, and the kernel has filled it.
        let status = unsafe { status.assume_init() };
        Ok((status.shm_segsz, status.shm_nattch.into()))
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: `start` is what `shmat` returned, is detached only here, and no slice of it
        // outlives `self`.
        let detached = check(unsafe { libc::shmdt(self.start.as_ptr().cast()) });
        debug_assert!(detached.is_ok(), "detached once: {detached:?}");
    }
}

fn id(key: i32, size: usize, flags: c_int, not: c_int) -> io::Result<Option<c_int>> {
    // SAFETY: takes and returns numbers only.
    match check(unsafe { libc::shmget(key, size, flags) }) {
        Ok(id) => Ok(Some(id)),
        Err(error) if error.raw_os_error() == Some(not) => Ok(None),
        Err(error) => Err(error),
    }
}

fn check(returned: c_int) -> io::Result<c_int> {
    if returned == -1 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EIDRM))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::unused_key;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn what_one_writes_the_other_reads_until_the_last_detaches() {
        let key = unused_key();
        assert!(Segment::open(key).unwrap().is_none());
        let one = Segment::create(key, 1024).unwrap().unwrap();
        assert!(Segment::create(key, 1024).unwrap().is_none());
        let two = Segment::open(key).unwrap().unwrap();
        assert_eq!((one.id(), Segment::id_of(key).unwrap()), (two.id(), Some(two.id())));
        assert_eq!((two.bytes().len(), two.attached().unwrap()), (1024, 2));
        one.bytes()[1023].store(7, Relaxed);
        assert_eq!(two.bytes()[1023].load(Relaxed), 7);
        one.remove().unwrap();
        assert!(Segment::open(key).unwrap().is_none());
        drop(one);
        assert_eq!(two.bytes()[1023].load(Relaxed), 7, "still attached");
        two.remove().unwrap();
    }
}
