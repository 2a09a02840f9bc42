//! The connections beside the main one: one for each acquisition that waits, and for what it then
//! holds.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tooz_core::kit::locked;
use tooz_core::{Moment, Result};

use crate::client::Client;
use crate::connection::Connection;

/// How many that are not needed are kept for the next acquisition that waits, for a short while.
const SPARE: usize = 4;

#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<Vec<Arc<Connection>>>);

impl Pool {
    /// A connection that nobody uses. Dropping the future leaves nothing behind.
    pub(crate) async fn take(&self, client: &Client) -> Result<Arc<Connection>> {
        let spare = || locked(&self.0).pop();
        while let Some(connection) = spare() {
            if !connection.has_ended() {
                return Ok(connection);
            }
        }
        client.beside(Duration::ZERO).await
    }

    /// Puts back one that holds nothing.
    pub(crate) fn put(&self, connection: Arc<Connection>) {
        let mut spare = locked(&self.0);
        if spare.len() < SPARE && !connection.has_ended() {
            spare.push(connection);
        }
    }

    /// Closes those that nobody has used since then.
    pub(crate) fn trim(&self, since: Moment) {
        locked(&self.0).retain(|connection| connection.idle_since() > since);
    }

    /// Closes all that are not in use.
    pub(crate) fn clear(&self) {
        locked(&self.0).clear();
    }
}
