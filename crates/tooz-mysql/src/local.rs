//! The locks that the coordinator has to do with, from its own side.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};
use tooz_core::Mode;
use tooz_core::kit::locked;

use crate::keys::LockKeys;

/// Where our own acquisitions of each lock queue, in the order of their arrival.
#[derive(Debug, Default)]
pub(crate) struct LocalLocks(Mutex<HashMap<LockKeys, Weak<RwLock<()>>>>);

/// The turn among the acquisitions of one coordinator, until it is dropped.
#[derive(Debug)]
pub(crate) enum Turn {
    Exclusive { _guard: OwnedRwLockWriteGuard<()> },
    Shared { _guard: OwnedRwLockReadGuard<()> },
}

impl LocalLocks {
    pub(crate) async fn turn(&self, keys: &LockKeys, mode: Mode) -> Turn {
        let queue = self.queue(keys);
        match mode {
            Mode::Exclusive => Turn::Exclusive { _guard: queue.write_owned().await },
            Mode::Shared => Turn::Shared { _guard: queue.read_owned().await },
        }
    }

    fn queue(&self, keys: &LockKeys) -> Arc<RwLock<()>> {
        // A session would be given twice what the server takes for one lock.
        let keys = keys.folded();
        let mut queues = locked(&self.0);
        if let Some(queue) = queues.get(&keys).and_then(Weak::upgrade) {
            return queue;
        }
        if queues.len() >= 64 && queues.len().is_power_of_two() {
            queues.retain(|_, queue| queue.strong_count() > 0);
        }
        let queue = Arc::default();
        queues.insert(keys, Arc::downgrade(&queue));
        queue
    }
}
