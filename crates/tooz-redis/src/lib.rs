//! The Redis and Valkey driver of `tooz`: `redis://` and `rediss://`.
//!
//! It shares locks and groups with the Redis driver of the Python original. Everything that changes
//! something is one script on the server, which can be repeated under its operation id; whoever
//! waits is woken by a push on the session's one connection.
//!
//! `docs/drivers/redis.md` has the options, the guarantees, the costs and the layout.

// Limits the size of an answer: the client library accepts any size.
mod answers;
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
// Each change is one script on the server.
mod scripts;
// What a server says about itself decides what it may grant.
mod server;
mod session;
mod state;
mod watch;

use tooz_core::{DriverEntry, Features, RunsOn};

/// The driver, for [`Registry::with`](tooz_core::Registry::with).
pub const DRIVER: DriverEntry = DriverEntry {
    name: "redis",
    schemes: &["redis", "rediss"],
    characteristics: config::CHARACTERISTICS,
    features: Features::ALL,
    time_to_live: &["membership_timeout", "lock_timeout"],
    runs_on: RunsOn::Engine,
    open: driver::open,
};
