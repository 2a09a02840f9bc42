//! The clock that all processes of a machine share.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tooz_benches::protocol::nanos;

/// This moment, in nanoseconds.
pub(crate) fn now() -> u64 {
    // The monotonic clock is always there.
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    nanos(time)
}

/// Waits until a moment of [`now`].
pub(super) async fn wait_for(moment: u64) {
    tokio::time::sleep(Duration::from_nanos(moment.saturating_sub(now()))).await;
}

/// Holds a lock for so long. It blocks the caller's main task: the runtime's own timer would make two
/// milliseconds of one.
pub(super) fn hold_for(time: Duration) {
    std::thread::sleep(time);
}
