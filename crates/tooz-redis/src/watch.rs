//! A watch of a channel, for as long as somebody wants it.

use std::sync::Arc;

use tokio::sync::watch;
use tooz_core::{Moment, Result};

use crate::state::State;

/// Wakes whenever something may have changed.
pub(crate) struct Watch {
    // Dropped first: the subscription ends with the last of its receivers.
    changes: watch::Receiver<()>,
    subscription: Subscription,
}

/// Ends when it is dropped, unless others watch the channel.
struct Subscription {
    state: Arc<State>,
    channel: Vec<u8>,
}

impl Watch {
    pub(crate) async fn open(state: &Arc<State>, channel: Vec<u8>) -> Result<Self> {
        let _subscribing = state.subscribing.lock().await;
        let known = state.watches.get(&channel);
        let is_first = known.is_none();
        let changes = known.unwrap_or_default();
        let subscription = Subscription { state: state.clone(), channel };
        let watch = Self { changes: changes.subscribe(), subscription };
        if is_first {
            let channel = &watch.subscription.channel;
            state.watches.insert(channel.clone(), changes);
            state.client.subscribe(channel).await?;
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
            // The sender is in the table as long as there is a receiver.
            _ = self.changes.changed() => {}
            () = until.wait() => {}
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let (state, channel) = (self.state.clone(), std::mem::take(&mut self.channel));
        tokio::spawn(async move {
            let _subscribing = state.subscribing.lock().await;
            if state.watches.remove_if(&channel, |changes| changes.receiver_count() == 0).is_none()
            {
                return;
            }
            if let Err(error) = state.client.unsubscribe(&channel).await {
                tracing::debug!(%error, "could not unsubscribe, which does no harm");
            }
        });
    }
}
