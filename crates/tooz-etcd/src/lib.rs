//! The driver of `tooz` for the v2 HTTP API of etcd: `etcd://`.
//!
//! It shares exclusive locks with the Python original's driver for that API, which had nothing else.
//! Everything is a key with a time to live; a waiter is woken by a long poll.
//!
//! The protocol is that of etcd's "Members API v2" documentation: keys with `prevExist`,
//! `prevValue`, `prevIndex`, `ttl`, `refresh` and `wait`. `docs/drivers/etcd.md` has the options,
//! the guarantees, the costs and the layout.

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
mod queue;
mod session;
mod shared;
mod state;

use tooz_core::{DriverEntry, Features, RunsOn};

/// The driver, for [`Registry::with`](tooz_core::Registry::with).
pub const DRIVER: DriverEntry = DriverEntry {
    name: "etcd",
    schemes: &["etcd"],
    characteristics: config::CHARACTERISTICS,
    features: Features::ALL,
    time_to_live: &["membership_timeout", "lock_timeout"],
    runs_on: RunsOn::Engine,
    open: driver::open,
};
