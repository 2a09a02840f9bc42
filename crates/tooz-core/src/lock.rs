//! Locks.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use crate::handle::Handle;
use crate::ownership::{Ownership, Target};
use crate::wait::until_granted;
use crate::{Feature, LockName, Mode, Result, Wait};

/// A lock, made by [`Coordinator::lock`](crate::Coordinator::lock).
///
/// Cheap to clone. Acquisitions never nest: while the lock is held, another acquisition by the same
/// coordinator waits as one of another process would.
///
/// # Errors
/// Acquiring fails with the errors of the [`Coordinator`](crate::Coordinator), never because
/// somebody else holds the lock.
///
/// # Cancellation
/// A dropped acquisition is cancelled, or released if it was granted by then.
#[derive(Clone)]
pub struct Lock {
    handle: Arc<Handle>,
    name: LockName,
    at_least: Duration,
}

impl Lock {
    pub(crate) fn new(handle: Arc<Handle>, name: LockName) -> Self {
        Self { handle, name, at_least: Duration::ZERO }
    }

    /// The lock's name.
    pub fn name(&self) -> &LockName {
        &self.name
    }

    /// The same lock, but held for at least `time` from each acquisition: an earlier release waits
    /// for the rest of the time, and an earlier drop leaves the rest to the engine. It is for a job
    /// that many hosts start at the same time of day: a host that comes a moment later, because its
    /// clock is behind, finds the lock held even if the job took no time at all.
    ///
    /// Meanwhile this process holds and renews the lock. So the time is cut short by a loss, by the
    /// end of the process, and by a [stop](crate::Coordinator::stop), which waits no longer than its
    /// [grace](crate::Builder::stop_grace): a process that ends earlier must wait for
    /// [`release`](LockGuard::release) first. A coordinator whose last handle was dropped lives on
    /// until the time is over.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # tooz_core::blocking::block_on(async {
    /// # let coordinator = tooz_memory::start("docs-at-least", "host-1").await?;
    /// let nightly = coordinator.lock("nightly")?.at_least(Duration::from_millis(50));
    /// if let Some(guard) = nightly.try_acquire().await? {
    ///     drop(guard); // the job is done already
    ///     assert!(nightly.try_acquire().await?.is_none());
    /// }
    /// # Ok::<(), tooz_core::Error>(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn at_least(mut self, time: Duration) -> Self {
        self.at_least = time;
        self
    }

    /// Acquires the lock, and waits as long as it takes.
    ///
    /// ```
    /// # tooz_core::blocking::block_on(async {
    /// # let coordinator = tooz_memory::start("docs-acquire", "host-1").await?;
    /// let guard = coordinator.lock("inventory")?.acquire().await?;
    /// println!("send {} with every write", guard.fencing_token());
    /// guard.check()?;
    /// guard.release().await?;
    /// # Ok::<(), tooz_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn acquire(&self) -> Result<LockGuard> {
        self.forever(Mode::Exclusive).await
    }

    /// Acquires the lock if nobody holds it.
    ///
    /// ```
    /// # tooz_core::blocking::block_on(async {
    /// # let coordinator = tooz_memory::start("docs-try-acquire", "host-1").await?;
    /// let lock = coordinator.lock("inventory")?;
    /// if let Some(guard) = lock.try_acquire().await? {
    ///     assert!(lock.try_acquire().await?.is_none());
    ///     guard.release().await?;
    /// }
    /// # Ok::<(), tooz_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn try_acquire(&self) -> Result<Option<LockGuard>> {
        self.acquire_with(Mode::Exclusive, Wait::Try).await
    }

    /// Acquires the lock, or gives up after `time`.
    ///
    /// ```
    /// # tooz_core::blocking::block_on(async {
    /// # let coordinator = tooz_memory::start("docs-try-acquire-for", "host-1").await?;
    /// let lock = coordinator.lock("inventory")?;
    /// let guard = lock.try_acquire_for(std::time::Duration::from_secs(1)).await?;
    /// assert!(guard.is_some());
    /// # Ok::<(), tooz_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn try_acquire_for(&self, time: Duration) -> Result<Option<LockGuard>> {
        self.acquire_with(Mode::Exclusive, Wait::For(time)).await
    }

    /// [`acquire`](Self::acquire), holding the lock [at least](Self::at_least) that long.
    pub async fn acquire_at_least(&self, time: Duration) -> Result<LockGuard> {
        self.clone().at_least(time).acquire().await
    }

    /// Acquires the lock together with other shared holders, and waits as long as it takes.
    ///
    /// ```
    /// # tooz_core::blocking::block_on(async {
    /// # let coordinator = tooz_memory::start("docs-acquire-shared", "host-1").await?;
    /// let lock = coordinator.lock("inventory")?;
    /// let reader = lock.acquire_shared().await?;
    /// let another = lock.acquire_shared().await?;
    /// assert!(lock.try_acquire().await?.is_none());
    /// # Ok::<(), tooz_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn acquire_shared(&self) -> Result<LockGuard> {
        self.forever(Mode::Shared).await
    }

    /// Acquires the lock together with other shared holders, if no exclusive holder has it.
    pub async fn try_acquire_shared(&self) -> Result<Option<LockGuard>> {
        self.acquire_with(Mode::Shared, Wait::Try).await
    }

    /// Acquires the lock together with other shared holders, or gives up after `time`.
    pub async fn try_acquire_shared_for(&self, time: Duration) -> Result<Option<LockGuard>> {
        self.acquire_with(Mode::Shared, Wait::For(time)).await
    }

    /// Acquires the lock in a mode, and waits for as long as `wait` says; `None` if that time ended
    /// without the lock.
    pub async fn acquire_with(&self, mode: Mode, wait: Wait) -> Result<Option<LockGuard>> {
        if mode == Mode::Shared {
            self.handle.needs(Feature::SharedLocks, "acquire")?;
        }
        let target = Target::Lock(self.name.clone());
        let acquired = Ownership::acquire(self.handle.clone(), "acquire", target, mode, wait);
        Ok(acquired.await?.map(|ownership| LockGuard(ownership).stays_for(self.at_least)))
    }

    async fn forever(&self, mode: Mode) -> Result<LockGuard> {
        until_granted(|| self.acquire_with(mode, Wait::Forever)).await
    }

    /// Breaks the lock: whoever holds it loses it, and learns of it as soon as the backend can tell.
    /// Returns whether anybody held it.
    ///
    /// # Errors
    /// The same as those of the [`Coordinator`](crate::Coordinator).
    ///
    /// ```
    /// # tooz_core::blocking::block_on(async {
    /// # let coordinator = tooz_memory::start("docs-break-lock", "host-1").await?;
    /// let lock = coordinator.lock("inventory")?;
    /// let guard = lock.acquire().await?;
    /// assert!(lock.break_lock().await?);
    /// assert!(guard.check().is_err());
    /// # Ok::<(), tooz_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn break_lock(&self) -> Result<bool> {
        self.handle.needs(Feature::BreakLock, "break_lock")?;
        let broken = self.handle.call("break_lock", self.name.clone(), |session, name| {
            Ok(session.require_locks()?.break_lock(name))
        });
        broken.await
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A lock that is held. Its methods are those of [`Ownership`]; dropping it releases the lock in the
/// background.
#[derive(Debug)]
#[must_use = "dropping the guard releases the lock"]
pub struct LockGuard(Ownership);

impl LockGuard {
    pub(crate) fn stays_for(mut self, time: Duration) -> Self {
        self.0.stays_for(time);
        self
    }

    /// Releases the lock, and waits until the release is confirmed or the lease has ended. A lock that
    /// is to be held [at least](Lock::at_least) for a time is released when that time is over.
    ///
    /// # Errors
    /// - [`LockLost`](crate::ErrorKind::LockLost) if it was lost before: what was done under it may
    ///   have overlapped with the work of the next holder.
    /// - [`NotRunning`](crate::ErrorKind::NotRunning) if the coordinator was stopped, and the grace
    ///   for its holders was over.
    /// - Another one if the backend could not be reached before the lease ended. The lock is free by
    ///   then.
    ///
    /// # Cancellation
    /// If the future is dropped, the engine still finishes the release.
    pub async fn release(self) -> Result<()> {
        self.0.release("release").await
    }
}

impl Deref for LockGuard {
    type Target = Ownership;

    fn deref(&self) -> &Ownership {
        &self.0
    }
}
