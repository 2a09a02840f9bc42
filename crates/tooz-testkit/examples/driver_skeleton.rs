//! A whole driver: exclusive locks between the coordinators of one process, with fencing tokens.
//!
//! The backend is a table of locks in memory. What a real driver sends to a server, this one does
//! to the table; all else is as it would be.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tooz_core::*;

/// What the driver is: everything that can be known without connecting.
pub const DRIVER: DriverEntry = DriverEntry {
    name: "skeleton",
    schemes: &["skeleton"],
    // A lock is free when its session ends, and no clock ends a session.
    characteristics: Characteristics::of(&[
        Characteristic::NonTimeoutBased,
        Characteristic::DistributedAcrossThreads,
        Characteristic::Linearizable,
    ]),
    features: Features::of(&[Feature::Locks, Feature::FencingTokens]),
    // Nothing here blocks, so the engine's own thread will do.
    runs_on: RunsOn::Engine,
    open: |url, options| {
        // Reads its options first; what is left then is unknown, and refused.
        options.finish()?;
        let name = url.hosts().iter().map(|host| host.name.as_str()).collect();
        Ok(Arc::new(Skeleton { table: table(name) }))
    },
};

/// One lock of the backend: its waiters are served in order, and it counts its acquisitions.
pub type Cell = Arc<tokio::sync::Mutex<u64>>;
/// The locks of one URL. They are never removed: their counters must not start again.
pub type Table = Arc<Mutex<HashMap<LockName, Cell>>>;

/// What `skeleton://NAME` connects to.
pub fn table(name: String) -> Table {
    static TABLES: LazyLock<Mutex<HashMap<String, Table>>> = LazyLock::new(Mutex::default);
    open(&TABLES).entry(name).or_default().clone()
}

fn open<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The configured backend.
#[derive(Debug)]
struct Skeleton {
    table: Table,
}

#[async_trait]
impl Driver for Skeleton {
    async fn connect(&self, _member: &MemberId) -> Result<Arc<dyn Session>> {
        // A session that must be renewed has a lease with a time: Lease::timed(ttl, sent).
        let (table, lease) = (self.table.clone(), Lease::untimed());
        Ok(Arc::new(SkeletonSession { table, lease, held: Arc::default() }))
    }
}

/// What a session holds at the backend, by the operation that acquired it.
type Held = Arc<Mutex<HashMap<OperationId, OwnedMutexGuard<u64>>>>;

#[derive(Debug)]
struct SkeletonSession {
    table: Table,
    lease: Lease,
    held: Held,
}

#[async_trait]
impl Session for SkeletonSession {
    fn lease(&self) -> &Lease {
        &self.lease
    }
    fn characteristics(&self) -> Characteristics {
        DRIVER.characteristics
    }
    fn heartbeat_interval(&self) -> Option<Duration> {
        None
    }
    async fn heartbeat(&self) -> Result<()> {
        Ok(())
    }
    async fn close(&self) -> Result<()> {
        // The backend forgets at once what depends on the session.
        open(&self.held).clear();
        Ok(())
    }
    fn locks(&self) -> Option<&dyn Locks> {
        Some(self)
    }
    fn groups(&self) -> Option<&dyn Groups> {
        None
    }
    fn elections(&self) -> Option<&dyn Elections> {
        None
    }
}

#[async_trait]
impl Locks for SkeletonSession {
    async fn acquire(&self, acquisition: Acquisition<LockName>) -> Result<Option<Arc<dyn Hold>>> {
        // Shared locks and breaking are not declared: the engine never asks for them.
        let cell = open(&self.table).entry(acquisition.target).or_default().clone();
        let mut guard = tokio::select! {
            biased; // The first attempt is made even if the wait is over already.
            guard = cell.lock_owned() => guard, // Pushed: a release wakes the next in the queue.
            () = acquisition.wait.over() => return Ok(None), // And out of the queue it is.
        };
        *guard += 1;
        let token = FencingToken(*guard);
        open(&self.held).insert(acquisition.id, guard);
        // Lost with the session, and by itself if the backend says so.
        let (id, lease, held) = (acquisition.id, self.lease.child(), self.held.clone());
        Ok(Some(Arc::new(SkeletonHold { id, token, lease, held })))
    }
    async fn break_lock(&self, _: &LockName) -> Result<bool> {
        Err(Error::not_implemented(Feature::BreakLock))
    }
}

/// A lock that was granted.
#[derive(Debug)]
struct SkeletonHold {
    id: OperationId,
    token: FencingToken,
    lease: Lease,
    held: Held,
}

#[async_trait]
impl Hold for SkeletonHold {
    fn token(&self) -> FencingToken {
        self.token
    }
    fn lease(&self) -> &Lease {
        &self.lease
    }
    async fn verify(&self) -> Result<bool> {
        Ok(open(&self.held).contains_key(&self.id))
    }
    async fn release(&self) -> Result<Release> {
        // By its own id: whatever else happened to the lock, nobody else's hold is touched.
        match open(&self.held).remove(&self.id) {
            Some(_guard) => Ok(Release::Released),
            None => Ok(Release::WasLost),
        }
    }
}

fn main() -> Result<()> {
    let registry = Registry::new().with(DRIVER)?;
    let coordinator = registry.builder("skeleton://here", "host-1")?.build()?;
    blocking::block_on(async {
        coordinator.start().await?;
        let guard = coordinator.lock("inventory")?.acquire().await?;
        println!("held with the token {}", guard.fencing_token());
        guard.release().await?;
        coordinator.stop().await
    })
}
