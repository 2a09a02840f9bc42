//! The connections beside that of the session: one for each acquisition that waits, and for what
//! it then holds.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tooz_core::{Moment, Result};

use crate::config::Config;
use crate::connection::{Connection, Purpose};

/// How many that are not needed are kept for the next who waits, for a short while.
const SPARE: usize = 4;

#[derive(Debug)]
pub(crate) struct Extras {
    config: Arc<Config>,
    name: String,
    spare: Mutex<Vec<Arc<Connection>>>,
}

impl Extras {
    pub(crate) fn new(config: Arc<Config>, name: String) -> Self {
        Self { config, name, spare: Mutex::default() }
    }

    /// A connection that nobody uses. Dropping the future leaves nothing behind.
    pub(crate) async fn take(&self, main: &Connection) -> Result<Arc<Connection>> {
        let spare = || self.spare().pop();
        while let Some(connection) = spare() {
            if !connection.has_ended() {
                return Ok(connection);
            }
        }
        let purpose = Purpose::Beside(main);
        let (connection, _) = Connection::open(&self.config, &self.name, purpose).await?;
        connection.set_up(&self.config, Some(main), Duration::ZERO).await?;
        Ok(Arc::new(connection))
    }

    /// Gives back one that holds nothing.
    pub(crate) fn give_back(&self, connection: Arc<Connection>) {
        let mut spare = self.spare();
        if spare.len() < SPARE && !connection.has_ended() {
            spare.push(connection);
        }
    }

    /// Closes those that nobody has used since then.
    pub(crate) fn trim(&self, since: Moment) {
        self.spare().retain(|connection| connection.idle_since() > since);
    }

    /// Closes all that are not in use.
    pub(crate) fn clear(&self) {
        self.spare().clear();
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Arc<Connection>>> {
        // Nothing panics while it is locked, so it is whole even if poisoned.
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
