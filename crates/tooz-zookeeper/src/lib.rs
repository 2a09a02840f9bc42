//! The ZooKeeper driver of `tooz`: `zookeeper://` and `kazoo://`.
//!
//! It shares locks, groups and leaders with the ZooKeeper driver of the Python original. What a
//! coordinator holds are ephemeral nodes of its session; whoever waits or watches is woken by a
//! watch on the one node that matters to it.
//!
//! `docs/drivers/zookeeper.md` has the options, the guarantees, the costs and the layout.

mod config;
mod connection;
mod driver;
mod election;
mod errors;
mod group;
pub mod inspect;
mod link;
mod lock;
mod paths;
mod pool;
mod queue;
mod session;
mod tls;
mod watch;

use tooz_core::{Characteristic, Characteristics, DriverEntry, Features, RunsOn};

/// The driver, for [`Registry::with`](tooz_core::Registry::with).
pub const DRIVER: DriverEntry = DriverEntry {
    name: "zookeeper",
    schemes: &["zookeeper", "kazoo"],
    characteristics: Characteristics::of(&[
        Characteristic::DistributedAcrossThreads,
        Characteristic::DistributedAcrossProcesses,
        Characteristic::DistributedAcrossHosts,
        Characteristic::Sequential,
    ]),
    features: Features::ALL,
    runs_on: RunsOn::Engine,
    open: driver::open,
};
