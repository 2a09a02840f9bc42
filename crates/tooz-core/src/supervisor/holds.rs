//! Releasing what is held.

use tracing::debug;

use super::Supervisor;
use super::run::Run;
use crate::{ErrorKind, Hold, Loss, Moment, Outcome, Release, Result};

impl Supervisor {
    /// Releases a lock or a term; repeats that until it is confirmed or the lease has surely ended.
    pub(crate) async fn release(&self, run: &Run, hold: &dyn Hold) -> Result<Release> {
        let lease = hold.lease();
        let lost = lease.loss().is_some_and(|loss| loss != Loss::GivenUp);
        lease.lose(Loss::GivenUp);
        let deadline = lease.deadline();
        // Whether an earlier request, made while it was ours, may have been carried out.
        let mut unheard = false;
        let end = lease.ends_at_backend();
        let mut backoff = self.settings.retry.backoff();
        loop {
            let ours = !deadline.is_some_and(Moment::has_passed);
            match hold.release().await {
                Ok(_) if lost => return Ok(Release::WasLost),
                // The first request did it, and its answer was lost.
                Ok(Release::WasLost) if unheard => return Ok(Release::Released),
                Ok(release) => return Ok(release),
                Err(error) if error.kind() == ErrorKind::SessionLost => {
                    return Ok(Release::WasLost);
                }
                Err(error)
                    if !error.is_retryable()
                        || end.is_some_and(Moment::has_passed)
                        || run.is_abandoned() =>
                {
                    return Err(error);
                }
                Err(error) => {
                    debug!(backend = self.entry.name, %error, "releasing again");
                    unheard |= ours && error.outcome() == Outcome::Unknown;
                }
            }
            let pause = async {
                match end {
                    Some(end) => backoff.pause_before(end).await,
                    None => backoff.pause().await,
                }
            };
            tokio::select! {
                () = pause => {}
                () = run.abandoned() => {}
            }
        }
    }
}
