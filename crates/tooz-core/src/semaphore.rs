//! Semaphores: a lock for each permit, and one by which those who wait take turns.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tracing::debug;

use crate::handle::Handle;
use crate::{
    Error, ErrorKind, Lock, LockGuard, LockName, Mode, Moment, OperationId, Ownership, Result, Wait,
};

/// A lock that several holders have at once, up to a number of permits: made by
/// [`Coordinator::semaphore`](crate::Coordinator::semaphore).
///
/// Cheap to clone. Each permit is a slot, a number from 0 on, which nobody else has at the same time:
/// good for choosing one of so many ports, directories or licences. It has a fencing token of its
/// own, which rises with each holder of that slot.
///
/// # How it is made
/// Of locks alone, so every backend has it, with the guarantees of its locks. Slot `i` of the
/// semaphore `NAME` is the exclusive lock `semaphore.NAME.i`. Who waits holds the lock
/// `semaphore.NAME.turn` meanwhile: so those who wait come in the order in which the backend grants
/// that lock, and one of them at a time waits for the slots, for all of them at once.
///
/// It costs two acquisitions, of the turn and of a slot, and their two releases, of which the first
/// is in the background. Where no slot is free, the one in front asks for each slot twice; on
/// PostgreSQL and MySQL it has a connection for each slot while it waits.
///
/// [`try_acquire`](Self::try_acquire) looks at the slots alone, one after the other. It never waits
/// for a turn, so it can overtake those who wait, in the short time in which a slot is free.
///
/// # Another number of permits
/// Callers may differ in the number while it is being changed: each takes slots below its own. Until
/// the last holder of a slot at or above the smaller number has released it, there may be as many
/// holders as the larger number says. While one with the smaller number is in front, a slot that only
/// those behind it may take stays free.
///
/// # Errors
/// Acquiring fails as the [`Coordinator`](crate::Coordinator) says, never because others have the
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
    /// The largest number of permits: who waits in front waits for as many locks.
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

    /// The same semaphore, whose permits stay for `time` at least: see [`Lock::at_least`].
    #[must_use]
    pub fn at_least(mut self, time: Duration) -> Self {
        self.at_least = time;
        self
    }

    /// Acquires a permit, and waits as long as it takes.
    pub async fn acquire(&self) -> Result<Permit> {
        loop {
            // Forever ends with a permit or an error; None would be a driver that gave up early.
            if let Some(permit) = self.acquire_with(Wait::Forever).await? {
                return Ok(permit);
            }
        }
    }

    /// Acquires a permit if one is free. It waits for nobody, and may overtake those who wait.
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
    /// Which of the slots it is: from 0, below the number of permits. No other holder has the same.
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
