//! What was granted, and how it is given back.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard};
use tooz_core::{FencingToken, Hold, Lease, Loss, Mode, OperationId, Release, Result, async_trait};

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

    /// What frees it; the last row says whether it was held.
    pub(crate) fn freeing(&self, life: &Life) -> String {
        match self.mode {
            Mode::Exclusive => format!("SELECT CAST(RELEASE_LOCK({}) AS SIGNED)", self.prize.sql()),
            Mode::Shared => format!(
                "DELETE FROM {} WHERE operation={};SELECT CAST(RELEASE_LOCK({}) AS SIGNED)",
                life.table("reader"),
                names::literal(self.id.as_bytes()),
                names::reader(self.id),
            ),
        }
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
        let name = match self.mode {
            Mode::Exclusive => self.prize.sql(),
            Mode::Shared => names::reader(self.id),
        };
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
        let freeing = self.freeing(&life);
        let freeing = match self.mode {
            Mode::Exclusive => self.link.urge(freeing).await,
            Mode::Shared => self.link.change(&freeing).await,
        };
        let freed = match freeing {
            Ok(rows) => number(&rows, 0) == Some(1),
            Err(_) if self.link.is_dead() => {
                self.end(Loss::SessionEnded);
                return Ok(Release::WasLost);
            }
            // The row counts for nothing without the lock, which needs no table.
            Err(failure) if failure.is_busy() && self.mode == Mode::Shared => {
                let own = names::reader(self.id);
                let sql = format!("SELECT CAST(RELEASE_LOCK({own}) AS SIGNED)");
                number(&self.link.urge(sql).await?, 0) == Some(1)
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
