//! The memcached driver of `tooz`: `memcached://`.
//!
//! It shares locks and groups with the memcached driver of the Python original. What is ours is
//! known by its value and its CAS id, so that a renewal or a release touches nothing else. memcached
//! pushes nothing: a waiter looks again, more rarely the longer it waits; the coordinators of
//! one process wake each other.
//!
//! `docs/drivers/memcached.md` has the options, the guarantees, the costs and the layout.

mod client;
mod config;
mod connection;
// What weakens or forbids a server must be known before it is relied upon.
mod deployment;
mod driver;
mod election;
// What a run of the server is known by, and where its tokens begin.
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
// What members publish is carried unread, which no library does.
mod msgpack;
mod queue;
// The item of a group, which holds all its members.
mod roster;
mod session;
mod state;
// One look at a lock, which takes it if it may.
mod step;
// What the item of a lock holds.
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
