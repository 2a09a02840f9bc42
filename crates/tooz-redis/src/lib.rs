//! The Redis and Valkey driver of `tooz`: `redis://` and `rediss://`.
//!
//! It shares locks and groups with the Redis driver of the Python original. Everything that changes
//! something is one script on the server, which can be repeated under its operation id; whoever
//! waits is woken by a push on the session's one connection.
//!
//! `docs/drivers/redis.md` has the options, the guarantees, the costs and the layout.

mod answers;
mod config;
mod connection;
mod driver;
mod election;
mod errors;
mod group;
mod heartbeat;
pub mod inspect;
mod keys;
mod link;
mod lock;
mod push;
mod restart;
mod scripts;
mod session;
#[cfg(feature = "tls")]
mod tls;
mod watch;

use tooz_core::{Characteristic, Characteristics, DriverEntry, Features, RunsOn};

/// The driver, for [`Registry::with`](tooz_core::Registry::with).
pub const DRIVER: DriverEntry = DriverEntry {
    name: "redis",
    schemes: &["redis", "rediss"],
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
