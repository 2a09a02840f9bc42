//! What the server says unasked: to waiters, to holders, to watches.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redis::{PushInfo, PushKind, Value};
use tokio::sync::{mpsc, watch};
use tooz_core::{Lease, Loss, OperationId};

/// What a waiter is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// Look now: it may be yours.
    Now,
    /// Look when the one before you is overdue.
    Overdue,
}

/// Who is to be told.
#[derive(Debug)]
pub(crate) struct Listeners {
    own_channel: Vec<u8>,
    waiters: watch::Sender<HashMap<String, mpsc::UnboundedSender<Wake>>>,
    /// Locks and memberships, by the operation that made them.
    holders: Mutex<HashMap<String, Lease>>,
    /// Watches by channel.
    watches: Mutex<HashMap<Vec<u8>, Watched>>,
}

/// How many watch a channel, and what they wake up by.
type Watched = (usize, watch::Sender<u64>);

impl Listeners {
    pub(crate) fn new(own_channel: Vec<u8>) -> Self {
        let (waiters, holders, watches) = Default::default();
        let waiters = watch::Sender::new(waiters);
        Self { own_channel, waiters, holders, watches }
    }

    /// What a connection must be subscribed to.
    pub(crate) fn channels(&self) -> Vec<Vec<u8>> {
        let mut channels = vec![self.own_channel.clone()];
        channels.extend(lock(&self.watches).keys().cloned());
        channels
    }

    // ---- Waiters and holders.

    pub(crate) fn add_waiter(self: &Arc<Self>, operation: OperationId) -> Waiter {
        let (sender, wakes) = mpsc::unbounded_channel();
        let operation = operation.to_string();
        self.waiters.send_modify(|waiters| drop(waiters.insert(operation.clone(), sender)));
        Waiter { listeners: self.clone(), operation, wakes }
    }

    /// Waits until nobody waits any more.
    pub(crate) async fn no_waiters(&self) {
        // The sender lives in `self`: the wait cannot fail.
        let _ = self.waiters.subscribe().wait_for(HashMap::is_empty).await;
    }

    pub(crate) fn add_holder(&self, operation: OperationId, lease: &Lease) {
        lock(&self.holders).insert(operation.to_string(), lease.clone());
    }

    pub(crate) fn remove_holder(&self, operation: OperationId) {
        lock(&self.holders).remove(&operation.to_string());
    }

    // ---- Watches.

    /// Counts a watch of the channel in; whether it is the first.
    pub(crate) fn add_watch(&self, channel: &[u8]) -> (watch::Receiver<u64>, bool) {
        let mut watches = lock(&self.watches);
        let (count, changes) =
            watches.entry(channel.to_vec()).or_insert_with(|| (0, watch::Sender::new(0)));
        *count += 1;
        (changes.subscribe(), *count == 1)
    }

    /// Counts a watch out; whether it was the last.
    pub(crate) fn remove_watch(&self, channel: &[u8]) -> bool {
        let mut watches = lock(&self.watches);
        let Some((count, _)) = watches.get_mut(channel) else { return false };
        *count -= 1;
        let last = *count == 0;
        if last {
            watches.remove(channel);
        }
        last
    }

    pub(crate) fn is_watched(&self, channel: &[u8]) -> bool {
        lock(&self.watches).contains_key(channel)
    }

    // ---- Messages.

    /// Passes a message on.
    pub(crate) fn hear(&self, push: &PushInfo) {
        if push.kind != PushKind::Message {
            return;
        }
        let [Value::BulkString(channel), Value::BulkString(message), ..] = &push.data[..] else {
            return;
        };
        if *channel != self.own_channel {
            if let Some((_, changes)) = lock(&self.watches).get(channel) {
                changes.send_modify(|count| *count += 1);
            }
            return;
        }
        let Some((what, operation)) =
            std::str::from_utf8(message).ok().and_then(|message| message.split_once(':'))
        else {
            return;
        };
        match what {
            "granted" => self.wake(operation, Wake::Now),
            "check" => self.wake(operation, Wake::Overdue),
            "broken" => {
                if let Some(lease) = lock(&self.holders).get(operation) {
                    lease.lose(Loss::Taken);
                }
            }
            _ => {}
        }
    }

    fn wake(&self, operation: &str, wake: Wake) {
        if let Some(waiter) = self.waiters.borrow().get(operation) {
            // An error means that it waits no longer.
            let _ = waiter.send(wake);
        }
    }

    /// Messages may have been missed: everybody is to look.
    pub(crate) fn wake_all(&self) {
        for waiter in self.waiters.borrow().values() {
            let _ = waiter.send(Wake::Now);
        }
        for (_, changes) in lock(&self.watches).values() {
            changes.send_modify(|count| *count += 1);
        }
    }
}

/// A place to be woken at, until it is dropped.
#[derive(Debug)]
pub(crate) struct Waiter {
    listeners: Arc<Listeners>,
    operation: String,
    wakes: mpsc::UnboundedReceiver<Wake>,
}

impl Waiter {
    pub(crate) async fn woken(&mut self) -> Wake {
        // The sender is removed by the drop alone.
        self.wakes.recv().await.unwrap_or(Wake::Now)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.listeners.waiters.send_modify(|waiters| drop(waiters.remove(&self.operation)));
    }
}

/// Nothing panics while one of these is locked, so it is whole even if poisoned.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
