//! What the etcd v3 drivers of `tooz` share: everything but the transport.
//!
//! A driver crate supplies a [`Connector`] and its [`Transport`]s: gRPC or the JSON gateway. Keys,
//! transactions, the queue of waiters, leases, watches, groups and elections are here, once.
//!
//! Each change is one transaction, which can be repeated: a lock's value and
//! a waiter's key are the operation's own id, so that a repetition sees what the first one did.
//!
//! `docs/drivers/etcd3.md` has the options, the guarantees, the costs and the layout.

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
mod state;
// Transactions and events, in words that both transports translate.
mod txn;

pub use config::{CHARACTERISTICS, Config, Defaults, Endpoint};
pub use connection::{Attached, Connector, Events, Transport};
pub use driver::open;
pub use errors::{Failure, code};
pub use txn::{Compare, Event, KeyValue, Op, Order, Range, Reply, Test, Txn, TxnReply};
