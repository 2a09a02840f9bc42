//! How long to wait between attempts.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use crate::Moment;

/// The pauses between attempts of the same thing: they double up to a limit, and each is shortened
/// at random by up to half.
///
/// The default starts at 20 ms and ends at 2 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    first: Duration,
    longest: Duration,
}

impl RetryPolicy {
    /// Pauses from `first` up to `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first: first.max(Duration::from_millis(1)), longest: longest.max(first) }
    }

    /// The pauses, from the first.
    pub fn backoff(&self) -> Backoff {
        // Jitter adds at most as much again.
        let pauses = ExponentialBuilder::new()
            .with_min_delay(self.first / 2)
            .with_max_delay(self.longest / 2)
            .with_jitter()
            .without_max_times()
            .build();
        Backoff { pauses, longest: self.longest }
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::new(Duration::from_millis(20), Duration::from_secs(2))
    }
}

/// The pauses between one series of attempts: see [`RetryPolicy::backoff`].
#[derive(Debug)]
pub struct Backoff {
    pauses: ExponentialBackoff,
    longest: Duration,
}

impl Backoff {
    /// How long the next pause is.
    pub fn next_pause(&mut self) -> Duration {
        self.pauses.next().unwrap_or(self.longest)
    }

    /// Waits for the next pause to pass.
    pub async fn pause(&mut self) {
        tokio::time::sleep(self.next_pause()).await;
    }

    /// A pause that leaves time for an attempt before `until`.
    pub(crate) async fn pause_before(&mut self, until: Moment) {
        tokio::time::sleep(self.next_pause().min(share_of(until.remaining()))).await;
    }

    /// The moment of the next attempt at something that must succeed before `until`.
    pub(crate) fn moment_before(&mut self, until: Moment) -> Moment {
        Moment::now() + self.next_pause().min(share_of(until.remaining()))
    }
}

/// How much of the remaining time a pause may take, so that a backend that recovers in time is asked
/// in time.
fn share_of(left: Duration) -> Duration {
    (left / 4).max(Duration::from_millis(5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_end_at_the_longest() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_millis(350));
        let mut backoff = RetryPolicy::new(first, longest).backoff();
        for most in [first, first * 2, longest, longest] {
            let pause = backoff.next_pause();
            assert!(pause >= most / 2 && pause <= most, "{pause:?} of {most:?}");
        }
    }
}
