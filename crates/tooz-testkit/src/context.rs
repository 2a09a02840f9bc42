//! What a case works with.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tooz_core::{
    Builder, Characteristics, Coordinator, DriverEntry, Error, ErrorKind, Feature, MemberId,
    Registry, Result,
};

use crate::World;
use crate::control::{Control, Harmed};
use crate::worker::Worker;

/// How long anything may take that is neither timed by the case nor bound to a TTL.
const SOON: Duration = Duration::from_secs(5);

/// How long what runs in the background may still leave its traces on the backend.
const BACKGROUND: Duration = Duration::from_secs(2);

/// How long a stop waits for a guard that a case does not drop.
const GRACE: Duration = Duration::from_millis(20);

/// One case's world, and the means to work in it with bounded patience.
pub(crate) struct Context {
    driver: DriverEntry,
    registry: Registry,
    world: Arc<dyn World>,
    setup: String,
    coordinators: Mutex<Vec<Coordinator>>,
    had_workers: AtomicBool,
    waiting_for: Mutex<Option<String>>,
}

impl Context {
    pub(crate) fn new(setup: &str, driver: DriverEntry, world: Arc<dyn World>) -> Result<Self> {
        Ok(Self {
            setup: setup.to_owned(),
            driver,
            registry: Registry::new().with(driver)?,
            world,
            coordinators: Mutex::default(),
            had_workers: AtomicBool::new(false),
            waiting_for: Mutex::default(),
        })
    }

    /// The driver's record.
    pub(crate) fn driver(&self) -> &DriverEntry {
        &self.driver
    }

    // ---- Coordinators.

    /// A builder of a coordinator of this world.
    pub(crate) fn builder(&self, member: impl Into<MemberId>) -> Result<Builder> {
        self.builder_at(self.world.url(), member)
    }

    /// The same by another way to the backend.
    pub(crate) fn builder_at(&self, url: &str, member: impl Into<MemberId>) -> Result<Builder> {
        Ok(self.registry.builder(url, member)?.stop_grace(GRACE))
    }

    /// What coordinators of this world connect to.
    pub(crate) fn url(&self) -> &str {
        self.world.url()
    }

    /// A coordinator that is not started, and that nobody else keeps alive.
    pub(crate) fn open(&self, member: impl Into<MemberId>) -> Result<Coordinator> {
        self.builder(member)?.build()
    }

    /// A coordinator that is started. It is stopped at the end of the case, unless the case does.
    pub(crate) async fn start(&self, member: impl Into<MemberId>) -> Result<Coordinator> {
        let coordinator = self.open(member)?;
        self.soon("the start of a coordinator", coordinator.start()).await?;
        self.keep(&coordinator);
        Ok(coordinator)
    }

    /// Stops the coordinator at the end of the case.
    pub(crate) fn keep(&self, coordinator: &Coordinator) {
        lock(&self.coordinators).push(coordinator.clone());
    }

    /// A coordinator in a process of its own.
    pub(crate) async fn worker(&self, member: &str) -> Worker {
        self.had_workers.store(true, Relaxed);
        let worker = Worker::spawn();
        let started = worker.start(self.world.url(), member);
        self.soon("the start of a worker process", started).await.expect("a worker starts");
        worker
    }

    // ---- The backend's side.

    /// How long the backend keeps what a silent coordinator owns.
    pub(crate) fn ttl(&self) -> Option<Duration> {
        self.world.ttl()
    }

    /// See [`World::crowd`].
    pub(crate) fn crowd(&self) -> usize {
        self.world.crowd()
    }

    /// See [`World::ends_with_its_connection`].
    pub(crate) fn ends_with_its_connection(&self) -> Option<Duration> {
        self.world.ends_with_its_connection()
    }

    /// What the driver declares and this deployment does not ensure.
    pub(crate) fn lacks(&self) -> Characteristics {
        self.world.lacks()
    }

    /// How soon others get what a dead process had.
    pub(crate) fn death(&self) -> Duration {
        self.ttl().unwrap_or_default() + Duration::from_secs(1)
    }

    /// The server, to be harmed. It serves again when this is dropped.
    pub(crate) fn server(&self) -> Result<Harmed> {
        let control = Control::of(&self.setup);
        control.map(Harmed).ok_or_else(|| Error::invalid(Control::missing(&self.setup)))
    }

    /// Ends the member's session at the backend.
    pub(crate) async fn take_session_away(&self, coordinator: &Coordinator) -> Result<()> {
        self.world.take_session_away(coordinator.member_id()).await
    }

    /// Stops what is still running, and sees to it that nothing of it is left on the backend.
    pub(crate) async fn finish(&self) -> Result<()> {
        let coordinators = std::mem::take(&mut *lock(&self.coordinators));
        for coordinator in coordinators {
            match self.soon("the stop of a coordinator", coordinator.stop()).await {
                Err(error) if error.kind() == ErrorKind::NotRunning => {}
                result => result?,
            }
        }
        self.nothing_is_left().await
    }

    /// Waits until the backend has nothing of ours.
    pub(crate) async fn nothing_is_left(&self) -> Result<()> {
        let workers = self.had_workers.load(Relaxed);
        let bound = BACKGROUND + if workers { self.death() } else { Duration::ZERO };
        let start = Instant::now();
        loop {
            self.waits_for("an empty backend");
            let residue = self.world.residue().await?;
            if residue.is_empty() {
                return Ok(());
            }
            if workers {
                self.visit().await?;
            }
            if start.elapsed() > bound {
                return Err(Error::new(
                    ErrorKind::Backend,
                    format!("left on the backend after {bound:?}: {}", residue.join("; ")),
                ));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Somebody comes by: where there is no server, only that can clean up after killed processes.
    async fn visit(&self) -> Result<()> {
        let visitor = self.open("visitor")?;
        self.soon("the start of a visitor", visitor.start()).await?;
        if self.driver.features.contains(Feature::Groups) {
            for group in self.soon("the groups", visitor.groups()).await? {
                self.soon("the members", visitor.members(group)).await?;
            }
        }
        self.soon("the stop of a visitor", visitor.stop()).await
    }

    // ---- Patience.

    /// The outcome of `future`, which must come within `bound`.
    pub(crate) async fn within<F: Future>(
        &self,
        bound: Duration,
        what: &str,
        future: F,
    ) -> F::Output {
        self.waits_for(what);
        let outcome = tokio::time::timeout(bound, future).await;
        outcome.unwrap_or_else(|_| panic!("{what}: not within {bound:?}"))
    }

    /// The outcome of `future`, which must come soon, where no bound is promised.
    pub(crate) async fn soon<F: Future>(&self, what: &str, future: F) -> F::Output {
        self.within(SOON, what, future).await
    }

    /// The same, of something that takes a known time by itself.
    pub(crate) async fn soon_after<F: Future>(
        &self,
        time: Duration,
        what: &str,
        future: F,
    ) -> F::Output {
        self.within(time + SOON, what, future).await
    }

    /// Sees to it that `future` is still pending after `time`: nothing tells that something does
    /// not happen, but time.
    pub(crate) async fn pending_for<F: Future + Unpin>(
        &self,
        time: Duration,
        what: &str,
        future: &mut F,
    ) {
        self.waits_for(what);
        assert!(tokio::time::timeout(time, future).await.is_err(), "{what}: it came");
    }

    /// Waits until `check` holds, which must come within `bound`: for what the API pushes to
    /// nobody.
    pub(crate) async fn until(
        &self,
        bound: Duration,
        what: &str,
        mut check: impl AsyncFnMut() -> Result<bool>,
    ) -> Result<()> {
        self.waits_for(what);
        let start = Instant::now();
        while !check().await? {
            assert!(start.elapsed() < bound, "{what}: not within {bound:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// What it waits for, to be named when its time is over.
    pub(crate) fn waiting_for(&self) -> String {
        lock(&self.waiting_for).clone().unwrap_or_else(|| "nothing that it named".to_owned())
    }

    fn waits_for(&self, what: &str) {
        *lock(&self.waiting_for) = Some(what.to_owned());
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("url", &self.world.url()).finish_non_exhaustive()
    }
}

/// Nothing here is left half-changed by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
