//! What was granted, and its release.

use std::fmt::Write as _;
use std::sync::Arc;

use tooz_core::kit::locked;
use tooz_core::{FencingToken, Hold, Lease, Loss, Mode, Release, Result, async_trait};

use crate::connection::number;
use crate::errors::Failure;
use crate::keys;
use crate::state::{Grant, State};

/// A lock or a term that is ours.
#[derive(Debug)]
pub(crate) struct MySqlHold {
    pub(crate) state: Arc<State>,
    pub(crate) grant: Arc<Grant>,
}

impl MySqlHold {
    /// Frees the named lock alone, which needs no table; the row says whether it was held.
    fn free_alone(&self) -> String {
        let name = self.grant.keys.held(self.grant.mode, self.grant.id);
        format!("SELECT CAST(RELEASE_LOCK({name}) AS SIGNED)")
    }

    /// The same, after the rows that say that it is held.
    pub(crate) fn free(&self) -> String {
        let mut sql = String::new();
        let id = keys::literal(self.grant.id.as_bytes());
        let tables = [
            ("reader", self.grant.mode == Mode::Shared),
            ("hold", !self.state.config.lock_delay.is_zero()),
        ];
        for (table, _) in tables.into_iter().filter(|(_, has_row)| *has_row) {
            // Writing to a string does not fail.
            let _ = write!(sql, "DELETE FROM {} WHERE operation={id};", self.state.table(table));
        }
        sql + &self.free_alone()
    }

    fn is_over(&self) -> bool {
        locked(&self.grant.turn).is_none()
    }

    /// It is over at the server: the next acquisition of ours has its turn. Whether it leaves a
    /// connection of its own behind.
    fn finish(&self) -> bool {
        locked(&self.grant.turn).take();
        self.state.grants.remove(&self.grant.id);
        self.state.is_own(&self.grant.connection) && !self.grant.connection.is_dead()
    }

    /// It is over at the server, and its connection is not to be used again.
    pub(crate) fn finish_and_close(&self) {
        if self.finish() {
            let connection = self.grant.connection.clone();
            tokio::spawn(async move { connection.close().await });
        }
    }

    /// It is lost: what may be left of it at the server is ended.
    pub(crate) fn end(&self, loss: Loss) {
        if self.is_over() {
            return;
        }
        self.grant.lease.lose(loss);
        if self.state.is_own(&self.grant.connection) {
            self.grant.connection.abandon();
        }
        self.finish_and_close();
    }
}

#[async_trait]
impl Hold for MySqlHold {
    fn token(&self) -> FencingToken {
        self.grant.token
    }

    fn lease(&self) -> &Lease {
        &self.grant.lease
    }

    async fn verify(&self) -> Result<bool> {
        if !self.grant.lease.is_held() {
            return Ok(false);
        }
        let ask = self.grant.keys.is_held(self.grant.mode, self.grant.id);
        match self.grant.connection.urge(ask).await {
            Ok(rows) => Ok(number(&rows, 0) == Some(1)),
            // With its connection, it is lost, whatever the answer would have been.
            Err(_) if self.grant.connection.is_dead() => Ok(false),
            Err(failure) => Err(failure.into()),
        }
    }

    async fn release(&self) -> Result<Release> {
        if self.is_over() {
            // The name may be held by another acquisition of ours by now.
            return Ok(Release::WasLost);
        }
        // The engine has ended the ownership already when it releases.
        if let Some(loss) = self.grant.lease.loss().filter(|loss| *loss != Loss::GivenUp) {
            self.end(loss);
            return Ok(Release::WasLost);
        }
        let connection = &self.grant.connection;
        let (all, alone) = (self.free(), self.free_alone());
        let mut freed = match all == alone {
            true => connection.urge(alone).await,
            false => connection.change(&all).await,
        };
        if freed.as_ref().is_err_and(Failure::is_busy) {
            // A table is locked. Without the lock, the rows of a shared holder count for nothing, and
            // the next waits as for one that did not release.
            freed = connection.urge(self.free_alone()).await;
        }
        match freed {
            Ok(rows) if number(&rows, 0) == Some(1) => {
                if self.finish() {
                    // It holds nothing.
                    self.state.pool.put(&self.state.client, connection.clone());
                }
                Ok(Release::Released)
            }
            Ok(_) => {
                self.finish_and_close();
                Ok(Release::WasLost)
            }
            Err(_) if connection.is_dead() => {
                self.end(Loss::SessionEnded);
                Ok(Release::WasLost)
            }
            Err(failure) => Err(failure.into()),
        }
    }
}
