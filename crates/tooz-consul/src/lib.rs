//! The Consul driver of `tooz`: `consul://` and `consul+https://`.
//!
//! It shares locks and groups with the Consul driver of the Python original. Everything that belongs
//! to a coordinator is locked by its Consul session, which lives as long as the driver passes a check
//! of the local agent in time; each step is one transaction, and a blocking query wakes a waiter.
//!
//! `docs/drivers/consul.md` has the options, the guarantees, the costs and the layout.

mod client;
mod config;
mod connection;
mod driver;
mod election;
mod errors;
mod group;
mod heartbeat;
mod hold;
#[doc(hidden)]
pub mod inspect;
mod keys;
mod lock;
// Blocking queries that all coordinators of a process share: an agent accepts few connections.
mod poll;
// The sessions at the servers and the check at the agent, by which a coordinator lives.
mod presence;
mod queue;
mod session;
mod shared;
mod state;
// The token, which may be in a file that somebody changes.
mod token;
// Transactions, which are how everything is changed and most is read.
mod transaction;
mod watch;
// What is shared within the process as long as anybody uses it.
mod weak_table;

use tooz_core::{DriverEntry, Features, RunsOn};

/// The driver, for [`Registry::with`](tooz_core::Registry::with).
pub const DRIVER: DriverEntry = DriverEntry {
    name: "consul",
    schemes: &["consul", "consul+https"],
    characteristics: config::CHARACTERISTICS,
    features: Features::ALL,
    time_to_live: &["ttl"],
    runs_on: RunsOn::Engine,
    open: driver::open,
};
