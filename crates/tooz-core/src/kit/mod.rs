//! What drivers are built from: small parts, one for each idea that several drivers need.
//!
//! A driver takes what it can use and writes the rest itself; nothing here knows a backend or
//! prescribes a structure. What a session was granted is not part of it: that is a
//! [`Lease`](crate::Lease), or a [child](crate::Lease::child) of one, which ends with the session by
//! itself.

mod bounded;
mod cancel;
mod cause;
mod goodbye;
mod in_flight;
mod pem;
mod random;
mod reconnecting;
mod table;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use bounded::{Bounded, Follow};
pub use cancel::cancel_until_gone;
pub use cause::find_cause;
pub use goodbye::goodbye;
pub use in_flight::{InFlight, Underway};
pub use pem::{PemFile, PemFiles, PemOptions};
pub use random::random_part;
pub use reconnecting::{Current, Reconnecting};
pub use table::Table;

pub use crate::retry::Backoff;

/// Locks a mutex, even one that a panic has poisoned: for data that is consistent between any two
/// statements that change it.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
