//! The locks that the coordinator has to do with, from its own side.
//!
//! A session of the server may take a lock again that it has: to the server, all acquisitions on
//! one connection are the same one. So what the main connection holds is known here, and who of the
//! coordinator waits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;
use tooz_core::Mode;
use tooz_core::kit::{InFlight, locked};

use crate::keys::Key;

/// Every lock that is held or asked for.
#[derive(Debug)]
pub(crate) struct LocalLocks {
    locks: Mutex<HashMap<Key, Arc<LocalLock>>>,
    /// How many waiters for one lock may stand in the server's queue.
    waiters: usize,
}

#[derive(Debug)]
pub(crate) struct LocalLock {
    /// What the main connection holds. Locked while that is changed at the server.
    pub(crate) on_main: tokio::sync::Mutex<OnMain>,
    /// Who may stand in the server's queue, in order of arrival.
    pub(crate) turns: Semaphore,
    /// Those who wait, here and at the server.
    pub(crate) waiting: InFlight,
}

/// What the main connection holds of a lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum OnMain {
    #[default]
    Nothing,
    Exclusive,
    /// So many times.
    Shared(usize),
}

/// A lock while somebody has to do with it.
#[derive(Debug)]
pub(crate) struct InUse {
    locks: Arc<LocalLocks>,
    key: Key,
    lock: Arc<LocalLock>,
}

impl LocalLocks {
    pub(crate) fn new(waiters: usize) -> Self {
        Self { locks: Mutex::default(), waiters }
    }

    pub(crate) fn using(self: &Arc<Self>, key: Key) -> InUse {
        let new = || {
            Arc::new(LocalLock {
                on_main: tokio::sync::Mutex::default(),
                turns: Semaphore::new(self.waiters),
                waiting: InFlight::default(),
            })
        };
        let lock = locked(&self.locks).entry(key).or_insert_with(new).clone();
        InUse { locks: self.clone(), key, lock }
    }
}

impl OnMain {
    pub(crate) fn admits(self, mode: Mode) -> bool {
        match self {
            Self::Nothing => true,
            Self::Exclusive => false,
            Self::Shared(_) => mode == Mode::Shared,
        }
    }

    pub(crate) fn add(&mut self, mode: Mode) {
        *self = match (mode, *self) {
            (Mode::Exclusive, _) => Self::Exclusive,
            (Mode::Shared, Self::Shared(times)) => Self::Shared(times + 1),
            (Mode::Shared, _) => Self::Shared(1),
        };
    }

    pub(crate) fn remove(&mut self) {
        *self = match *self {
            Self::Shared(times) if times > 1 => Self::Shared(times - 1),
            _ => Self::Nothing,
        };
    }
}

impl std::ops::Deref for InUse {
    type Target = LocalLock;

    fn deref(&self) -> &LocalLock {
        &self.lock
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut locks = locked(&self.locks.locks);
        // The map's and ours.
        if Arc::strong_count(&self.lock) <= 2 {
            locks.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_known_as_long_as_somebody_has_to_do_with_it() {
        let locks = Arc::new(LocalLocks::new(2));
        let one = locks.using(Key::Wide(1));
        let two = locks.using(Key::Wide(1));
        let waits = one.waiting.begin();
        assert!(!two.waiting.is_none() && two.turns.available_permits() == 2);
        drop(waits);
        assert!(two.waiting.is_none());
        drop(one);
        assert_eq!(locked(&locks.locks).len(), 1);
        drop(two);
        assert!(locked(&locks.locks).is_empty());
    }

    #[test]
    fn one_session_does_not_share_with_itself_what_excludes() {
        let mut held = OnMain::default();
        assert!(held.admits(Mode::Exclusive) && held.admits(Mode::Shared));
        held.add(Mode::Shared);
        held.add(Mode::Shared);
        assert!(!held.admits(Mode::Exclusive) && held.admits(Mode::Shared));
        held.remove();
        assert_eq!(held, OnMain::Shared(1));
        held.remove();
        held.add(Mode::Exclusive);
        assert!(!held.admits(Mode::Exclusive) && !held.admits(Mode::Shared));
        held.remove();
        assert_eq!(held, OnMain::Nothing);
    }
}
