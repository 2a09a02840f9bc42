//! How long an acquisition may wait: what the user says, and what the driver obeys.

use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{Moment, Result};

/// How long to wait for a lock or a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wait {
    /// One attempt, without waiting for a holder.
    Try,
    /// At most this long.
    For(Duration),
    /// As long as it takes.
    Forever,
}

/// What an acquisition without a limit comes to: it ends with a grant or an error, since `None` would
/// mean that a driver gave up early.
pub(crate) async fn until_granted<T, A>(mut acquire: impl FnMut() -> A) -> Result<T>
where
    A: Future<Output = Result<Option<T>>>,
{
    loop {
        if let Some(granted) = acquire().await? {
            return Ok(granted);
        }
    }
}

impl Wait {
    /// What is left of it, for who acquires one thing after the other within one wait.
    pub(crate) fn left_since(self, began: Moment) -> Self {
        match self {
            Self::For(time) => Self::For(time.saturating_sub(began.elapsed())),
            Self::Try | Self::Forever => self,
        }
    }

    /// Whether it is one attempt.
    pub(crate) fn is_attempt(self) -> bool {
        matches!(self, Self::Try | Self::For(Duration::ZERO))
    }
}

/// How long an acquisition waits: until the caller gives up, its time is over, or the session is
/// lost.
#[derive(Clone, Debug)]
pub struct WaitLimit {
    until: Option<Moment>,
    given_up: CancellationToken,
}

impl WaitLimit {
    /// No waiting: one attempt.
    pub fn none() -> Self {
        Self::until(Some(Moment::now()), CancellationToken::new())
    }

    /// Waiting for at most `time`, for callers that use a driver without the engine.
    pub fn within(time: Duration) -> Self {
        Self::until(Some(Moment::now() + time), CancellationToken::new())
    }

    pub(crate) fn until(until: Option<Moment>, given_up: CancellationToken) -> Self {
        Self { until, given_up }
    }

    /// Whether the wait is over. An acquisition makes its first attempt even so.
    pub fn is_over(&self) -> bool {
        self.is_given_up() || self.until.is_some_and(Moment::has_passed)
    }

    /// Waits until the wait is over.
    pub async fn over(&self) {
        match self.until {
            None => self.given_up.cancelled().await,
            Some(until) => tokio::select! {
                () = self.given_up.cancelled() => {}
                () = until.wait() => {}
            },
        }
    }

    /// The time left, for backends that wait by themselves; `None` if there is no limit. The wait may
    /// be over earlier: then the backend's wait must end too.
    pub fn time_left(&self) -> Option<Duration> {
        self.until.map(Moment::remaining)
    }

    /// The same limit, but this one can be given up alone.
    pub(crate) fn child(&self) -> Self {
        Self::until(self.until, self.given_up.child_token())
    }

    pub(crate) fn give_up(&self) {
        self.given_up.cancel();
    }

    /// Gives up when the returned guard is dropped.
    pub(crate) fn give_up_on_drop(&self) -> DropGuard {
        self.given_up.clone().drop_guard()
    }

    pub(crate) async fn given_up(&self) {
        self.given_up.cancelled().await;
    }

    /// Whether it was given up, as opposed to its time being over.
    pub(crate) fn is_given_up(&self) -> bool {
        self.given_up.is_cancelled()
    }
}
