//! What was granted, and how it is given back.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard};
use tooz_core::{FencingToken, Hold, Lease, Loss, Mode, OperationId, Release, Result, async_trait};

use crate::errors::Failure;
use crate::extras::Extras;
use crate::link::{Link, number};
use crate::names::{self, Prize};
use crate::session::Life;

/// The turn among the acquisitions of one coordinator: the server would let one session have a
/// named lock twice.
#[derive(Debug)]
pub(crate) enum Turn {
    Exclusive { _guard: OwnedRwLockWriteGuard<()> },
    Shared { _guard: OwnedRwLockReadGuard<()> },
}

/// A lock or a term that the server granted to one of our connections.
#[derive(Debug)]
pub(crate) struct MySqlHold {
    pub(crate) id: OperationId,
    pub(crate) prize: Prize,
    pub(crate) mode: Mode,
    token: FencingToken,
    lease: Lease,
    /// What holds it at the server.
    pub(crate) link: Link,
    life: Weak<Life>,
    turn: Mutex<Option<Turn>>,
}

/// What the server said.
pub(crate) struct Granted {
    pub(crate) token: u64,
    pub(crate) lease: Lease,
    pub(crate) link: Link,
}

impl MySqlHold {
    pub(crate) fn new(
        life: &Arc<Life>,
        (id, prize, mode): (OperationId, Prize, Mode),
        granted: Granted,
        turn: Turn,
    ) -> Arc<Self> {
        let hold = Arc::new(Self {
            id,
            prize,
            mode,
            token: FencingToken(granted.token),
            lease: granted.lease,
            link: granted.link,
            life: Arc::downgrade(life),
            turn: Mutex::new(Some(turn)),
        });
        life.add_hold(&hold);
        hold
    }

    /// The named lock that it is.
    fn named(&self) -> String {
        match self.mode {
            Mode::Exclusive => self.prize.sql(),
            Mode::Shared => names::reader(self.id),
        }
    }

    /// What frees the named lock alone, which needs no table; the row says whether it was held.
    fn freeing_alone(&self) -> String {
        format!("SELECT CAST(RELEASE_LOCK({}) AS SIGNED)", self.named())
    }

    /// The same, after the rows that say that it is held.
    pub(crate) fn freeing(&self, life: &Life) -> String {
        let mut sql = String::new();
        let id = names::literal(self.id.as_bytes());
        let tables =
            [("reader", self.mode == Mode::Shared), ("hold", !life.config.lock_delay.is_zero())];
        for (table, _) in tables.into_iter().filter(|(_, has_row)| *has_row) {
            // Writing to a string does not fail.
            let _ = write!(sql, "DELETE FROM {} WHERE operation={id};", life.table(table));
        }
        sql + &self.freeing_alone()
    }

    /// Whether a connection of its own holds it: one that had to wait for it.
    fn has_own_link(&self, life: &Life) -> bool {
        self.link.number != life.main.number
    }

    fn is_forgotten(&self) -> bool {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// It is over at the server: the next acquisition of ours has its turn.
    pub(crate) fn forget(&self) {
        let Some(life) = self.settle() else { return };
        if self.has_own_link(&life) && !self.link.is_dead() {
            let link = self.link.clone();
            tokio::spawn(async move { link.close().await });
        }
    }

    /// The same of what was given back, so that its connection holds nothing.
    fn forget_freed(&self) {
        let Some(life) = self.settle() else { return };
        if self.has_own_link(&life) && !self.link.is_dead() {
            Extras::give_back(&life, self.link.clone());
        }
    }

    fn settle(&self) -> Option<Arc<Life>> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner).take();
        let life = self.life.upgrade()?;
        life.remove_hold(self.id);
        Some(life)
    }

    /// It is not ours any more: what may be left of it at the server is ended.
    pub(crate) fn end(&self, loss: Loss) {
        if self.is_forgotten() {
            return;
        }
        self.lease.lose(loss);
        let Some(life) = self.life.upgrade() else { return };
        if self.has_own_link(&life) {
            life.abandon(&self.link);
        }
        self.forget();
    }
}

#[async_trait]
impl Hold for MySqlHold {
    fn token(&self) -> FencingToken {
        self.token
    }

    fn lease(&self) -> &Lease {
        &self.lease
    }

    async fn verify(&self) -> Result<bool> {
        if !self.lease.is_held() {
            return Ok(false);
        }
        let name = self.named();
        let ask = format!("SELECT CAST(IS_USED_LOCK({name})<=>CONNECTION_ID() AS SIGNED)");
        match self.link.urge(ask).await {
            Ok(rows) => Ok(number(&rows, 0) == Some(1)),
            // With its connection, it is lost, whatever the answer would have been.
            Err(_) if self.link.is_dead() => Ok(false),
            Err(failure) => Err(failure.into()),
        }
    }

    async fn release(&self) -> Result<Release> {
        let Some(life) = self.life.upgrade() else { return Ok(Release::WasLost) };
        if self.is_forgotten() {
            // The name may be held by another acquisition of ours by now.
            return Ok(Release::WasLost);
        }
        // The engine has ended the claim already when it gives back.
        if let Some(loss) = self.lease.loss().filter(|loss| *loss != Loss::GivenUp) {
            self.end(loss);
            return Ok(Release::WasLost);
        }
        let (all, alone) = (self.freeing(&life), self.freeing_alone());
        let mut freeing = match all == alone {
            true => self.link.urge(alone).await,
            false => self.link.change(&all).await,
        };
        if freeing.as_ref().is_err_and(Failure::is_busy) {
            // A table is locked. Without the lock, the rows of a shared holder count for nothing, and
            // the next waits as for one that did not give back.
            freeing = self.link.urge(self.freeing_alone()).await;
        }
        let freed = match freeing {
            Ok(rows) => number(&rows, 0) == Some(1),
            Err(_) if self.link.is_dead() => {
                self.end(Loss::SessionEnded);
                return Ok(Release::WasLost);
            }
            Err(failure) => return Err(failure.into()),
        };
        if freed {
            self.forget_freed();
            return Ok(Release::Released);
        }
        self.forget();
        Ok(Release::WasLost)
    }
}
