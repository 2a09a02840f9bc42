//! Distributed coordination over the backend you have: locks, groups of workers, leader election,
//! partitioning.
//!
//! A service that runs as several processes needs to agree on things: who holds this volume's
//! lock, which workers are alive, who leads, who works on what. `tooz` is one API for all of
//! that, over a backend that a URL chooses.
//!
//! # A first program
//!
//! A [`Coordinator`] is one member's access to the backend. Its heartbeats run on a thread of their
//! own, so a busy or blocked program loses nothing.
//!
#![cfg_attr(feature = "memory", doc = "```")]
#![cfg_attr(not(feature = "memory"), doc = "```ignore")]
//! # tooz::blocking::block_on(async {
//! let coordinator = tooz::connect("zake://", "host-1").await?;
//! coordinator.stop().await?;
//! # Ok::<(), tooz::Error>(())
//! # }).unwrap();
//! ```
//!
//! # Locks
//!
//! A guard knows until when it holds the lock, and reports the loss. No lock service can
//! stop a process that was paused past its deadline from believing, until it looks, that it still
//! holds the lock: so send the fence with every write, and let the resource refuse an old one. The
//! crate `tooz-fence` has that check for databases, files, object stores and services.
//!
#![cfg_attr(feature = "memory", doc = "```")]
#![cfg_attr(not(feature = "memory"), doc = "```ignore")]
//! # tooz::blocking::block_on(async {
//! # let coordinator = tooz::connect("memory://docs-lock", "host-1").await?;
//! let guard = coordinator.lock("volume-17")?.acquire().await?;
//! let fence = guard.fence();
//! // At the moment at which the lock is lost: Err, and the work is dropped.
//! let written = guard.run(async { format!("written with {fence}") }).await?;
//! guard.release().await?;
//! # assert!(written.ends_with(":1"));
//! # Ok::<(), tooz::Error>(())
//! # }).unwrap();
//! ```
//!
//! A [`Semaphore`] is a lock that several hold at once, [`Coordinator::lock_all`] holds several locks
//! together, and [`Lock::at_least`] is for jobs that are started at the same time of day everywhere.
//!
#![cfg_attr(feature = "memory", doc = "```")]
#![cfg_attr(not(feature = "memory"), doc = "```ignore")]
//! # tooz::blocking::block_on(async {
//! # let coordinator = tooz::connect("memory://docs-locks", "host-1").await?;
//! let permit = coordinator.semaphore("gpu", 4)?.acquire().await?;
//! println!("works on GPU {}", permit.slot());
//! let accounts = coordinator.lock_all(["account-7", "account-3"])?.acquire().await?;
//! accounts.run(async { "moves money" }).await?;
//! # Ok::<(), tooz::Error>(())
//! # }).unwrap();
//! ```
//!
//! # Groups
//!
//! A member publishes what it can do, and sees the others come and go. After a lost session it
//! joins again by itself.
//!
#![cfg_attr(feature = "memory", doc = "```")]
#![cfg_attr(not(feature = "memory"), doc = "```ignore")]
//! # tooz::blocking::block_on(async {
//! # let coordinator = tooz::connect("memory://docs-group", "host-1").await?;
//! coordinator.join_group_create("workers", &serde_json::json!({"weight": 2})).await?;
//! let mut events = coordinator.watch_group("workers").await?;
//! match events.next().await {
//!     Some(tooz::GroupEvent::Snapshot(members)) => assert_eq!(members[0].id, "host-1".into()),
//!     other => panic!("the first event is a snapshot, not {other:?}"),
//! }
//! coordinator.leave_group("workers").await?;
//! # Ok::<(), tooz::Error>(())
//! # }).unwrap();
//! ```
//!
//! # Elections
//!
//! A member of a group campaigns until it leads. A [`Leadership`] has the methods of a lock's
//! guard.
//!
#![cfg_attr(feature = "memory", doc = "```")]
#![cfg_attr(not(feature = "memory"), doc = "```ignore")]
//! # tooz::blocking::block_on(async {
//! # let coordinator = tooz::connect("memory://docs-election", "host-1").await?;
//! # coordinator.join_group_create("workers", &()).await?;
//! let term = coordinator.campaign("workers").await?;
//! assert_eq!(coordinator.leader("workers").await?, Some("host-1".into()));
//! term.resign().await?;
//! # Ok::<(), tooz::Error>(())
//! # }).unwrap();
//! ```
//!
//! # Partitioning
//!
//! The members share out objects by a hash ring that follows the group: each knows which ones are
//! its own, without asking anybody.
//!
#![cfg_attr(feature = "memory", doc = "```")]
#![cfg_attr(not(feature = "memory"), doc = "```ignore")]
//! # tooz::blocking::block_on(async {
//! # let coordinator = tooz::connect("memory://docs-partitioning", "host-1").await?;
//! let workers = coordinator.partitioned_group("workers").join().await?;
//! assert!(workers.belongs_to_self("volume-17")); // nobody else is there
//! # Ok::<(), tooz::Error>(())
//! # }).unwrap();
//! ```
//!
//! # Manual heartbeats
//!
//! If a program must count as dead when its own loop hangs, call the heartbeat in that loop.
//!
#![cfg_attr(feature = "memory", doc = "```")]
#![cfg_attr(not(feature = "memory"), doc = "```ignore")]
//! # tooz::blocking::block_on(async {
//! let coordinator =
//!     tooz::builder("zake://", "host-1")?.heartbeat(tooz::Heartbeat::Manual).connect().await?;
//! let next = coordinator.heartbeat().await?; // call it again within this time
//! # assert!(!next.is_zero());
//! coordinator.stop().await?;
//! # Ok::<(), tooz::Error>(())
//! # }).unwrap();
//! ```
//!
//! # Backends
//!
//! Each is a feature of this crate; `full` has them all. A backend's [`Characteristics`] say what it
//! ensures in general: a program that needs some of them [requires](Builder::require) them.
//!
//! | Feature | Schemes | Coordinates |
//! |---|---|---|
//! | `consul` | `consul://host:8500`, `consul+https://` | the clients of a Consul cluster |
//! | `etcd3-http` | `etcd3+http://host:2379`, `etcd3+https://` | the same, over the JSON gateway |
//! | `etcd3` | `etcd3://host:2379` | the clients of an etcd cluster, over gRPC |
//! | `etcd` | `etcd://host:2379` | the clients of an etcd cluster, over the v2 API |
//! | `file` (default) | `file:///directory` | the processes of one host |
//! | `ipc` | `ipc://` | the processes of one host |
//! | `memcached` | `memcached://host:11211` | the clients of a memcached server |
//! | `memory` (default) | `memory://name`, `zake://` | the coordinators of one process |
//! | `mysql` | `mysql://user:password@host/database` | the clients of a MySQL or MariaDB server |
//! | `postgresql` | `postgresql://host/database`, `postgres://` | the clients of a PostgreSQL server |
//! | `redis` | `redis://host:6379`, `rediss://` | the clients of a Redis or Valkey server |
//! | `zookeeper` | `zookeeper://host:2181`, `kazoo://` | the clients of a ZooKeeper ensemble |
//!
//! A driver from elsewhere is registered by the same call as ours; [`driver`] tells how to write one.
//!
#![cfg_attr(feature = "memory", doc = "```")]
#![cfg_attr(not(feature = "memory"), doc = "```ignore")]
//! use tooz::DriverEntry;
//!
//! // Stands for a const of another crate.
//! const THEIRS: DriverEntry =
//!     DriverEntry { name: "theirs", schemes: &["theirs"], ..tooz::drivers::memory::DRIVER };
//!
//! let registry = tooz::registry().with(THEIRS)?;
//! let coordinator = registry.builder("theirs://", "host-1")?.build()?;
//! # drop(coordinator);
//! # Ok::<(), tooz::Error>(())
//! ```
//!
//! # Async or not
//!
//! The futures run on any runtime, and every one of them can be dropped at any await point.
//! [`blocking`] is for code without async.

#[doc(inline)]
pub use tooz_core::{
    Builder, Capabilities, Characteristic, Characteristics, Coordinator, CoordinatorUrl,
    DriverEntry, Error, ErrorKind, Events, Feature, Features, Fence, FenceName, FencingToken,
    GroupEvent, GroupId, HashRing, Heartbeat, Host, Leadership, Lock, LockGuard, LockName, LockSet,
    LockSetGuard, Loss, Member, MemberId, Mode, Outcome, Ownership, Partition, PartitionedGroup,
    Partitioner, Partitions, Permit, Registry, Result, RetryPolicy, Revocation, Secret, Semaphore,
    SessionEvent, Wait, assignment, hash_ring,
};

/// The same API for code without async.
///
#[cfg_attr(feature = "memory", doc = "```")]
#[cfg_attr(not(feature = "memory"), doc = "```ignore")]
/// let coordinator = tooz::blocking::connect("memory://docs-blocking", "host-1")?;
/// let guard = coordinator.lock("inventory")?.acquire()?;
/// guard.run(|| println!("token {}", guard.fencing_token()))?;
/// guard.release()?;
/// coordinator.stop()?;
/// # Ok::<(), tooz::Error>(())
/// ```
pub mod blocking {
    #[doc(inline)]
    pub use tooz_core::blocking::*;

    /// [`connect`](crate::connect), blocking.
    ///
    /// # Errors
    /// The same as those of [`connect`](crate::connect).
    pub fn connect(url: &str, member: impl Into<crate::MemberId>) -> crate::Result<Coordinator> {
        Coordinator::connect(crate::builder(url, member)?)
    }
}

/// What only the author of a driver needs: the contract, the leases by which ownership is judged,
/// and the parts that drivers are built from.
///
/// A driver crate needs only `tooz-core`, which has all of this too.
pub mod driver {
    #[doc(inline)]
    pub use tooz_core::driver::*;
    #[doc(inline)]
    pub use tooz_core::{
        GroupFeed, LeaderFeed, Lease, Moment, Options, RestartGrace, async_trait, kit,
    };
}

/// The one list of drivers. It makes the re-exports, the registry, and the error for a scheme
/// whose feature is off.
macro_rules! drivers {
    ($($(#[$doc:meta])* $name:ident = $package:ident, $feature:literal, [$($scheme:literal),+];)+) => {
        /// The crates of the drivers that are built in, each with its `DRIVER`.
        pub mod drivers {
            $($(#[$doc])* #[cfg(feature = $feature)] pub use $package as $name;)+
        }

        /// The drivers of this crate that are built in. [`with`](Registry::with) adds more.
        ///
        /// ```
        /// let names: Vec<_> = tooz::registry().drivers().iter().map(|d| d.name).collect();
        /// println!("built with {}", names.join(", "));
        /// ```
        pub fn registry() -> Registry {
            let registry = Registry::new();
            $(
                // Two of our own never serve the same scheme: a test checks that.
                #[cfg(feature = $feature)]
                let registry = registry.clone().with($package::DRIVER).unwrap_or(registry);
                #[cfg(not(feature = $feature))]
                let registry = registry.with_missing(&[$($scheme),+], $feature);
            )+
            registry
        }

        /// Name, feature, schemes of every driver, and whether it is built in.
        #[cfg(test)]
        const ALL: &[(&str, &str, &[&str], bool)] =
            &[$((stringify!($name), $feature, &[$($scheme),+], cfg!(feature = $feature))),+];
    };
}

drivers! {
    /// `consul://` and `consul+https://`: a Consul agent or servers.
    consul = tooz_consul, "consul", ["consul", "consul+https"];
    /// `etcd://`: the v2 API of an etcd cluster.
    etcd = tooz_etcd, "etcd", ["etcd"];
    /// `etcd3://`: an etcd cluster, over gRPC.
    etcd3 = tooz_etcd3, "etcd3", ["etcd3"];
    /// `etcd3+http://` and `etcd3+https://`: an etcd cluster, over the JSON gateway.
    etcd3_http = tooz_etcd3_http, "etcd3-http", ["etcd3+http", "etcd3+https"];
    /// `file://`: a directory of one host.
    file = tooz_file, "file", ["file"];
    /// `ipc://`: System V semaphores and shared memory of one host.
    ipc = tooz_ipc, "ipc", ["ipc"];
    /// `memcached://`: a memcached server.
    memcached = tooz_memcached, "memcached", ["memcached"];
    /// `memory://` and `zake://`: the coordinators of one process.
    memory = tooz_memory, "memory", ["memory", "zake"];
    /// `mysql://`: a MySQL or MariaDB server.
    mysql = tooz_mysql, "mysql", ["mysql"];
    /// `postgresql://` and `postgres://`: a PostgreSQL server.
    postgresql = tooz_postgresql, "postgresql", ["postgresql", "postgres"];
    /// `redis://` and `rediss://`: a Redis or Valkey server, with sentinels, or a cluster.
    redis = tooz_redis, "redis", ["redis", "rediss"];
    /// `zookeeper://` and `kazoo://`: a ZooKeeper server or ensemble.
    zookeeper = tooz_zookeeper, "zookeeper", ["zookeeper", "kazoo"];
}

/// Connects to the backend that `url` names, as `member`. See [`builder`] for more choices.
///
#[cfg_attr(feature = "memory", doc = "```")]
#[cfg_attr(not(feature = "memory"), doc = "```ignore")]
/// # tooz::blocking::block_on(async {
/// let coordinator = tooz::connect("memory://docs-connect", "host-1").await?;
/// coordinator.stop().await?;
/// # Ok::<(), tooz::Error>(())
/// # }).unwrap();
/// ```
///
/// # Errors
/// Those of [`get_coordinator`] and of [`Coordinator::start`].
///
/// # Cancellation
/// A dropped call stops what it has started.
pub async fn connect(url: &str, member: impl Into<MemberId>) -> Result<Coordinator> {
    builder(url, member)?.connect().await
}

/// Makes the coordinator of `member` over the backend that `url` names. Nothing is connected
/// until [`Coordinator::start`]: [`connect`] does both.
///
/// ```
/// let error = tooz::get_coordinator("redsi://localhost", "host-1").unwrap_err();
/// assert_eq!(error.kind(), tooz::ErrorKind::UnknownScheme);
/// ```
///
/// # Errors
/// - [`ErrorKind::UnknownScheme`], naming the known ones or the feature that is missing.
/// - [`ErrorKind::InvalidInput`] for a malformed URL, an unknown or malformed option, or an empty
///   member id.
pub fn get_coordinator(url: &str, member: impl Into<MemberId>) -> Result<Coordinator> {
    builder(url, member)?.build()
}

/// Starts to build the coordinator of `member` over the backend that `url` names.
///
#[cfg_attr(feature = "memory", doc = "```")]
#[cfg_attr(not(feature = "memory"), doc = "```ignore")]
/// use std::time::Duration;
/// use tooz::Characteristic;
///
/// let coordinator = tooz::builder("memory://docs-builder", "host-1")?
///     .require(Characteristic::Linearizable)
///     .operation_timeout(Duration::from_secs(5))
///     .build()?;
/// # drop(coordinator);
/// # Ok::<(), tooz::Error>(())
/// ```
///
/// # Errors
/// The same as those of [`get_coordinator`], except those about options: [`Builder::build`] checks
/// these.
pub fn builder(url: &str, member: impl Into<MemberId>) -> Result<Builder> {
    registry().builder(url, member)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_agrees_with_the_drivers() {
        let built = registry().drivers();
        for (name, feature, schemes, enabled) in ALL {
            // A module's name has no hyphen.
            assert_eq!(name, &feature.replace('-', "_"), "features are one to one with drivers");
            let driver = built.iter().find(|driver| driver.name == *feature);
            assert_eq!(driver.map(|d| d.schemes), enabled.then_some(*schemes), "of {name}");
        }
        assert_eq!(built.len(), ALL.iter().filter(|(.., enabled)| *enabled).count());
    }

    #[test]
    fn a_driver_that_is_not_built_in_names_its_feature() {
        for (_, feature, schemes, _) in ALL.iter().filter(|(.., enabled)| !enabled) {
            for scheme in *schemes {
                let error = get_coordinator(&format!("{scheme}:///x"), "m").unwrap_err();
                assert_eq!(error.kind(), ErrorKind::UnknownScheme);
                let text = error.to_string();
                assert!(text.contains(&format!("needs the feature {feature}")), "{text}");
            }
        }
    }

    #[test]
    fn an_unknown_scheme_lists_the_known_ones() {
        let error = get_coordinator("redsi://localhost", "m").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnknownScheme);
        let text = error.to_string();
        assert!(text.contains("redsi is unknown"), "{text}");
        for driver in registry().drivers() {
            assert!(text.contains(driver.schemes[0]), "{text}");
        }
    }

    #[test]
    fn a_scheme_is_taken_once() {
        for driver in registry().drivers() {
            assert!(registry().with(driver).is_err());
        }
    }
}
