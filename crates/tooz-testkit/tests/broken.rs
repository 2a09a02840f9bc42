//! A kit that cannot fail proves nothing: for each area, a driver that is broken there.
//!
//! It is the memory driver with one flaw, which the URL names. At least one case of the area must
//! fail over it, and pass over the same driver without a flaw.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use tooz_core::{
    Acquisition, Capabilities, Characteristic, Characteristics, CoordinatorUrl, Driver,
    DriverEntry, Elections, Error, Feature, FencingToken, GroupFeed, GroupId, Groups, Hold,
    JoinRequest, LeaderFeed, Lease, LockName, Locks, Member, MemberId, Mode, OperationId, Options,
    Release, Result, Session, async_trait,
};
use tooz_testkit::{Area, Case, Fixture, World};

const DRIVER: DriverEntry = DriverEntry {
    name: "broken",
    schemes: &["broken"],
    // It lives in one process, and says otherwise.
    characteristics: tooz_memory::DRIVER
        .characteristics
        .union(Characteristics::of(&[Characteristic::DistributedAcrossProcesses])),
    open,
    ..tooz_memory::DRIVER
};

/// What is wrong with the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    KeepsSessions,
    GrantsHeldLocks,
    SharesNothing,
    BreaksNothing,
    NeverLeaves,
    ForgetsUpdates,
    MissesChanges,
    NotImplemented,
    ElectsEverybody,
    KeepsQuietAboutLosses,
    RepeatsTokens,
    LosesLateGrants,
}

/// Each area, with a flaw that must fail it.
const FLAWS: [(Area, Flaw); 17] = [
    (Area::Lifecycle, Flaw::KeepsSessions),
    (Area::Locks, Flaw::GrantsHeldLocks),
    (Area::SharedLocks, Flaw::SharesNothing),
    (Area::BreakLock, Flaw::BreaksNothing),
    (Area::Semaphores, Flaw::GrantsHeldLocks),
    (Area::Semaphores, Flaw::LosesLateGrants),
    (Area::Several, Flaw::GrantsHeldLocks),
    (Area::Several, Flaw::LosesLateGrants),
    (Area::Groups, Flaw::NeverLeaves),
    (Area::Capabilities, Flaw::ForgetsUpdates),
    (Area::Events, Flaw::MissesChanges),
    (Area::Events, Flaw::NotImplemented),
    (Area::Elections, Flaw::ElectsEverybody),
    (Area::Sessions, Flaw::KeepsQuietAboutLosses),
    (Area::Fencing, Flaw::RepeatsTokens),
    (Area::Cancellation, Flaw::LosesLateGrants),
    // Several processes are flaw enough.
    (Area::Processes, Flaw::None),
];

/// How long a case may take: that of a broken driver often waits for what never comes.
const LIMIT: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    if let Some(code) = tooz_testkit::worker(&[DRIVER]) {
        return code;
    }
    // Cases fail by panicking here, as they should.
    std::panic::set_hook(Box::new(|_| {}));
    let trials = FLAWS.map(|(area, flaw)| {
        Trial::test(format!("{area}::{flaw:?}"), move || fails(area, flaw).map_err(Failed::from))
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit_code()
}

/// Runs the area's cases until one fails, as one must.
fn fails(area: Area, flaw: Flaw) -> Result<(), String> {
    for case in Case::all().filter(|case| case.area() == area) {
        let Err(found) = check(flaw, case) else { continue };
        if flaw == Flaw::None {
            return Ok(());
        }
        return check(Flaw::None, case).map_err(|error| {
            format!("{} fails also without the flaw {flaw:?} ({found}): {error}", case.name())
        });
    }
    Err(format!("no case of {area} notices the flaw {flaw:?}"))
}

fn check(flaw: Flaw, case: &Case) -> Result<(), String> {
    let fixture: Arc<dyn Fixture> = Arc::new(Broken(flaw));
    tooz_testkit::check(&fixture, case, LIMIT)
}

// ---- The fixture.

struct Broken(Flaw);

#[async_trait]
impl Fixture for Broken {
    fn name(&self) -> &str {
        "broken"
    }

    fn driver(&self) -> DriverEntry {
        DRIVER
    }

    fn needs_server(&self) -> bool {
        false
    }

    async fn world(&self) -> Result<Box<dyn World>> {
        let name = OperationId::random().to_string();
        let url = format!("broken://{name}?timeout={}&flaw={:?}", TTL.as_secs(), self.0);
        Ok(Box::new(InProcess { url, world: tooz_memory::World::named(&name) }))
    }
}

/// Longer than any case waits for its residue to go, so that no leak repairs itself.
const TTL: Duration = Duration::from_secs(6);

struct InProcess {
    url: String,
    world: tooz_memory::World,
}

#[async_trait]
impl World for InProcess {
    fn url(&self) -> &str {
        &self.url
    }

    fn ttl(&self) -> Option<Duration> {
        Some(TTL)
    }

    async fn residue(&self) -> Result<Vec<String>> {
        Ok(self.world.residue())
    }

    async fn take_session_away(&self, member: &MemberId) -> Result<()> {
        self.world.expire_session(member);
        Ok(())
    }

    async fn remove(&self) -> Result<()> {
        self.world.wipe();
        Ok(())
    }
}

// ---- The driver.

fn open(url: &CoordinatorUrl, mut options: Options) -> Result<Arc<dyn Driver>> {
    let named = options.text("flaw").unwrap_or_default();
    let mut flaws = FLAWS.iter().map(|(_, flaw)| *flaw);
    let flaw = flaws.find(|flaw| format!("{flaw:?}") == named);
    let flaw = flaw.ok_or_else(|| Error::invalid("no such flaw"))?;
    let inner = (tooz_memory::DRIVER.open)(url, options)?;
    Ok(Arc::new(BrokenDriver { inner, flaw }))
}

#[derive(Debug)]
struct BrokenDriver {
    inner: Arc<dyn Driver>,
    flaw: Flaw,
}

#[async_trait]
impl Driver for BrokenDriver {
    async fn connect(&self, member: &MemberId) -> Result<Arc<dyn Session>> {
        let inner = self.inner.connect(member).await?;
        Ok(Arc::new(BrokenSession { inner, flaw: self.flaw }))
    }
}

#[derive(Debug)]
struct BrokenSession {
    inner: Arc<dyn Session>,
    flaw: Flaw,
}

impl BrokenSession {
    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == flaw
    }

    /// What the wrapped driver granted, with the flaw.
    fn granted(&self, hold: Option<Arc<dyn Hold>>) -> Option<Arc<dyn Hold>> {
        let inner = hold?;
        let lease = match self.flaw {
            Flaw::KeepsQuietAboutLosses => Lease::untimed(),
            _ => inner.lease().clone(),
        };
        let token = match self.flaw {
            Flaw::RepeatsTokens => FencingToken(1),
            _ => inner.token(),
        };
        Some(Arc::new(BrokenHold { inner: Some(inner), lease, token }))
    }

    /// A grant that the wrapped driver was not asked for.
    fn invented(&self) -> Option<Arc<dyn Hold>> {
        let lease = self.inner.lease().child();
        Some(Arc::new(BrokenHold { inner: None, lease, token: FencingToken(1) }))
    }
}

#[async_trait]
impl Session for BrokenSession {
    fn lease(&self) -> &Lease {
        self.inner.lease()
    }

    fn characteristics(&self) -> Characteristics {
        DRIVER.characteristics
    }

    fn heartbeat_interval(&self) -> Option<Duration> {
        self.inner.heartbeat_interval()
    }

    async fn heartbeat(&self) -> Result<()> {
        self.inner.heartbeat().await
    }

    async fn close(&self) -> Result<()> {
        if self.has(Flaw::KeepsSessions) {
            return Ok(());
        }
        self.inner.close().await
    }

    fn locks(&self) -> Option<&dyn Locks> {
        Some(self)
    }

    fn groups(&self) -> Option<&dyn Groups> {
        Some(self)
    }

    fn elections(&self) -> Option<&dyn Elections> {
        Some(self)
    }
}

#[async_trait]
impl Locks for BrokenSession {
    async fn acquire(
        &self,
        mut acquisition: Acquisition<LockName>,
    ) -> Result<Option<Arc<dyn Hold>>> {
        if self.has(Flaw::GrantsHeldLocks) {
            return Ok(self.invented());
        }
        if self.has(Flaw::SharesNothing) {
            acquisition.mode = Mode::Exclusive;
        }
        let wait = acquisition.wait.clone();
        let hold = self.inner.require_locks()?.acquire(acquisition).await?;
        if self.has(Flaw::LosesLateGrants) {
            tokio::time::sleep(Duration::from_millis(1)).await;
            if wait.is_over() {
                return Ok(None);
            }
        }
        Ok(self.granted(hold))
    }

    async fn break_lock(&self, name: &LockName) -> Result<bool> {
        if self.has(Flaw::BreaksNothing) {
            return Ok(true);
        }
        self.inner.require_locks()?.break_lock(name).await
    }
}

#[async_trait]
impl Groups for BrokenSession {
    async fn create(&self, group: &GroupId) -> Result<()> {
        self.inner.require_groups()?.create(group).await
    }

    async fn delete(&self, group: &GroupId) -> Result<()> {
        self.inner.require_groups()?.delete(group).await
    }

    async fn list(&self) -> Result<BTreeSet<GroupId>> {
        self.inner.require_groups()?.list().await
    }

    async fn join(&self, request: JoinRequest) -> Result<Lease> {
        self.inner.require_groups()?.join(request).await
    }

    async fn leave(&self, group: &GroupId) -> Result<()> {
        if self.has(Flaw::NeverLeaves) {
            return Ok(());
        }
        self.inner.require_groups()?.leave(group).await
    }

    async fn update_capabilities(
        &self,
        group: &GroupId,
        capabilities: &Capabilities,
    ) -> Result<()> {
        if self.has(Flaw::ForgetsUpdates) {
            return Ok(());
        }
        self.inner.require_groups()?.update_capabilities(group, capabilities).await
    }

    async fn remove_member(&self, group: &GroupId, member: &MemberId) -> Result<()> {
        self.inner.require_groups()?.remove_member(group, member).await
    }

    async fn members(&self, group: &GroupId) -> Result<BTreeSet<MemberId>> {
        self.inner.require_groups()?.members(group).await
    }

    async fn members_with_capabilities(&self, group: &GroupId) -> Result<Vec<Member>> {
        self.inner.require_groups()?.members_with_capabilities(group).await
    }

    async fn member(&self, group: &GroupId, member: &MemberId) -> Result<Member> {
        self.inner.require_groups()?.member(group, member).await
    }

    async fn watch(&self, group: &GroupId, feed: &GroupFeed) -> Result<()> {
        if self.has(Flaw::NotImplemented) {
            // Declared even so.
            return Err(Error::not_implemented(Feature::Events));
        }
        if self.has(Flaw::MissesChanges) {
            feed.snapshot(self.inner.require_groups()?.members_with_capabilities(group).await?);
            std::future::pending::<()>().await;
        }
        self.inner.require_groups()?.watch(group, feed).await
    }
}

#[async_trait]
impl Elections for BrokenSession {
    async fn campaign(&self, acquisition: Acquisition<GroupId>) -> Result<Option<Arc<dyn Hold>>> {
        if self.has(Flaw::ElectsEverybody) {
            return Ok(self.invented());
        }
        Ok(self.granted(self.inner.require_elections()?.campaign(acquisition).await?))
    }

    async fn leader(&self, group: &GroupId) -> Result<Option<MemberId>> {
        self.inner.require_elections()?.leader(group).await
    }

    async fn watch(&self, group: &GroupId, feed: &LeaderFeed) -> Result<()> {
        self.inner.require_elections()?.watch(group, feed).await
    }
}

#[derive(Debug)]
struct BrokenHold {
    inner: Option<Arc<dyn Hold>>,
    lease: Lease,
    token: FencingToken,
}

#[async_trait]
impl Hold for BrokenHold {
    fn token(&self) -> FencingToken {
        self.token
    }

    fn lease(&self) -> &Lease {
        &self.lease
    }

    async fn verify(&self) -> Result<bool> {
        match &self.inner {
            Some(inner) => inner.verify().await,
            None => Ok(true),
        }
    }

    async fn release(&self) -> Result<Release> {
        match &self.inner {
            Some(inner) => inner.release().await,
            None => Ok(Release::Released),
        }
    }
}
