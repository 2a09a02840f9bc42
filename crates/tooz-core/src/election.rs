//! Elections.

use std::ops::Deref;

use crate::tenure::Tenure;
use crate::{Release, Result};

/// A term as the leader of a group, made by
/// [`Coordinator::campaign`](crate::Coordinator::campaign). Its methods are those of [`Tenure`];
/// dropping it stands down in the background.
///
/// ```
/// # tooz_core::blocking::block_on(async {
/// # let coordinator = tooz_memory::start("docs-leadership", "host-1").await?;
/// coordinator.join_group_create("workers", &()).await?;
/// let term = coordinator.campaign("workers").await?;
/// let answer = term.run(async { "led" }).await?;
/// assert_eq!(answer, "led");
/// term.stand_down().await?;
/// # Ok::<(), tooz_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
#[must_use = "dropping the leadership stands down"]
pub struct Leadership(Tenure);

impl Leadership {
    pub(crate) fn new(tenure: Tenure) -> Self {
        Self(tenure)
    }

    /// Ends the term, and waits until that is confirmed or its lease has ended.
    ///
    /// # Errors
    /// When the backend could not be told before the lease ended. The term is over by then.
    ///
    /// # Cancellation
    /// It goes on without the caller.
    pub async fn stand_down(self) -> Result<Release> {
        self.0.give_back("stand_down").await
    }
}

impl Deref for Leadership {
    type Target = Tenure;

    fn deref(&self) -> &Tenure {
        &self.0
    }
}
