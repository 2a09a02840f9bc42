//! Locks.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use crate::handle::Handle;
use crate::ownership::{Ownership, Target};
use crate::{Feature, LockName, Mode, Result, Wait};

/// A lock, made by [`Coordinator::lock`](crate::Coordinator::lock).
///
/// Cheap to clone. Acquisitions never nest: while one is held, another by the same coordinator
/// waits as one of another process would.
///
/// # Errors
/// Acquiring fails as the [`Coordinator`](crate::Coordinator) says, never because somebody else
/// holds the lock.
///
/// # Cancellation
/// A dropped acquisition is cancelled; if it had been granted by then, it is released.
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

    /// Its name.
    pub fn name(&self) -> &LockName {
        &self.name
    }

    /// The same lock, whose guards stay for `time` at least, counted from the acquisition: a release
    /// before that waits for the rest of it, and a drop leaves the rest to the engine. For a job that
    /// many hosts start at a time of day: who comes a moment later, because its clock is behind,
    /// finds the lock held even if the job was done at once.
    ///
    /// It is this process that holds it meanwhile, and renews it. So the time is cut short by a loss,
    /// by the end of the process, and by a [stop](crate::Coordinator::stop), which waits for its
    /// [grace](crate::Builder::stop_grace) and no longer: a process that ends sooner than the time
    /// waits for [`release`](LockGuard::release) before. A coordinator whose last handle was dropped
    /// lives on until then.
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

    /// Acquires it, and waits as long as it takes.
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

    /// Acquires it if nobody holds it.
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

    /// Acquires it, or gives up after `time`.
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

    /// [`acquire`](Self::acquire) of a lock that stays [at least](Self::at_least) so long.
    pub async fn acquire_at_least(&self, time: Duration) -> Result<LockGuard> {
        self.clone().at_least(time).acquire().await
    }

    /// Acquires it together with other shared holders, and waits as long as it takes.
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

    /// Acquires it together with other shared holders, if no exclusive holder has it.
    pub async fn try_acquire_shared(&self) -> Result<Option<LockGuard>> {
        self.acquire_with(Mode::Shared, Wait::Try).await
    }

    /// Acquires it together with other shared holders, or gives up after `time`.
    pub async fn try_acquire_shared_for(&self, time: Duration) -> Result<Option<LockGuard>> {
        self.acquire_with(Mode::Shared, Wait::For(time)).await
    }

    /// Acquires it in a mode, waiting as told; `None` if the time was over before.
    pub async fn acquire_with(&self, mode: Mode, wait: Wait) -> Result<Option<LockGuard>> {
        if mode == Mode::Shared {
            self.handle.needs(Feature::SharedLocks, "acquire")?;
        }
        let target = Target::Lock(self.name.clone());
        let acquired = Ownership::acquire(self.handle.clone(), "acquire", target, mode, wait);
        Ok(acquired.await?.map(|ownership| LockGuard(ownership).stays_for(self.at_least)))
    }

    async fn forever(&self, mode: Mode) -> Result<LockGuard> {
        loop {
            // Forever ends with the lock or an error; None would be a driver that gave up early.
            if let Some(guard) = self.acquire_with(mode, Wait::Forever).await? {
                return Ok(guard);
            }
        }
    }

    /// Breaks the lock: whoever holds it loses it, and is told as soon as the backend can. Says
    /// whether anybody held it.
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

    /// Releases the lock, and waits until that is confirmed or its lease has ended. One that stays
    /// [at least](Lock::at_least) for a time is released when that is over.
    ///
    /// # Errors
    /// - [`LockLost`](crate::ErrorKind::LockLost) if it was lost before: what was done under it may
    ///   have overlapped with the work of the next holder.
    /// - [`NotRunning`](crate::ErrorKind::NotRunning) if the coordinator was stopped, and the grace
    ///   for its holders was over.
    /// - Another when the backend could not be told before the lease ended. The lock is free by then.
    ///
    /// # Cancellation
    /// The release goes on without the caller.
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
