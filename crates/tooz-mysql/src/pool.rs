//! The connections beside the main one: one for each acquisition that waits, and for what it then
//! holds. To open one takes far longer than to wait on it, with TLS more than ten times.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tooz_core::kit::locked;
use tooz_core::{Moment, Result};

use crate::client::Client;
use crate::connection::Connection;

/// How many that are not needed are kept for the next acquisition that waits.
const SPARE: usize = 4;

/// For how long, at most: the server ends those that are silent for longer than the timeout.
const KEPT: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Pool {
    kept: Duration,
    /// Those that nobody uses, each with when it was put here.
    spare: Mutex<Vec<(Moment, Connection)>>,
}

impl Pool {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { kept: KEPT.min(timeout / 4), spare: Mutex::default() }
    }

    /// A connection that nobody uses.
    pub(crate) async fn take(&self, client: &Client) -> Result<Connection> {
        let spare = || locked(&self.spare).pop();
        while let Some((since, connection)) = spare() {
            // Near its end, the task that waits for that has it already.
            if !connection.is_dead() && since.elapsed() < self.kept {
                return Ok(connection);
            }
        }
        client.main.beside().await
    }

    /// Puts back one that holds nothing and was not told to end a statement.
    pub(crate) fn put(self: &Arc<Self>, client: &Client, connection: Connection) {
        let (since, number) = (Moment::now(), connection.number);
        let mut spare = locked(&self.spare);
        if spare.len() >= SPARE || !client.is_open() {
            drop(spare);
            tokio::spawn(async move { connection.close().await });
            return;
        }
        spare.push((since, connection));
        drop(spare);
        let (this, lease) = (self.clone(), client.lease.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(this.kept) => {}
                // At a stop, the session closes them itself.
                _ = lease.lost() => {}
            }
            let found = {
                let mut spare = locked(&this.spare);
                // It may have been taken, and put back again, since.
                let index = spare.iter().position(|(at, c)| *at == since && c.number == number);
                index.map(|index| spare.swap_remove(index))
            };
            if let Some((_, connection)) = found {
                connection.close().await;
            }
        });
    }

    /// Closes all that are not in use.
    pub(crate) async fn clear(&self) {
        let spare = std::mem::take(&mut *locked(&self.spare));
        for (_, connection) in spare {
            connection.close().await;
        }
    }
}
