//! What is said in the namespace's channel, and who wants to hear it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Who is to be told, by what is said.
#[derive(Debug, Default)]
pub(crate) struct Listeners(Mutex<HashMap<String, (usize, watch::Sender<u64>)>>);

impl Listeners {
    pub(crate) fn listen(self: &Arc<Self>, to: String) -> Listener {
        let mut listeners = self.lock();
        let (count, sender) = listeners.entry(to.clone()).or_default();
        *count += 1;
        Listener { changes: sender.subscribe(), to, listeners: self.clone() }
    }

    /// Tells those who listen to it.
    pub(crate) fn tell(&self, said: &str) {
        if let Some((_, sender)) = self.lock().get(said) {
            sender.send_modify(|times| *times += 1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (usize, watch::Sender<u64>)>> {
        // Nothing panics while it is locked, so it is whole even if poisoned.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hears one thing, as often as it is said.
#[derive(Debug)]
pub(crate) struct Listener {
    listeners: Arc<Listeners>,
    to: String,
    changes: watch::Receiver<u64>,
}

impl Listener {
    /// What is said from here on ends [`heard`](Self::heard).
    pub(crate) fn mark(&mut self) {
        self.changes.mark_unchanged();
    }

    pub(crate) async fn heard(&mut self) {
        // The sender lives as long as its listeners.
        drop(self.changes.changed().await);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut listeners = self.listeners.lock();
        if let Some((count, _)) = listeners.get_mut(&self.to) {
            *count -= 1;
            if *count == 0 {
                listeners.remove(&self.to);
            }
        }
    }
}
