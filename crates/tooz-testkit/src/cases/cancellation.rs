//! Futures dropped at every point, guards dropped in every place.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use tokio::runtime;
use tokio::sync::oneshot;
use tooz_core::blocking::block_on;
use tooz_core::{Coordinator, ErrorKind, Leadership, Lock, Result, Wait};

use super::{AT_ONCE, next_within};
use crate::Area;
use crate::case::{Case, case};
use crate::context::Context;
use crate::sweep::{Cut, sweep};

const AREA: Area = Area::Cancellation;

const LOCKS: &[Area] = &[Area::Locks];
const SHARED: &[Area] = &[Area::SharedLocks];
const GROUPS: &[Area] = &[Area::Groups];
const ELECTIONS: &[Area] = &[Area::Elections];

pub(super) const CASES: &[Case] = &[
    // Futures.
    case!(a_dropped_start).alone(),
    case!(a_dropped_stop).with(LOCKS).alone(),
    case!(a_dropped_acquire).with(LOCKS).alone(),
    case!(a_dropped_attempt).with(LOCKS).alone(),
    case!(a_dropped_acquire_for).with(LOCKS).alone(),
    case!(a_dropped_wait).with(LOCKS).alone(),
    case!(a_dropped_bounded_wait).with(LOCKS).alone(),
    case!(a_wait_dropped_around_its_grant).with(LOCKS).alone(),
    case!(a_dropped_acquire_shared).with(SHARED).alone(),
    case!(a_dropped_wait_shared).with(SHARED).alone(),
    case!(a_dropped_release).with(LOCKS).alone(),
    case!(a_dropped_verify).with(LOCKS),
    case!(a_dropped_break).with(&[Area::BreakLock]).alone(),
    case!(a_dropped_create).with(GROUPS),
    case!(a_dropped_join).with(GROUPS),
    case!(a_dropped_join_create).with(GROUPS),
    case!(a_dropped_leave).with(GROUPS),
    case!(a_dropped_update).with(&[Area::Capabilities]),
    case!(a_dropped_members).with(GROUPS),
    case!(a_dropped_watch).with(&[Area::Events]),
    case!(a_dropped_campaign).with(ELECTIONS).alone(),
    case!(a_dropped_candidacy).with(ELECTIONS).alone(),
    case!(a_candidacy_dropped_around_its_election).with(ELECTIONS).alone(),
    case!(a_dropped_stand_down).with(ELECTIONS).alone(),
    case!(a_dropped_leader).with(ELECTIONS),
    case!(a_dropped_observation).with(ELECTIONS),
    // Guards.
    case!(a_guard_dropped_in_a_current_thread_runtime).with(LOCKS),
    case!(a_guard_dropped_without_a_runtime).with(LOCKS),
    case!(a_guard_dropped_while_its_runtime_shuts_down).with(LOCKS),
    case!(a_guard_dropped_by_a_panic).with(LOCKS),
    case!(a_term_dropped_in_a_current_thread_runtime).with(ELECTIONS),
    case!(a_term_dropped_without_a_runtime).with(ELECTIONS),
    case!(a_term_dropped_while_its_runtime_shuts_down).with(ELECTIONS),
    case!(a_term_dropped_by_a_panic).with(ELECTIONS),
    case!(a_wait_dropped_while_its_runtime_shuts_down).with(LOCKS),
];

// ---- Start and stop.

async fn a_dropped_start(ctx: &Context) -> Result<()> {
    sweep(async |cut| {
        let a = ctx.open("a")?;
        let cutting = cut.apply(a.start()).await?;
        if !cutting.is_completed() {
            ctx.until(AT_ONCE, "the start after a dropped one", async || started(&a).await).await?;
        }
        a.heartbeat().await?;
        a.stop().await?;
        Ok((cutting, Duration::ZERO))
    })
    .await
}

/// Starts it, unless an earlier start is being undone.
async fn started(coordinator: &Coordinator) -> Result<bool> {
    match coordinator.start().await {
        Err(error) if error.kind() == ErrorKind::NotRunning => Ok(false),
        result => result.map(|()| true),
    }
}

async fn a_dropped_stop(ctx: &Context) -> Result<()> {
    let lock = ctx.start("b").await?.lock("it")?;
    sweep(async |cut| {
        let a = ctx.open("a")?;
        a.start().await?;
        let guard = a.lock("it")?.acquire().await?;
        let cutting = cut.apply(a.stop()).await?;
        if !cut.polls() {
            guard.check()?;
            a.stop().await?;
        }
        let time = others_get(&lock, cut).await?;
        // The stop goes on by itself, and then it can be started again.
        ctx.until(AT_ONCE, "the start after a dropped stop", async || started(&a).await).await?;
        a.stop().await?;
        Ok((cutting, time))
    })
    .await
}

// ---- Locks.

/// How long somebody else needs to get the lock, which must be under a second in any case.
async fn others_get(lock: &Lock, cut: Cut) -> Result<Duration> {
    let start = Instant::now();
    let guard = lock.try_acquire_for(AT_ONCE).await?;
    let time = start.elapsed();
    let guard = guard.unwrap_or_else(|| panic!("after {cut:?} the lock is held by nobody"));
    guard.check()?;
    guard.release().await?;
    Ok(time)
}

/// Cuts an acquisition of a lock that is free.
async fn sweep_acquisition<T>(
    ctx: &Context,
    acquire: impl AsyncFn(&Lock) -> Result<T>,
) -> Result<()> {
    let ours = ctx.start("a").await?.lock("it")?;
    let others = ctx.start("b").await?.lock("it")?;
    sweep(async |cut| {
        let cutting = cut.apply(async { acquire(&ours).await.map(drop) }).await?;
        Ok((cutting, others_get(&others, cut).await?))
    })
    .await
}

/// Cuts an acquisition of a lock that is held, and held on.
async fn sweep_wait<T>(ctx: &Context, acquire: impl AsyncFn(&Lock) -> Result<T>) -> Result<()> {
    let held = ctx.start("holder").await?.lock("it")?;
    let ours = ctx.start("a").await?.lock("it")?;
    let others = ctx.start("b").await?.lock("it")?;
    sweep(async |cut| {
        let guard = held.acquire().await?;
        let cutting = cut.apply(async { acquire(&ours).await.map(drop) }).await?;
        assert!(!cutting.is_completed(), "it was held");
        guard.check()?;
        guard.release().await?;
        Ok((cutting, others_get(&others, cut).await?))
    })
    .await
}

async fn a_dropped_acquire(ctx: &Context) -> Result<()> {
    sweep_acquisition(ctx, async |lock| lock.acquire().await).await
}

async fn a_dropped_attempt(ctx: &Context) -> Result<()> {
    sweep_acquisition(ctx, async |lock| lock.try_acquire().await).await
}

async fn a_dropped_acquire_for(ctx: &Context) -> Result<()> {
    sweep_acquisition(ctx, async |lock| lock.try_acquire_for(LONG).await).await
}

async fn a_dropped_acquire_shared(ctx: &Context) -> Result<()> {
    sweep_acquisition(ctx, async |lock| lock.acquire_shared().await).await
}

async fn a_dropped_wait(ctx: &Context) -> Result<()> {
    sweep_wait(ctx, async |lock| lock.acquire().await).await
}

async fn a_dropped_bounded_wait(ctx: &Context) -> Result<()> {
    sweep_wait(ctx, async |lock| lock.try_acquire_for(LONG).await).await
}

async fn a_dropped_wait_shared(ctx: &Context) -> Result<()> {
    sweep_wait(ctx, async |lock| lock.acquire_shared().await).await
}

/// Longer than a case.
const LONG: Duration = Duration::from_secs(600);

/// How long a wait is given to reach the backend's queue. Nothing tells from outside that it did.
const QUEUED: Duration = Duration::from_millis(20);

async fn a_wait_dropped_around_its_grant(ctx: &Context) -> Result<()> {
    let held = ctx.start("holder").await?.lock("it")?;
    let ours = ctx.start("a").await?.lock("it")?;
    let others = ctx.start("b").await?.lock("it")?;
    sweep(async |cut| {
        let guard = held.acquire().await?;
        let mut waiting = Box::pin(async { ours.acquire().await.map(drop) });
        ctx.pending_for(QUEUED, "a lock that is held", &mut waiting).await;
        guard.release().await?;
        let cutting = cut.apply(waiting).await?;
        Ok((cutting, others_get(&others, cut).await?))
    })
    .await
}

async fn a_dropped_release(ctx: &Context) -> Result<()> {
    let ours = ctx.start("a").await?.lock("it")?;
    let others = ctx.start("b").await?.lock("it")?;
    sweep(async |cut| {
        let guard = ours.acquire().await?;
        let cutting = cut.apply(guard.release()).await?;
        Ok((cutting, others_get(&others, cut).await?))
    })
    .await
}

async fn a_dropped_verify(ctx: &Context) -> Result<()> {
    let guard = ctx.start("a").await?.lock("it")?.acquire().await?;
    sweep(async |cut| {
        let cutting = cut.apply(guard.verify()).await?;
        guard.check()?;
        Ok((cutting, Duration::ZERO))
    })
    .await?;
    assert!(guard.verify().await?);
    guard.release().await?;
    Ok(())
}

async fn a_dropped_break(ctx: &Context) -> Result<()> {
    let held = ctx.start("holder").await?.lock("it")?;
    let ours = ctx.start("a").await?.lock("it")?;
    let others = ctx.start("b").await?.lock("it")?;
    sweep(async |cut| {
        let guard = held.acquire().await?;
        let cutting = cut.apply(ours.break_lock()).await?;
        if !cut.polls() {
            assert!(guard.verify().await?, "what was never polled breaks nothing");
            guard.release().await?;
        }
        Ok((cutting, others_get(&others, cut).await?))
    })
    .await
}

// ---- Groups.

async fn a_dropped_create(ctx: &Context) -> Result<()> {
    let a = ctx.start("a").await?;
    sweep(async |cut| {
        let cutting = cut.apply(a.create_group("g")).await?;
        if cut.polls() {
            let exists = async || Ok(a.groups().await?.contains(&"g".into()));
            ctx.until(AT_ONCE, "the group that was being created", exists).await?;
            a.delete_group("g").await?;
        }
        assert!(a.groups().await?.is_empty());
        Ok((cutting, Duration::ZERO))
    })
    .await
}

async fn a_dropped_join(ctx: &Context) -> Result<()> {
    ctx.start("b").await?.create_group("g").await?;
    sweep_join(ctx, async |a| a.join_group("g", &()).await).await
}

async fn a_dropped_join_create(ctx: &Context) -> Result<()> {
    sweep_join(ctx, async |a| a.join_group_create("g", &()).await).await
}

async fn sweep_join(ctx: &Context, join: impl AsyncFn(&Coordinator) -> Result<()>) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    sweep(async |cut| {
        let cutting = cut.apply(join(&a)).await?;
        if cutting.is_completed() {
            a.leave_group("g").await?;
        }
        // Once it can join again, the dropped join is undone, and takes nothing away any more.
        let joined = async || match a.join_group_create("g", &1).await {
            Err(error) if error.kind() == ErrorKind::MemberAlreadyExists => Ok(false),
            result => result.map(|()| true),
        };
        ctx.until(AT_ONCE, "the join after a dropped one", joined).await?;
        assert_eq!(b.members("g").await?, [a.member_id().clone()].into());
        a.leave_group("g").await?;
        assert!(b.members("g").await?.is_empty());
        Ok((cutting, Duration::ZERO))
    })
    .await
}

async fn a_dropped_leave(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    sweep(async |cut| {
        a.join_group_create("g", &()).await?;
        let cutting = cut.apply(a.leave_group("g")).await?;
        if !cut.polls() {
            assert_eq!(b.members("g").await?.len(), 1, "what was never polled leaves nothing");
            a.leave_group("g").await?;
        }
        let left = async || Ok(b.members("g").await?.is_empty());
        ctx.until(AT_ONCE, "the end of a dropped leave", left).await?;
        Ok((cutting, Duration::ZERO))
    })
    .await
}

async fn a_dropped_update(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    a.join_group_create("g", &0).await?;
    let mut now = 0;
    sweep(async |cut| {
        let cutting = cut.apply(a.update_capabilities("g", &(now + 1))).await?;
        now += i32::from(cut.polls());
        let updated = async || Ok(b.member("g", "a").await?.capabilities.decode::<i32>()? == now);
        ctx.until(AT_ONCE, "the end of a dropped update", updated).await?;
        Ok((cutting, Duration::ZERO))
    })
    .await
}

async fn a_dropped_members(ctx: &Context) -> Result<()> {
    let a = ctx.start("a").await?;
    a.join_group_create("g", &()).await?;
    sweep(async |cut| {
        let cutting = cut.apply(a.members("g")).await?;
        Ok((cutting, Duration::ZERO))
    })
    .await?;
    assert_eq!(a.members("g").await?.len(), 1);
    Ok(())
}

async fn a_dropped_watch(ctx: &Context) -> Result<()> {
    let a = ctx.start("a").await?;
    a.create_group("g").await?;
    sweep(async |cut| {
        let cutting = cut.apply(async { a.watch_group("g").await.map(drop) }).await?;
        Ok((cutting, Duration::ZERO))
    })
    .await?;
    let mut events = a.watch_group("g").await?;
    next_within(ctx, "the snapshot", &mut events).await;
    Ok(())
}

// ---- Elections.

/// Two members of a group.
async fn candidates(ctx: &Context) -> Result<(Coordinator, Coordinator)> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    for coordinator in [&a, &b] {
        coordinator.join_group_create("g", &()).await?;
    }
    Ok((a, b))
}

/// How long another member needs to become the leader.
async fn another_leads(coordinator: &Coordinator, cut: Cut) -> Result<Duration> {
    let start = Instant::now();
    let term = coordinator.campaign_with("g", Wait::For(AT_ONCE)).await?;
    let time = start.elapsed();
    let term = term.unwrap_or_else(|| panic!("after {cut:?} nobody leads"));
    term.resign().await?;
    Ok(time)
}

async fn a_dropped_campaign(ctx: &Context) -> Result<()> {
    let (a, b) = candidates(ctx).await?;
    sweep(async |cut| {
        let cutting = cut.apply(async { a.campaign("g").await.map(drop) }).await?;
        Ok((cutting, another_leads(&b, cut).await?))
    })
    .await
}

async fn a_dropped_candidacy(ctx: &Context) -> Result<()> {
    let (a, b) = candidates(ctx).await?;
    sweep(async |cut| {
        let term = b.campaign("g").await?;
        let cutting = cut.apply(async { a.campaign("g").await.map(drop) }).await?;
        assert!(!cutting.is_completed(), "somebody else leads");
        term.check()?;
        term.resign().await?;
        Ok((cutting, another_leads(&b, cut).await?))
    })
    .await
}

async fn a_candidacy_dropped_around_its_election(ctx: &Context) -> Result<()> {
    let (a, b) = candidates(ctx).await?;
    sweep(async |cut| {
        let term = b.campaign("g").await?;
        let mut waiting = Box::pin(async { a.campaign("g").await.map(drop) });
        ctx.pending_for(QUEUED, "a term of another", &mut waiting).await;
        term.resign().await?;
        let cutting = cut.apply(waiting).await?;
        Ok((cutting, another_leads(&b, cut).await?))
    })
    .await
}

async fn a_dropped_stand_down(ctx: &Context) -> Result<()> {
    let (a, b) = candidates(ctx).await?;
    sweep(async |cut| {
        let term = a.campaign("g").await?;
        let cutting = cut.apply(term.resign()).await?;
        Ok((cutting, another_leads(&b, cut).await?))
    })
    .await
}

async fn a_dropped_leader(ctx: &Context) -> Result<()> {
    let (a, _) = candidates(ctx).await?;
    sweep(async |cut| {
        let cutting = cut.apply(a.leader("g")).await?;
        Ok((cutting, Duration::ZERO))
    })
    .await?;
    assert_eq!(a.leader("g").await?, None);
    Ok(())
}

async fn a_dropped_observation(ctx: &Context) -> Result<()> {
    let (a, _) = candidates(ctx).await?;
    sweep(async |cut| {
        let cutting = cut.apply(async { a.watch_leader("g").await.map(drop) }).await?;
        Ok((cutting, Duration::ZERO))
    })
    .await?;
    let mut leaders = a.watch_leader("g").await?;
    assert_eq!(next_within(ctx, "the present leader", &mut leaders).await, None);
    Ok(())
}

// ---- Guards, in every place.

/// A lock or a term.
#[derive(Clone, Copy)]
enum Kind {
    Lock,
    Term,
}

/// A guard of either kind.
type Guard = Box<dyn Any + Send>;

impl Kind {
    async fn acquire(self, coordinator: &Coordinator) -> Result<Guard> {
        match self {
            Self::Lock => Ok(Box::new(coordinator.lock("it")?.acquire().await?)),
            Self::Term => Ok(Box::new(coordinator.campaign("g").await?)),
        }
    }

    /// Somebody else gets it, within a second.
    async fn is_free_for(self, coordinator: &Coordinator) -> Result<()> {
        let free = match self {
            Self::Lock => coordinator.lock("it")?.try_acquire_for(AT_ONCE).await?.is_some(),
            Self::Term => {
                let term: Option<Leadership> =
                    coordinator.campaign_with("g", Wait::For(AT_ONCE)).await?;
                term.is_some()
            }
        };
        assert!(free, "given back within a second of the drop");
        Ok(())
    }
}

/// Acquires and drops in `place`, on a thread that knows no runtime.
async fn dropped_in(
    ctx: &Context,
    kind: Kind,
    place: impl FnOnce(Coordinator, Kind) -> Result<()> + Send + 'static,
) -> Result<()> {
    let (a, b) = match kind {
        Kind::Lock => (ctx.start("a").await?, ctx.start("b").await?),
        Kind::Term => candidates(ctx).await?,
    };
    let (reply, answer) = oneshot::channel();
    std::thread::spawn(move || reply.send(place(a, kind)));
    ctx.soon("the place of the drop", answer).await.expect("nothing panics there")?;
    kind.is_free_for(&b).await
}

/// Drops it, which must not block.
fn drop_at_once<T>(it: T) {
    let start = Instant::now();
    drop(it);
    assert!(start.elapsed() < Duration::from_millis(100), "the drop took {:?}", start.elapsed());
}

fn in_a_current_thread_runtime(coordinator: Coordinator, kind: Kind) -> Result<()> {
    let runtime = runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        drop_at_once(kind.acquire(&coordinator).await?);
        Ok(())
    })
}

fn without_a_runtime(coordinator: Coordinator, kind: Kind) -> Result<()> {
    drop_at_once(block_on(kind.acquire(&coordinator))?);
    Ok(())
}

fn while_its_runtime_shuts_down(coordinator: Coordinator, kind: Kind) -> Result<()> {
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).build();
    let runtime = runtime.expect("a runtime");
    let (acquired, told) = std::sync::mpsc::channel();
    runtime.spawn(async move {
        let guard = kind.acquire(&coordinator).await;
        // An error means that nobody cares any more.
        drop(acquired.send(guard.as_ref().map(drop).map_err(Clone::clone)));
        std::future::pending::<()>().await;
        drop(guard);
    });
    told.recv().expect("the task lives")?;
    drop_at_once(runtime);
    Ok(())
}

fn by_a_panic(coordinator: Coordinator, kind: Kind) -> Result<()> {
    let guard = block_on(kind.acquire(&coordinator))?;
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        let _guard = guard;
        // A panic that prints nothing.
        resume_unwind(Box::new("intended"));
    }));
    assert!(unwound.is_err());
    Ok(())
}

async fn a_guard_dropped_in_a_current_thread_runtime(ctx: &Context) -> Result<()> {
    dropped_in(ctx, Kind::Lock, in_a_current_thread_runtime).await
}

async fn a_guard_dropped_without_a_runtime(ctx: &Context) -> Result<()> {
    dropped_in(ctx, Kind::Lock, without_a_runtime).await
}

async fn a_guard_dropped_while_its_runtime_shuts_down(ctx: &Context) -> Result<()> {
    dropped_in(ctx, Kind::Lock, while_its_runtime_shuts_down).await
}

async fn a_guard_dropped_by_a_panic(ctx: &Context) -> Result<()> {
    dropped_in(ctx, Kind::Lock, by_a_panic).await
}

async fn a_term_dropped_in_a_current_thread_runtime(ctx: &Context) -> Result<()> {
    dropped_in(ctx, Kind::Term, in_a_current_thread_runtime).await
}

async fn a_term_dropped_without_a_runtime(ctx: &Context) -> Result<()> {
    dropped_in(ctx, Kind::Term, without_a_runtime).await
}

async fn a_term_dropped_while_its_runtime_shuts_down(ctx: &Context) -> Result<()> {
    dropped_in(ctx, Kind::Term, while_its_runtime_shuts_down).await
}

async fn a_term_dropped_by_a_panic(ctx: &Context) -> Result<()> {
    dropped_in(ctx, Kind::Term, by_a_panic).await
}

async fn a_wait_dropped_while_its_runtime_shuts_down(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let guard = b.lock("it")?.acquire().await?;
    let (reply, answer) = oneshot::channel();
    std::thread::spawn(move || {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build();
        let runtime = runtime.expect("a runtime");
        let (waits, told) = std::sync::mpsc::channel();
        runtime.spawn(async move {
            let mut waiting = Box::pin(Kind::Lock.acquire(&a));
            let queued = tokio::time::timeout(QUEUED, &mut waiting).await.is_err();
            // An error means that nobody cares any more.
            let _ = waits.send(queued);
            drop(waiting.await);
        });
        assert!(told.recv().expect("the task lives"), "it was held");
        drop_at_once(runtime);
        reply.send(())
    });
    ctx.soon("the place of the drop", answer).await.expect("nothing panics there");
    guard.release().await?;
    Kind::Lock.is_free_for(&b).await
}
