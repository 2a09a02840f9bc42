//! A whole driver: exclusive locks between the coordinators of one process, with fencing tokens. What
//! a real driver sends to a server, this one does to a table in memory; all else is as it would be.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use tokio::sync::OwnedMutexGuard;
use tooz_core::kit::{Table, locked};
use tooz_core::*;

/// What the driver is: everything that can be known without connecting.
pub const DRIVER: DriverEntry = DriverEntry {
    name: "skeleton",
    schemes: &["skeleton"],
    characteristics: Characteristics::of(&[
        Characteristic::NonTimeoutBased, // No clock ends a session.
        Characteristic::DistributedAcrossThreads,
    ]),
    features: Features::of(&[Feature::Locks, Feature::FencingTokens]),
    time_to_live: &[],
    runs_on: RunsOn::Engine, // Nothing here blocks, so the engine's own thread will do.
    open: |url, options| {
        options.finish()?; // It has read none: whatever is given is unknown, and refused.
        Ok(Arc::new(Skeleton(url.hosts().iter().map(|host| host.name.as_str()).collect())))
    },
};

/// A lock of the backend: it serves its waiters in order, and counts them.
type Lock = Arc<tokio::sync::Mutex<u64>>;
/// The backend: the locks of each URL.
pub static LOCKS: LazyLock<Mutex<HashMap<(String, LockName), Lock>>> =
    LazyLock::new(Mutex::default);

/// The configured backend: the URL's name.
#[derive(Debug)]
struct Skeleton(String);

#[async_trait]
impl Driver for Skeleton {
    async fn connect(&self, _member: &MemberId) -> Result<Arc<dyn Session>> {
        // A session that must be renewed has a lease with a time: Lease::timed(ttl, sent).
        let (name, lease, grants) = (self.0.clone(), Lease::untimed(), Arc::default());
        Ok(Arc::new(SkeletonSession { name, lease, grants }))
    }
}

/// What a session was granted, by the operation that acquired it.
type Grants = Arc<Table<OperationId, Arc<OwnedMutexGuard<u64>>>>;

#[derive(Debug)]
struct SkeletonSession {
    name: String,
    lease: Lease,
    grants: Grants,
}

#[async_trait]
impl Session for SkeletonSession {
    fn lease(&self) -> &Lease {
        &self.lease
    }
    fn characteristics(&self) -> Characteristics {
        DRIVER.characteristics
    }
    async fn close(&self) -> Result<()> {
        self.grants.take_all(); // The backend forgets at once what depends on the session.
        Ok(())
    }
    fn locks(&self) -> Option<&dyn Locks> {
        Some(self)
    }
}

#[async_trait]
impl Locks for SkeletonSession {
    async fn acquire(&self, acquisition: Acquisition<LockName>) -> Result<Option<Arc<dyn Hold>>> {
        let key = (self.name.clone(), acquisition.target);
        let lock = locked(&LOCKS).entry(key).or_default().clone();
        let mut guard = tokio::select! {
            biased; // The first attempt is made even if the wait is over already.
            guard = lock.lock_owned() => guard, // Pushed: a release wakes the next in the queue.
            () = acquisition.wait.over() => return Ok(None), // And out of the queue it is.
        };
        *guard += 1;
        // Lost with the session, and by itself if the backend says so.
        let (token, lease) = (FencingToken(*guard), self.lease.child());
        self.grants.insert(acquisition.id, Arc::new(guard));
        let (id, grants) = (acquisition.id, self.grants.clone());
        Ok(Some(Arc::new(SkeletonHold { id, token, lease, grants })))
    }
    async fn break_lock(&self, _: &LockName) -> Result<bool> {
        Err(Error::not_implemented(Feature::BreakLock)) // Not declared: it is never asked for.
    }
}

/// A lock that was granted.
#[derive(Debug)]
struct SkeletonHold {
    id: OperationId,
    token: FencingToken,
    lease: Lease,
    grants: Grants,
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
        Ok(self.grants.contains(&self.id))
    }
    async fn release(&self) -> Result<Release> {
        // By its own id: whatever else happened to the lock, nobody else's hold is touched.
        let was_ours = self.grants.remove(&self.id).is_some();
        Ok(if was_ours { Release::Released } else { Release::WasLost })
    }
}

fn main() -> Result<()> {
    let registry = Registry::new().with(DRIVER)?;
    let builder = registry.builder("skeleton://here", "host-1")?;
    let guard = blocking::Coordinator::connect(builder)?.lock("inventory")?.acquire()?;
    println!("held with the token {}", guard.fencing_token());
    guard.release()
}
