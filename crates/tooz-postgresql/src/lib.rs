//! The PostgreSQL driver of `tooz`: `postgresql://` and `postgres://`.
//!
//! Locks are advisory locks of sessions, which the server's own lock manager queues; groups and
//! leaders are rows that count as long as the session of their member holds an advisory lock. Each
//! coordinator has one connection of its own, and one more for each acquisition that waits.
//!
//! `docs/drivers/postgresql.md` has the options, the guarantees, the costs and the layout.

// How large an answer may be.
mod answers;
// A holder is asked to release, because the server lets nobody else free its lock.
mod break_lock;
// The messages of NOTIFY, and who listens for them.
mod channel;
mod client;
mod config;
mod connection;
// A socket, TLS and the login: the parts of a connection.
mod connector;
// The option lock_delay, for locks and terms alike.
mod delay;
// Poolers, which can make every lock worthless.
mod deployment;
mod driver;
mod election;
mod errors;
mod group;
mod heartbeat;
mod hold;
#[doc(hidden)]
pub mod inspect;
mod keys;
// To the server, all acquisitions on one connection are the same one: they are kept apart here.
mod local;
mod lock;
mod pool;
// The tables: their creation, their version, and since when the server grants.
mod schema;
mod session;
mod state;
mod tls;
mod watch;

pub use schema::SCHEMA;
use tooz_core::{DriverEntry, Features, RunsOn};

/// The driver, for [`Registry::with`](tooz_core::Registry::with).
pub const DRIVER: DriverEntry = DriverEntry {
    name: "postgresql",
    schemes: &["postgresql", "postgres"],
    characteristics: config::CHARACTERISTICS,
    features: Features::ALL,
    time_to_live: &["timeout"],
    runs_on: RunsOn::Engine,
    open: driver::open,
};
