//! One etcd server, connected: what gRPC and the JSON gateway implement.

use std::fmt;
use std::sync::Arc;

use tooz_core::async_trait;

use crate::config::Endpoint;
use crate::errors::Failure;
use crate::txn::{Event, Range, Txn, TxnReply};

/// Makes connections.
#[async_trait]
pub trait Connector: fmt::Debug + Send + Sync + 'static {
    /// Connects to one server. Its time is limited by the caller.
    async fn connect(&self, endpoint: &Endpoint) -> Result<Arc<dyn Transport>, Failure>;
}

/// One server, connected. `token` is what [`authenticate`](Self::authenticate) gave, if there is a
/// user. The caller limits the time of each call; a call that is dropped may have been carried out.
#[async_trait]
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// A token for a user and a password.
    async fn authenticate(&self, user: &str, password: &str) -> Result<String, Failure>;

    /// A transaction, which is how everything is read as well.
    async fn txn(&self, token: Option<&str>, txn: &Txn) -> Result<TxnReply, Failure>;

    /// Makes a lease of that id, for so many seconds.
    async fn grant(&self, token: Option<&str>, lease: &(i64, u64)) -> Result<(), Failure>;

    /// Renews a lease once; the seconds that it has now, 0 if there is no such lease.
    async fn keep_alive(&self, token: Option<&str>, lease: &i64) -> Result<u64, Failure>;

    /// Ends a lease, with all keys that are attached to it.
    async fn revoke(&self, token: Option<&str>, lease: &i64) -> Result<(), Failure>;

    /// What is attached to a lease.
    async fn attached(&self, token: Option<&str>, lease: &i64) -> Result<Attached, Failure>;

    /// Watches a range from now on. It is watched once this returns: whatever is read afterwards
    /// and changes later comes as an event.
    async fn watch(&self, token: Option<&str>, range: &Range) -> Result<Box<dyn Events>, Failure>;
}

/// The keys that are attached to a lease; `None` if there is no such lease.
pub type Attached = Option<Vec<Vec<u8>>>;

/// The events of a watch. Dropping it ends the watch.
#[async_trait]
pub trait Events: fmt::Debug + Send + 'static {
    /// The next events, in the order in which they happened. Dropping the future loses nothing.
    /// After a failure nothing more follows.
    async fn next(&mut self) -> Result<Vec<Event>, Failure>;
}
