//! The ZooKeeper driver of `tooz`: `zookeeper://` and `kazoo://`.
//!
//! It shares locks, groups and leaders with the ZooKeeper driver of the Python original. Everything
//! that a coordinator holds is an ephemeral node of its session; a waiter or a watcher is woken by a
//! watch on the one node that matters to it.
//!
//! `docs/drivers/zookeeper.md` has the options, the guarantees, the costs and the layout.

mod client;
mod config;
mod connection;
mod driver;
mod election;
mod errors;
mod group;
mod hold;
#[doc(hidden)]
pub mod inspect;
mod keys;
mod lock;
mod pool;
mod queue;
mod session;
mod state;
#[cfg(feature = "tls")]
mod tls;
mod watch;

use tooz_core::{DriverEntry, Features, RunsOn};

/// The driver, for [`Registry::with`](tooz_core::Registry::with).
pub const DRIVER: DriverEntry = DriverEntry {
    name: "zookeeper",
    schemes: &["zookeeper", "kazoo"],
    characteristics: config::CHARACTERISTICS,
    features: Features::ALL,
    time_to_live: &["timeout"],
    runs_on: RunsOn::Engine,
    open: driver::open,
};
