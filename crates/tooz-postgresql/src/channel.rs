//! The namespace's channel: what sessions tell each other, and who wants to hear it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::{OnceCell, watch};
use tokio_postgres::types::Type;
use tooz_core::kit::locked;
use tooz_core::{Outcome, Result};

use crate::connection::Connection;

#[derive(Debug)]
pub(crate) struct Channel {
    name: String,
    /// Whether the connection listens to it.
    listening: OnceCell<()>,
    /// How many wait for a message, and how they are told, by the message.
    listeners: Mutex<HashMap<String, (usize, watch::Sender<u64>)>>,
}

impl Channel {
    pub(crate) fn new(name: String) -> Self {
        Self { name, listening: OnceCell::new(), listeners: Mutex::default() }
    }

    /// Makes the connection listen from here on. A message wakes every session of the
    /// database that listens, so none does before it has to.
    pub(crate) async fn listen(&self, connection: &Connection) -> Result<()> {
        let listen = || async {
            let listen = format!("LISTEN {}", self.name);
            connection.script(&listen).await.map_err(|e| e.outcome_is(Outcome::NotApplied))
        };
        self.listening.get_or_try_init(listen).await.map(drop)
    }

    pub(crate) async fn send(&self, connection: &Connection, message: &str) -> Result<()> {
        let parameters = [(&self.name as _, Type::TEXT), (&message as _, Type::TEXT)];
        connection.ask("SELECT pg_notify($1, $2)", &parameters).await.map(drop)
    }

    /// Waits for one message, once the connection [listens](Self::listen).
    pub(crate) fn listener(self: &Arc<Self>, message: String) -> Listener {
        let mut listeners = locked(&self.listeners);
        let (count, sender) = listeners.entry(message.clone()).or_default();
        *count += 1;
        Listener { changes: sender.subscribe(), message, channel: self.clone() }
    }

    /// A message came.
    pub(crate) fn on_message(&self, message: &str) {
        if let Some((_, sender)) = locked(&self.listeners).get(message) {
            sender.send_modify(|times| *times += 1);
        }
    }
}

/// Hears one message, as often as it is sent.
#[derive(Debug)]
pub(crate) struct Listener {
    channel: Arc<Channel>,
    message: String,
    changes: watch::Receiver<u64>,
}

impl Listener {
    /// What is sent from here on ends [`heard`](Self::heard).
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
        let mut listeners = locked(&self.channel.listeners);
        if let Some((count, _)) = listeners.get_mut(&self.message) {
            *count -= 1;
            if *count == 0 {
                listeners.remove(&self.message);
            }
        }
    }
}
