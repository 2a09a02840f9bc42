//! A watch of a channel, for as long as somebody wants it.

use std::sync::Arc;

use tokio::sync::watch;
use tooz_core::{Moment, Result};

use crate::session::Life;

/// Wakes whenever something may have changed; unsubscribes when dropped.
pub(crate) struct Watch {
    life: Arc<Life>,
    channel: Vec<u8>,
    changes: watch::Receiver<u64>,
}

impl Watch {
    pub(crate) async fn open(life: &Arc<Life>, channel: Vec<u8>) -> Result<Self> {
        let _subscribing = life.subscribing.lock().await;
        let (changes, first) = life.listeners.add_watch(&channel);
        let watch = Self { life: life.clone(), channel, changes };
        if first {
            life.link.subscribe(&watch.channel).await?;
        }
        Ok(watch)
    }

    /// What changes from here on wakes [`changed`](Self::changed).
    pub(crate) fn mark(&mut self) {
        self.changes.mark_unchanged();
    }

    /// Waits for a change, or until that moment.
    pub(crate) async fn changed(&mut self, until: Moment) {
        tokio::select! {
            // The sender lives as long as the watch.
            _ = self.changes.changed() => {}
            () = until.wait() => {}
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.life.listeners.remove_watch(&self.channel) {
            return;
        }
        let (life, channel) = (self.life.clone(), std::mem::take(&mut self.channel));
        tokio::spawn(async move {
            let _subscribing = life.subscribing.lock().await;
            if life.listeners.is_watched(&channel) {
                return;
            }
            if let Err(error) = life.link.unsubscribe(&channel).await {
                tracing::debug!(%error, "still subscribed, to no effect");
            }
        });
    }
}
