//! The etcd v3 driver of `tooz` over the JSON gateway: `etcd3+http://` and `etcd3+https://`.
//!
//! It shares locks and groups with the Python original's driver of this name. The driver itself is
//! in `tooz-etcd3-core`, which it shares with the driver over gRPC; this crate is the transport.
//!
//! `docs/drivers/etcd3.md` has the options, the guarantees, the costs and the layout.

mod config;
mod connection;
mod driver;
mod errors;
#[doc(hidden)]
pub mod inspect;
// Our transactions as the gateway's JSON.
mod json;

use tooz_core::{DriverEntry, Features, RunsOn};

/// The driver, for [`Registry::with`](tooz_core::Registry::with).
pub const DRIVER: DriverEntry = DriverEntry {
    name: "etcd3-http",
    schemes: &["etcd3+http", "etcd3+https"],
    characteristics: tooz_etcd3_core::CHARACTERISTICS,
    features: Features::ALL,
    time_to_live: &["membership_timeout", "lock_timeout"],
    runs_on: RunsOn::Engine,
    open: driver::open,
};
