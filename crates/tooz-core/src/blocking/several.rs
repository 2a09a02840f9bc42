//! Semaphores, and several locks at once.

use std::time::{Duration, Instant};

use super::block_on;
use crate::{FencingToken, LockName, Loss, Mode, Result, Wait};

/// [`Semaphore`](crate::Semaphore), blocking.
///
/// ```
/// # use tooz_core::{Registry, blocking};
/// # let registry = Registry::new().with(tooz_memory::DRIVER)?;
/// # let builder = registry.builder("memory://docs-blocking-several", "host-1")?;
/// # let coordinator = blocking::Coordinator::connect(builder)?;
/// let permit = coordinator.semaphore("gpu", 4)?.acquire()?;
/// println!("works on GPU {}", permit.slot());
/// permit.release()?;
///
/// let accounts = coordinator.lock_all(["account-7", "account-3"])?.acquire()?;
/// accounts.run(|| println!("moves money"))?;
/// accounts.release()?;
/// # Ok::<(), tooz_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Semaphore(pub(super) crate::Semaphore);

/// [`Permit`](crate::Permit), blocking. Dropping it releases it in the background.
#[derive(Debug)]
#[must_use = "dropping the permit releases it"]
pub struct Permit(pub(super) crate::Permit);

/// [`LockSet`](crate::LockSet), blocking.
#[derive(Clone, Debug)]
pub struct LockSet(pub(super) crate::LockSet);

/// [`LockSetGuard`](crate::LockSetGuard), blocking. Dropping it releases the locks in the background.
#[derive(Debug)]
#[must_use = "dropping the guard releases the locks"]
pub struct LockSetGuard(crate::LockSetGuard);

impl Semaphore {
    /// The semaphore itself.
    pub fn asynchronous(&self) -> &crate::Semaphore {
        &self.0
    }

    /// The same semaphore, but each permit is held for at least `time`: see
    /// [`Lock::at_least`](crate::Lock::at_least).
    #[must_use]
    pub fn at_least(self, time: Duration) -> Self {
        Self(self.0.at_least(time))
    }

    /// Acquires a permit, and waits as long as it takes.
    pub fn acquire(&self) -> Result<Permit> {
        block_on(self.0.acquire()).map(Permit)
    }

    /// Acquires a permit if one is free.
    pub fn try_acquire(&self) -> Result<Option<Permit>> {
        self.acquire_with(Wait::Try)
    }

    /// Acquires a permit, or gives up after `time`.
    pub fn try_acquire_for(&self, time: Duration) -> Result<Option<Permit>> {
        self.acquire_with(Wait::For(time))
    }

    /// Acquires a permit, waiting as told; `None` if the time was over before.
    pub fn acquire_with(&self, wait: Wait) -> Result<Option<Permit>> {
        Ok(block_on(self.0.acquire_with(wait))?.map(Permit))
    }
}

impl Permit {
    /// Which of the slots it is: from 0, below the number of permits.
    pub fn slot(&self) -> u32 {
        self.0.slot()
    }

    /// Releases it, and waits until that is confirmed or its lease has ended.
    ///
    /// # Errors
    /// The same as those of [`LockGuard::release`](crate::LockGuard::release).
    pub fn release(self) -> Result<()> {
        block_on(self.0.release())
    }
}

impl LockSet {
    /// The set itself.
    pub fn asynchronous(&self) -> &crate::LockSet {
        &self.0
    }

    /// The same locks, but held for at least `time`: see [`Lock::at_least`](crate::Lock::at_least).
    #[must_use]
    pub fn at_least(self, time: Duration) -> Self {
        Self(self.0.at_least(time))
    }

    /// Acquires all of them, and waits as long as it takes.
    pub fn acquire(&self) -> Result<LockSetGuard> {
        block_on(self.0.acquire()).map(LockSetGuard)
    }

    /// Acquires all of them if nobody holds any.
    pub fn try_acquire(&self) -> Result<Option<LockSetGuard>> {
        self.acquire_with(Mode::Exclusive, Wait::Try)
    }

    /// Acquires all of them, or gives up after `time` and holds none.
    pub fn try_acquire_for(&self, time: Duration) -> Result<Option<LockSetGuard>> {
        self.acquire_with(Mode::Exclusive, Wait::For(time))
    }

    /// Acquires all of them in a mode, waiting as told; `None` if the time was over before.
    pub fn acquire_with(&self, mode: Mode, wait: Wait) -> Result<Option<LockSetGuard>> {
        Ok(block_on(self.0.acquire_with(mode, wait))?.map(LockSetGuard))
    }
}

impl LockSetGuard {
    /// The token of each lock, in the order of the names as they were given.
    pub fn fencing_tokens(&self) -> impl Iterator<Item = (&LockName, FencingToken)> {
        self.0.fencing_tokens()
    }

    /// The earliest deadline of a lock.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.deadline()
    }

    /// Which lock is lost, if one is, and why. Looks at the clock, and does not block.
    pub fn loss(&self) -> Option<(&LockName, Loss)> {
        self.0.loss()
    }

    /// Succeeds while all are held. Looks at the clock, and does not block.
    ///
    /// # Errors
    /// The same as those of [`LockSetGuard::check`](crate::LockSetGuard::check).
    pub fn check(&self) -> Result<()> {
        self.0.check()
    }

    /// Asks the backend whether all are still ours.
    ///
    /// # Errors
    /// The same as those of [`LockSetGuard::verify`](crate::LockSetGuard::verify).
    pub fn verify(&self) -> Result<bool> {
        block_on(self.0.verify())
    }

    /// Waits until one is lost, and tells which.
    pub fn lost(&self) -> (&LockName, Loss) {
        block_on(self.0.lost())
    }

    /// Waits until the deadline of one is nearer than `time`, or one is lost.
    pub fn expires_within(&self, time: Duration) {
        block_on(self.0.expires_within(time));
    }

    /// Runs `work` if all are held, and succeeds if they were held to the end: see
    /// [`LockGuard::run`](super::LockGuard::run).
    ///
    /// # Errors
    /// The same as those of [`check`](Self::check). What `work` has done stays done.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
        self.check()?;
        let done = work();
        self.check()?;
        Ok(done)
    }

    /// Releases all of them, and waits until that is confirmed or their leases have ended.
    ///
    /// # Errors
    /// The same as those of [`LockSetGuard::release`](crate::LockSetGuard::release).
    pub fn release(self) -> Result<()> {
        block_on(self.0.release())
    }
}
