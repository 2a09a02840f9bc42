//! The Consul driver of `tooz`: `consul://` and `consul+https://`.
//!
//! It shares locks and groups with the Consul driver of the Python original. What belongs to a
//! coordinator is locked by its Consul session, which lives as long as a check of the local agent is
//! passed in time; each step is one transaction, and whoever waits is woken by a blocking query.
//!
//! `docs/drivers/consul.md` has the options, the guarantees, the costs and the layout.

mod agent;
mod api;
mod config;
mod driver;
mod election;
mod group;
mod heartbeat;
pub mod inspect;
mod keys;
mod lock;
mod lookout;
mod poll;
mod presence;
mod queue;
mod roll;
mod session;
mod shared;
mod token;
mod transaction;

use tooz_core::{Characteristic, Characteristics, DriverEntry, Features, RunsOn};

/// The driver, for [`Registry::with`](tooz_core::Registry::with).
pub const DRIVER: DriverEntry = DriverEntry {
    name: "consul",
    schemes: &["consul", "consul+https"],
    characteristics: Characteristics::of(&[
        Characteristic::DistributedAcrossThreads,
        Characteristic::DistributedAcrossProcesses,
        Characteristic::DistributedAcrossHosts,
        Characteristic::Linearizable,
        Characteristic::Sequential,
        Characteristic::Causal,
        Characteristic::Serializable,
    ]),
    features: Features::ALL,
    runs_on: RunsOn::Engine,
    open: driver::open,
};
