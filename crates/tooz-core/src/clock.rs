//! A clock that runs while the machine sleeps and never jumps.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A point on the monotonic clock that ownership is judged by.
///
/// On Linux it is `CLOCK_BOOTTIME`: while a machine is suspended, its leases expire at the server, so
/// they must expire here too, and [`std::time::Instant`] would stand still. Elsewhere it is `Instant`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(Duration);

impl Moment {
    /// Now.
    pub fn now() -> Self {
        Self(since_boot())
    }

    /// The time from now until this moment; zero if it is past.
    pub fn remaining(self) -> Duration {
        self.0.saturating_sub(since_boot())
    }

    /// The time from this moment until now; zero if it is in the future.
    pub fn elapsed(self) -> Duration {
        since_boot().saturating_sub(self.0)
    }

    /// Whether this moment is past, or now.
    pub fn has_passed(self) -> bool {
        self.0 <= since_boot()
    }

    /// Waits until this moment. Dropping the future is safe. Inside the engine only.
    pub async fn wait(self) {
        // Timers follow a clock that stops in suspension, so look again after each.
        loop {
            match self.remaining() {
                Duration::ZERO => return,
                remaining => tokio::time::sleep(remaining).await,
            }
        }
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time))
    }
}

impl Sub<Duration> for Moment {
    type Output = Self;

    fn sub(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(time))
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn since_boot() -> Duration {
    use nix::time::{ClockId, clock_gettime};
    // The call fails only for a clock that the kernel does not have, and each has this one.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or_else(|_| since_start(), Duration::from)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn since_boot() -> Duration {
    since_start()
}

fn since_start() -> Duration {
    use std::sync::LazyLock;
    use std::time::Instant;
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises() {
        let before = Moment::now();
        assert!(before.has_passed());
        assert!(!(before + Duration::from_secs(60)).has_passed());
        assert!((before + Duration::from_secs(60)).remaining() > Duration::from_secs(59));
    }
}
