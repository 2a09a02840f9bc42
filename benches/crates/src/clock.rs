//! The clock that all processes of a machine share.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::protocol::nanos;

/// This moment, in nanoseconds.
pub(crate) fn now() -> u64 {
    // The monotonic clock begins with the machine, so it is never negative.
    nanos(Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default())
}

/// Waits until a moment of [`now`].
pub(crate) async fn wait_for(moment: u64) {
    tokio::time::sleep(Duration::from_nanos(moment.saturating_sub(now()))).await;
}

/// Holds a lock for so long. It blocks the caller's main task: the runtime's own timer would make two
/// milliseconds of one.
pub(crate) fn hold_for(time: Duration) {
    std::thread::sleep(time);
}
