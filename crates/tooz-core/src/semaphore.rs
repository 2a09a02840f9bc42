//! Semaphores: a lock for each permit, and one more with which the waiters take turns.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tracing::debug;

use crate::handle::Handle;
use crate::wait::until_granted;
use crate::{
    Error, ErrorKind, Lock, LockGuard, LockName, Mode, Moment, OperationId, Ownership, Result, Wait,
};

/// A lock with several permits, which as many holders can have at once: made by
/// [`Coordinator::semaphore`](crate::Coordinator::semaphore).
///
/// Cheap to clone. Each permit is a slot: a number from 0 up that no other holder has at the same
/// time, good for choosing one of several ports, directories or licences. Each slot has fencing tokens
/// of its own, which rise from one holder to the next.
///
/// # How it works
/// A semaphore consists of locks, so every backend has it, with the guarantees of its locks. Slot `i`
/// of the semaphore `NAME` is the exclusive lock `semaphore.NAME.i`. A waiter first acquires the lock
/// `semaphore.NAME.turn`, and holds it while it waits for all slots at once. So the waiters get their
/// permits in the order in which the backend grants that lock.
///
/// An acquisition costs two acquisitions of locks, the turn and a slot, and their two releases; the
/// turn is released in the background. While no slot is free, the first waiter has asked for each
/// slot twice; on PostgreSQL and MySQL it has a connection for each slot.
///
/// [`try_acquire`](Self::try_acquire) only looks at the slots, one after another. It takes no turn, so
/// it can overtake the waiters in the short time in which a slot is free.
///
/// # Changing the number of permits
/// Callers may differ in the number while it is being changed: each takes slots below its own number.
/// Until the last slot at or above the smaller number has been released, there may be as many holders
/// as the larger number says. While a caller with the smaller number is the first waiter, slots that
/// only those behind it may take stay free.
///
/// # Errors
/// Acquiring fails as described at [`Coordinator`](crate::Coordinator), never because others have the
/// permits.
///
/// # Cancellation
/// A dropped acquisition is cancelled; what it had been granted by then is released.
///
/// ```
/// # tooz_core::blocking::block_on(async {
/// # let coordinator = tooz_memory::start("docs-semaphore", "host-1").await?;
/// let gpus = coordinator.semaphore("gpu", 2)?;
/// let (one, two) = (gpus.acquire().await?, gpus.acquire().await?);
/// println!("works on GPU {} with the token {}", one.slot(), one.fencing_token());
/// assert_ne!(one.slot(), two.slot());
/// assert!(gpus.try_acquire().await?.is_none());
/// one.release().await?;
/// # Ok::<(), tooz_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct Semaphore {
    handle: Arc<Handle>,
    name: LockName,
    permits: u32,
    at_least: Duration,
}

impl Semaphore {
    /// The largest number of permits: the first waiter waits for that many locks.
    pub const MAX_PERMITS: u32 = 256;

    pub(crate) fn new(handle: Arc<Handle>, name: LockName, permits: u32) -> Result<Self> {
        let name = name.checked()?;
        if !(1..=Self::MAX_PERMITS).contains(&permits) {
            let right = format!("a semaphore has 1 to {} permits", Self::MAX_PERMITS);
            return Err(Error::invalid(right).with("semaphore", name).with("permits", permits));
        }
        Ok(Self { handle, name, permits, at_least: Duration::ZERO })
    }

    /// Its name.
    pub fn name(&self) -> &LockName {
        &self.name
    }

    /// How many holders it has at once.
    pub fn permits(&self) -> u32 {
        self.permits
    }

    /// The same semaphore, but each permit is held for at least `time`: see [`Lock::at_least`].
    #[must_use]
    pub fn at_least(mut self, time: Duration) -> Self {
        self.at_least = time;
        self
    }

    /// Acquires a permit, and waits as long as it takes.
    pub async fn acquire(&self) -> Result<Permit> {
        until_granted(|| self.acquire_with(Wait::Forever)).await
    }

    /// Acquires a permit if one is free. It does not wait, and may overtake the waiters.
    pub async fn try_acquire(&self) -> Result<Option<Permit>> {
        self.acquire_with(Wait::Try).await
    }

    /// Acquires a permit, or gives up after `time`.
    pub async fn try_acquire_for(&self, time: Duration) -> Result<Option<Permit>> {
        self.acquire_with(Wait::For(time)).await
    }

    /// Acquires a permit, waiting as told; `None` if the time was over before.
    pub async fn acquire_with(&self, wait: Wait) -> Result<Option<Permit>> {
        let semaphore = self.clone();
        let taking = Box::pin(async move { semaphore.take(wait).await });
        let stays = |Permit { guard, slot }| Permit { guard: guard.stays_for(self.at_least), slot };
        Ok(self.handle.while_awaited(taking).await?.map(stays))
    }

    // ---- On the engine.

    async fn take(&self, wait: Wait) -> Result<Option<Permit>> {
        if wait.is_attempt() {
            return self.take_free().await;
        }
        let began = Moment::now();
        let turns = self.lock("turn");
        loop {
            let turn = turns.acquire_with(Mode::Exclusive, wait.left_since(began)).await?;
            let Some(turn) = turn else { return Ok(None) };
            // Dropping the turn releases it in the background: the permit does not depend on it.
            tokio::select! {
                biased;
                permit = self.take_in_turn(wait, began) => return permit,
                loss = turn.lost() => debug!(semaphore = %self.name, %loss, "back in the queue"),
            }
        }
    }

    /// What is free, or else what is released first.
    async fn take_in_turn(&self, wait: Wait, began: Moment) -> Result<Option<Permit>> {
        if let Some(permit) = self.take_free().await? {
            return Ok(Some(permit));
        }
        // Dropped, it cancels the others and releases what they were granted.
        let mut waiting = JoinSet::new();
        for slot in 0..self.permits {
            let (lock, wait) = (self.lock(slot), wait.left_since(began));
            waiting.spawn(async move { (slot, lock.acquire_with(Mode::Exclusive, wait).await) });
        }
        while let Some(ended) = waiting.join_next().await {
            let panicked = |e| Error::new(ErrorKind::Internal, "the wait for a slot").caused_by(e);
            let (slot, acquired) = ended.map_err(panicked)?;
            if let Some(guard) = acquired? {
                return Ok(Some(Permit { guard, slot }));
            }
        }
        Ok(None)
    }

    /// The first free slot after one at random, so that not all look at the same.
    async fn take_free(&self) -> Result<Option<Permit>> {
        let [first, ..] = *OperationId::random().as_bytes();
        for slot in (0..self.permits).map(|n| (u32::from(first) + n) % self.permits) {
            if let Some(guard) = self.lock(slot).try_acquire().await? {
                return Ok(Some(Permit { guard, slot }));
            }
        }
        Ok(None)
    }

    fn lock(&self, part: impl fmt::Display) -> Lock {
        let name = [b"semaphore.", self.name.as_bytes(), format!(".{part}").as_bytes()].concat();
        Lock::new(self.handle.clone(), name.into())
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore")
            .field("name", &self.name)
            .field("permits", &self.permits)
            .finish_non_exhaustive()
    }
}

/// A permit of a [`Semaphore`] that is held. Its methods are those of [`Ownership`]; dropping it
/// releases it in the background.
#[derive(Debug)]
#[must_use = "dropping the permit releases it"]
pub struct Permit {
    guard: LockGuard,
    slot: u32,
}

impl Permit {
    /// Its slot: from 0, and below the number of permits. No other holder has the same one.
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// Releases it, and waits until that is confirmed or its lease has ended.
    ///
    /// # Errors
    /// The same as those of [`LockGuard::release`].
    ///
    /// # Cancellation
    /// The release goes on without the caller.
    pub async fn release(self) -> Result<()> {
        self.guard.release().await
    }
}

impl Deref for Permit {
    type Target = Ownership;

    fn deref(&self) -> &Ownership {
        &self.guard
    }
}
