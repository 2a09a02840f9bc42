//! The MySQL and MariaDB driver of `tooz`: `mysql://`.
//!
//! Locks are the server's named locks, like those of the MySQL driver of the Python original, which
//! they exclude. Everything that a coordinator holds ends with its session at the server. Groups and
//! fencing tokens are rows of a few small tables.
//!
//! `docs/drivers/mysql.md` has the options, the guarantees, the costs and the layout.

// A holder is told by a row, because the server lets nobody else free its lock.
mod break_lock;
mod client;
mod config;
mod connection;
// A socket, TLS and the login: the parts of a connection.
mod connector;
// The option lock_delay, for locks and terms alike.
mod delay;
// Which server takes writes, and proxies and clusters, which can make every lock worthless.
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
// Through a second connection, the session learns at once of the first one's end and of its losses.
mod listener;
// The server would let one session have a named lock twice: acquisitions are kept apart here.
mod local;
mod lock;
mod pool;
mod queue;
// The tables: their creation, their version, and from when the server may grant.
mod schema;
mod session;
mod shared;
mod state;

use tooz_core::{DriverEntry, Features, RunsOn};

pub use crate::schema::SCHEMA;

/// The driver, for [`Registry::with`](tooz_core::Registry::with).
pub const DRIVER: DriverEntry = DriverEntry {
    name: "mysql",
    schemes: &["mysql"],
    characteristics: config::CHARACTERISTICS,
    features: Features::ALL,
    time_to_live: &["timeout"],
    runs_on: RunsOn::Engine,
    open: driver::open,
};
