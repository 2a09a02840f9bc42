//! The MySQL and MariaDB driver of `tooz`: `mysql://`.
//!
//! Locks are the server's named locks, as of the MySQL driver of the Python original, which they
//! exclude. Everything that a coordinator holds ends with its session at the server. Groups and
//! fencing tokens are rows of a few small tables.
//!
//! `docs/drivers/mysql.md` has the options, the guarantees, the costs and the layout.

mod break_lock;
mod config;
mod connection;
mod delay;
mod driver;
mod election;
mod errors;
mod extras;
mod group;
mod hold;
pub mod inspect;
mod link;
mod listen;
mod lock;
mod names;
mod schema;
mod session;
mod shared;
mod wait;

use tooz_core::{Characteristic, Characteristics, DriverEntry, Features, RunsOn};

pub use crate::schema::SCHEMA;

/// The driver, for [`Registry::with`](tooz_core::Registry::with).
pub const DRIVER: DriverEntry = DriverEntry {
    name: "mysql",
    schemes: &["mysql"],
    characteristics: Characteristics::of(&[
        Characteristic::DistributedAcrossThreads,
        Characteristic::DistributedAcrossProcesses,
        Characteristic::DistributedAcrossHosts,
        Characteristic::Linearizable,
    ]),
    features: Features::ALL,
    runs_on: RunsOn::Engine,
    open: driver::open,
};
