//! What the etcd v3 drivers of `tooz` share, which is all but the way to the server.
//!
//! A driver crate supplies a [`Connector`] and its [`Transport`]s: gRPC or the JSON gateway. Keys,
//! transactions, the queue of waiters, leases, watches, groups and elections are here, once.
//!
//! Everything that changes something is one transaction, which can be repeated: a lock's value and
//! a waiter's key are the operation's own id, so that a repetition sees what the first has done.
//!
//! `docs/drivers/etcd3.md` has the options, the guarantees, the costs and the layout.

mod client;
mod config;
mod driver;
mod election;
mod failure;
mod group;
mod heartbeat;
mod hold;
pub mod inspect;
mod keys;
mod lock;
mod session;
mod transport;

pub use config::{Config, Defaults, Endpoint, Layout, Pem, Tls};
pub use driver::open;
pub use failure::{Failure, code};
pub use transport::{
    Attached, Compare, Connector, Event, Events, KeyValue, Op, Order, Range, Reply, Test,
    Transport, Txn, TxnReply,
};

use tooz_core::{Characteristic, Characteristics};

/// What etcd ensures, whatever the transport.
pub const CHARACTERISTICS: Characteristics = Characteristics::of(&[
    Characteristic::DistributedAcrossThreads,
    Characteristic::DistributedAcrossProcesses,
    Characteristic::DistributedAcrossHosts,
    Characteristic::Linearizable,
    Characteristic::Sequential,
    Characteristic::Causal,
    Characteristic::Serializable,
]);
