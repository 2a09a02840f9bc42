//! The public types and the engine of `tooz`: coordinators, guards, the driver contract.
//!
//! Applications use the crate `tooz`, which is this one with drivers. To write a driver, start
//! at [`driver`].

pub mod assignment;
mod builder;
mod capabilities;
mod characteristics;
mod clock;
mod coordinator;
pub mod driver;
mod election;
mod engine;
mod error;
mod events;
mod group;
mod handle;
pub mod hash_ring;
mod id;
pub mod kit;
mod lease;
mod lock;
mod lock_set;
mod options;
mod ownership;
mod partitioner;
mod partitions;
mod process;
mod registry;
mod restart_grace;
mod retry;
mod semaphore;
mod settings;
mod supervisor;
#[cfg(feature = "tls")]
mod tls;
mod url;
mod wait;

pub mod blocking;

pub use async_trait::async_trait;
pub use builder::Builder;
pub use capabilities::Capabilities;
pub use characteristics::{Characteristic, Characteristics, Feature, Features};
pub use clock::Moment;
pub use coordinator::Coordinator;
pub use driver::{
    Acquisition, Driver, DriverEntry, Elections, FencingToken, Groups, Hold, JoinRequest, Locks,
    Mode, OperationId, Release, RunsOn, Session,
};
pub use election::Leadership;
pub use error::{Error, ErrorKind, Outcome, Result};
pub use events::{Events, SessionEvent};
pub use group::{GroupEvent, GroupFeed, LeaderFeed, Member};
pub use hash_ring::HashRing;
pub use id::{GroupId, LockName, MemberId};
pub use lease::{Lease, Loss};
pub use lock::{Lock, LockGuard};
pub use lock_set::{LockSet, LockSetGuard};
pub use options::Options;
pub use ownership::Ownership;
pub use partitioner::{PartitionedGroup, Partitioner};
pub use partitions::{Partition, Partitions, Revocation};
pub use registry::Registry;
pub use restart_grace::RestartGrace;
pub use retry::RetryPolicy;
pub use semaphore::{Permit, Semaphore};
pub use settings::Heartbeat;
#[cfg(feature = "tls")]
pub use tls::ensure_crypto_provider;
pub use tooz_fence_core::{Fence, FenceName};
pub use url::{CoordinatorUrl, Host, Secret};
pub use wait::{Wait, WaitLimit};
