//! The PostgreSQL driver of `tooz`: `postgresql://` and `postgres://`.
//!
//! Locks are advisory locks of sessions, which the server's own lock manager queues; groups and
//! leaders are rows that count as long as the session of their member holds an advisory lock. Each
//! coordinator has one connection of its own, and one more for each acquisition that waits.
//!
//! `docs/drivers/postgresql.md` has the options, the guarantees, the costs and the layout.

mod breaking;
mod config;
mod connection;
mod connector;
mod delay;
mod driver;
mod election;
mod errors;
mod extras;
mod group;
mod heartbeat;
pub mod inspect;
mod keys;
mod listeners;
mod lock;
mod memberships;
mod names;
mod pooler;
mod rows;
mod schema;
mod session;
mod settle;
mod tables;
mod tls;
mod watch;

pub use schema::SCHEMA;
use tooz_core::{Characteristic, Characteristics, DriverEntry, Features, RunsOn};

/// The driver, for [`Registry::with`](tooz_core::Registry::with).
pub const DRIVER: DriverEntry = DriverEntry {
    name: "postgresql",
    schemes: &["postgresql", "postgres"],
    characteristics: Characteristics::of(&[
        Characteristic::DistributedAcrossThreads,
        Characteristic::DistributedAcrossProcesses,
        Characteristic::DistributedAcrossHosts,
        Characteristic::Linearizable,
        Characteristic::Sequential,
        Characteristic::Causal,
    ]),
    features: Features::ALL,
    runs_on: RunsOn::Engine,
    open: driver::open,
};
