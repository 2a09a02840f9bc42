//! Elections.

use std::ops::Deref;

use crate::Result;
use crate::ownership::Ownership;

/// A term as the leader of a group, won with
/// [`Coordinator::campaign`](crate::Coordinator::campaign). Its methods are those of [`Ownership`];
/// dropping it resigns in the background.
///
/// ```
/// # tooz_core::blocking::block_on(async {
/// # let coordinator = tooz_memory::start("docs-leadership", "host-1").await?;
/// coordinator.join_group_create("workers", &()).await?;
/// let term = coordinator.campaign("workers").await?;
/// let answer = term.run(async { "led" }).await?;
/// assert_eq!(answer, "led");
/// term.resign().await?;
/// # Ok::<(), tooz_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
#[must_use = "dropping the leadership resigns"]
pub struct Leadership(Ownership);

impl Leadership {
    pub(crate) fn new(ownership: Ownership) -> Self {
        Self(ownership)
    }

    /// Ends the term, and waits until that is confirmed or the lease has ended.
    ///
    /// # Errors
    /// The same as those of [`LockGuard::release`](crate::LockGuard::release).
    ///
    /// # Cancellation
    /// If the future is dropped, the engine still finishes it.
    pub async fn resign(self) -> Result<()> {
        self.0.release("resign").await
    }

    /// An alias of [`resign`](Self::resign), by the original's name.
    pub async fn stand_down(self) -> Result<()> {
        self.resign().await
    }
}

impl Deref for Leadership {
    type Target = Ownership;

    fn deref(&self) -> &Ownership {
        &self.0
    }
}
