//! The etcd v3 driver of `tooz` over gRPC: `etcd3://`, with TLS if certificates are named.
//!
//! It shares locks and groups with the etcd drivers of the Python original. The driver itself is in
//! `tooz-etcd3-core`, which it shares with the driver over the JSON gateway; this crate is the
//! transport.
//!
//! `docs/drivers/etcd3.md` has the options, the guarantees, the costs and the layout.

mod config;
mod connection;
// Our transactions as the protocol's messages.
mod convert;
mod driver;
mod errors;
#[doc(hidden)]
pub mod inspect;

/// Made from `proto/etcd.proto`: see `tests/generated.rs`.
mod proto {
    #![allow(
        clippy::all,
        missing_docs,
        rust_2018_idioms,
        unreachable_pub,
        reason = "the generator's own style"
    )]
    include!("generated.rs");
}

use tooz_core::{DriverEntry, Features, RunsOn};

/// The driver, for [`Registry::with`](tooz_core::Registry::with).
pub const DRIVER: DriverEntry = DriverEntry {
    name: "etcd3",
    schemes: &["etcd3"],
    characteristics: tooz_etcd3_core::CHARACTERISTICS,
    features: Features::ALL,
    time_to_live: &["membership_timeout", "lock_timeout"],
    runs_on: RunsOn::Engine,
    open: driver::open,
};
