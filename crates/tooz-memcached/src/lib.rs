//! The memcached driver of `tooz`: `memcached://`.
//!
//! It shares locks and groups with the memcached driver of the Python original. Our own items are
//! recognised by value and CAS id, so a renewal or a release touches nothing else. memcached
//! pushes nothing: a waiter looks again, at growing intervals; the coordinators of
//! one process wake each other.
//!
//! `docs/drivers/memcached.md` has the options, the guarantees, the costs and the layout.

mod client;
mod config;
mod connection;
// Facts that weaken or forbid a server must be known before we rely on it.
mod deployment;
mod driver;
mod election;
// How a run of the server is recognised, and where its tokens begin.
mod epoch;
mod errors;
mod group;
mod heartbeat;
mod hold;
#[doc(hidden)]
pub mod inspect;
mod keys;
// The list of groups, an index in one item.
mod list;
// What the coordinators of this process tell each other, because the server tells nobody.
mod local;
mod lock;
// Capabilities are passed through undecoded, which no library does.
mod msgpack;
mod queue;
// The item of a group, which contains all its members.
mod roster;
mod session;
mod state;
// One look at a lock, which takes the lock if it may.
mod step;
// The content of a lock's item.
mod value;
// The text protocol: no maintained client speaks the meta commands.
mod wire;

use tooz_core::{DriverEntry, Features, RunsOn};

/// The driver, for [`Registry::with`](tooz_core::Registry::with).
pub const DRIVER: DriverEntry = DriverEntry {
    name: "memcached",
    schemes: &["memcached"],
    characteristics: config::CHARACTERISTICS,
    features: Features::ALL,
    time_to_live: &["membership_timeout", "lock_timeout", "leader_timeout"],
    runs_on: RunsOn::Engine,
    open: driver::open,
};
