//! The memcached driver of `tooz`: `memcached://`.
//!
//! It shares locks and groups with the memcached driver of the Python original. What is ours is
//! known by its value and its CAS id, so that a renewal or a release touches nothing else. memcached
//! pushes nothing: whoever waits looks again, more rarely the longer it waits; the coordinators of
//! one process wake each other.
//!
//! `docs/drivers/memcached.md` has the options, the guarantees, the costs and the layout.

mod config;
mod connection;
mod deployment;
mod driver;
mod election;
mod epoch;
mod errors;
mod group;
mod heartbeat;
mod hold;
pub mod inspect;
mod keys;
mod life;
mod link;
mod list;
mod local;
mod lock;
mod msgpack;
mod queue;
mod roster;
mod session;
mod step;
#[cfg(feature = "tls")]
mod tls;
mod value;
mod watch;
mod wire;

use tooz_core::{Characteristic, Characteristics, DriverEntry, Features, RunsOn};

/// The driver, for [`Registry::with`](tooz_core::Registry::with).
pub const DRIVER: DriverEntry = DriverEntry {
    name: "memcached",
    schemes: &["memcached"],
    characteristics: Characteristics::of(&[
        Characteristic::DistributedAcrossThreads,
        Characteristic::DistributedAcrossProcesses,
        Characteristic::DistributedAcrossHosts,
        Characteristic::Causal,
    ]),
    features: Features::ALL,
    runs_on: RunsOn::Engine,
    open: driver::open,
};
