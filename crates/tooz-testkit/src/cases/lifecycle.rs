//! Starting, stopping, being dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tooz_core::{Characteristic, ErrorKind, Feature, Heartbeat, Loss, Result, Wait};

use super::{fails, next_within};
use crate::Area;
use crate::case::{Case, case};
use crate::context::Context;

const AREA: Area = Area::Lifecycle;

pub(super) const CASES: &[Case] = &[
    case!(a_coordinator_starts_and_stops),
    case!(what_is_not_running_cannot_be_stopped_or_renewed),
    case!(a_second_start_fails),
    case!(a_stopped_coordinator_starts_again),
    case!(twenty_starts_and_stops_leave_nothing),
    case!(a_handle_that_is_dropped_stops_nothing_while_another_lives),
    case!(a_dropped_coordinator_is_stopped),
    case!(a_guard_keeps_its_coordinator_alive).with(&[Area::Locks]),
    case!(locks_need_a_running_coordinator).with(&[Area::Locks]),
    case!(groups_need_a_running_coordinator).with(&[Area::Groups]),
    case!(a_stop_releases_locks).with(&[Area::Locks]),
    case!(a_stop_waits_for_guards_that_are_in_use).with(&[Area::Locks]),
    case!(a_stop_waits_for_partitions_that_are_worked_on).with(&[
        Area::Locks,
        Area::Events,
        Area::Capabilities,
    ]),
    case!(a_stop_ends_waiting_acquisitions).with(&[Area::Locks]),
    case!(a_stop_leaves_groups).with(&[Area::Groups]),
    case!(a_restart_forgets_memberships).with(&[Area::Groups]),
    case!(a_stop_stands_down).with(&[Area::Elections]),
    case!(a_stop_can_be_waited_for),
    case!(a_stop_ends_streams).with(&[Area::Events, Area::Elections]),
    case!(a_dropped_coordinator_gives_everything_back).with(&[Area::Locks, Area::Groups]),
    case!(undeclared_features_are_refused_before_any_input_and_output),
    case!(what_is_required_must_be_declared),
    case!(unknown_options_are_refused),
    case!(empty_member_ids_are_refused),
    case!(a_heart_by_hand_says_when_it_beats_next),
    case!(what_rests_on_time_is_declared),
    case!(two_coordinators_may_have_the_same_member_id),
];

async fn a_coordinator_starts_and_stops(ctx: &Context) -> Result<()> {
    let coordinator = ctx.open("a")?;
    ctx.soon("start", coordinator.start()).await?;
    ctx.soon("stop", coordinator.stop()).await?;
    ctx.nothing_is_left().await
}

async fn what_is_not_running_cannot_be_stopped_or_renewed(ctx: &Context) -> Result<()> {
    let coordinator = ctx.open("a")?;
    for _ in ["before the start", "after the stop"] {
        fails(ErrorKind::NotRunning, coordinator.stop().await);
        fails(ErrorKind::NotRunning, coordinator.heartbeat().await);
        coordinator.start().await?;
        coordinator.stop().await?;
    }
    Ok(())
}

async fn a_second_start_fails(ctx: &Context) -> Result<()> {
    let coordinator = ctx.start("a").await?;
    fails(ErrorKind::NotRunning, coordinator.start().await);
    coordinator.heartbeat().await.map(drop)
}

async fn a_stopped_coordinator_starts_again(ctx: &Context) -> Result<()> {
    let coordinator = ctx.start("a").await?;
    coordinator.stop().await?;
    coordinator.start().await?;
    coordinator.heartbeat().await?;
    coordinator.stop().await
}

async fn twenty_starts_and_stops_leave_nothing(ctx: &Context) -> Result<()> {
    let coordinator = ctx.open("a")?;
    for _ in 0..20 {
        ctx.soon("start", coordinator.start()).await?;
        ctx.soon("stop", coordinator.stop()).await?;
    }
    ctx.nothing_is_left().await
}

async fn a_handle_that_is_dropped_stops_nothing_while_another_lives(ctx: &Context) -> Result<()> {
    let coordinator = ctx.start("a").await?;
    drop(coordinator.clone());
    coordinator.heartbeat().await.map(drop)
}

async fn a_dropped_coordinator_is_stopped(ctx: &Context) -> Result<()> {
    let coordinator = ctx.open("a")?;
    coordinator.start().await?;
    let mut events = coordinator.session_events();
    drop(coordinator);
    assert_eq!(ctx.soon("the end of the session's events", events.next()).await, None);
    ctx.nothing_is_left().await
}

async fn a_guard_keeps_its_coordinator_alive(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.open("a")?, ctx.start("b").await?);
    a.start().await?;
    let guard = a.lock("it")?.acquire().await?;
    drop(a);
    assert!(guard.verify().await?, "held as long as the guard lives");
    assert!(b.lock("it")?.try_acquire().await?.is_none(), "held as long as the guard lives");
    drop(guard);
    let guard = b.lock("it")?.try_acquire_for(Duration::from_secs(1)).await?;
    assert!(guard.is_some(), "released with the guard");
    Ok(())
}

async fn locks_need_a_running_coordinator(ctx: &Context) -> Result<()> {
    let coordinator = ctx.open("a")?;
    for _ in ["before the start", "after the stop"] {
        let lock = coordinator.lock("it")?;
        fails(ErrorKind::NotRunning, lock.try_acquire().await);
        fails(ErrorKind::NotRunning, ctx.soon("acquire", lock.acquire()).await);
        coordinator.start().await?;
        coordinator.stop().await?;
    }
    Ok(())
}

async fn groups_need_a_running_coordinator(ctx: &Context) -> Result<()> {
    let coordinator = ctx.open("a")?;
    for _ in ["before the start", "after the stop"] {
        fails(ErrorKind::NotRunning, coordinator.create_group("g").await);
        fails(ErrorKind::NotRunning, coordinator.groups().await);
        fails(ErrorKind::NotRunning, coordinator.join_group("g", &()).await);
        fails(ErrorKind::NotRunning, coordinator.join_group_create("g", &()).await);
        fails(ErrorKind::NotRunning, coordinator.leave_group("g").await);
        fails(ErrorKind::NotRunning, coordinator.members("g").await);
        coordinator.start().await?;
        coordinator.stop().await?;
    }
    Ok(())
}

async fn a_stop_releases_locks(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let guard = a.lock("it")?.acquire().await?;
    a.stop().await?;
    assert_eq!(guard.loss(), Some(Loss::GivenUp), "the guard says why it is lost");
    fails(ErrorKind::NotRunning, guard.check());
    assert!(b.lock("it")?.try_acquire().await?.is_some(), "free once the stop has returned");
    Ok(())
}

/// A piece of work, from a look at the guard to the next.
const SLICE: Duration = Duration::from_millis(200);

/// Longer than any slice, and bounded.
const UNHURRIED: Duration = Duration::from_secs(4);

async fn work(busy: &AtomicBool) {
    busy.store(true, SeqCst);
    tokio::time::sleep(SLICE).await;
    busy.store(false, SeqCst);
}

async fn a_stop_waits_for_guards_that_are_in_use(ctx: &Context) -> Result<()> {
    let (b, busy) = (ctx.start("b").await?, [(); 2].map(|()| Arc::new(AtomicBool::new(false))));
    let mut workers = JoinSet::new();
    for heart in [Heartbeat::Automatic, Heartbeat::Manual] {
        let a = ctx.builder("a")?.stop_grace(UNHURRIED).heartbeat(heart).build()?;
        a.start().await?;
        ctx.keep(&a);
        let (looks, waits) = (a.lock("looks")?.acquire().await?, a.lock("waits")?.acquire().await?);
        let [slices, last] = busy.clone();
        workers.spawn(async move {
            while looks.check().is_ok() {
                work(&slices).await;
            }
        });
        workers.spawn(async move {
            waits.lost().await;
            work(&last).await;
        });
        // In the middle of a slice.
        tokio::time::sleep(SLICE / 2).await;
        let next = async |name: &str, busy: &AtomicBool| {
            let guard = b.lock(name)?.acquire().await?;
            assert!(!busy.load(SeqCst), "{name}: the next holder begins while the last works");
            guard.check()
        };
        let began = Instant::now();
        let (stopped, looks, waits) =
            tokio::join!(a.stop(), next("looks", &busy[0]), next("waits", &busy[1]));
        stopped.and(looks).and(waits)?;
        assert!(began.elapsed() < UNHURRIED, "it waits no longer than it must");
    }
    Ok(())
}

async fn a_stop_waits_for_partitions_that_are_worked_on(ctx: &Context) -> Result<()> {
    const COUNT: u32 = 4;
    let (a, b) = (ctx.builder("a")?.stop_grace(UNHURRIED).build()?, ctx.start("b").await?);
    a.start().await?;
    ctx.keep(&a);
    let mut ours = a.partitioned_group("g").join().await?.partitions(COUNT);
    let busy = Arc::new([(); COUNT as usize].map(|()| AtomicBool::new(false)));
    let mut workers = JoinSet::new();
    // The last is never asked for, and nobody works on it.
    for _ in 1..COUNT {
        let owned = ctx.soon("a partition of the only member", ours.owned()).await;
        let (partition, busy) = (owned.expect("a partition"), busy.clone());
        workers.spawn(async move {
            while partition.is_revoked().is_none() {
                work(&busy[partition.number() as usize]).await;
            }
            // What cannot wait is still covered.
            partition.check()
        });
    }
    tokio::time::sleep(SLICE / 2).await;
    let next = async {
        let mut theirs = b.partitioned_group("g").join().await?.partitions(COUNT);
        for _ in 0..COUNT {
            let owned = ctx.soon("a partition of the next owner", theirs.owned()).await;
            let number = owned.expect("a partition").number();
            assert!(!busy[number as usize].load(SeqCst), "{number}: worked on by two at once");
        }
        Ok(())
    };
    let began = Instant::now();
    let (stopped, next) = tokio::join!(a.stop(), next);
    stopped.and(next)?;
    assert!(began.elapsed() < UNHURRIED, "it waits no longer than it must");
    while let Some(worked) = workers.join_next().await {
        worked.expect("no panic")?;
    }
    Ok(())
}

async fn a_stop_ends_waiting_acquisitions(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let _guard = a.lock("it")?.acquire().await?;
    let lock = b.lock("it")?;
    let mut waiting = Box::pin(lock.acquire());
    ctx.pending_for(Duration::from_millis(50), "a lock that is held", &mut waiting).await;
    b.stop().await?;
    fails(ErrorKind::NotRunning, ctx.soon("the end of a waiting acquisition", waiting).await);
    Ok(())
}

async fn a_stop_leaves_groups(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    a.join_group_create("g", &()).await?;
    a.stop().await?;
    assert!(b.members("g").await?.is_empty(), "left once the stop has returned");
    b.delete_group("g").await
}

async fn a_restart_forgets_memberships(ctx: &Context) -> Result<()> {
    let a = ctx.start("a").await?;
    a.join_group_create("g", &()).await?;
    a.stop().await?;
    a.start().await?;
    assert!(a.members("g").await?.is_empty(), "a stop leaves groups for good");
    a.join_group("g", &()).await
}

async fn a_stop_stands_down(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    a.join_group_create("g", &()).await?;
    b.join_group("g", &()).await?;
    let term = a.campaign("g").await?;
    a.stop().await?;
    fails(ErrorKind::NotRunning, term.check());
    let term = ctx.within(Duration::from_secs(1), "the next term", b.campaign("g")).await?;
    term.check()
}

async fn a_stop_can_be_waited_for(ctx: &Context) -> Result<()> {
    let a = ctx.open("a")?;
    ctx.soon("what is not started", a.stopped()).await;
    for _ in ["first", "again"] {
        a.start().await?;
        let mut stopped = Box::pin(a.stopped());
        ctx.pending_for(Duration::from_millis(50), "the stop of what runs", &mut stopped).await;
        let (ended, ()) = ctx.soon("a stop", async { tokio::join!(a.stop(), stopped) }).await;
        ended?;
        ctx.soon("what is stopped", a.stopped()).await;
    }
    Ok(())
}

async fn a_stop_ends_streams(ctx: &Context) -> Result<()> {
    let a = ctx.start("a").await?;
    a.create_group("g").await?;
    let mut session = a.session_events();
    let mut events = a.watch_group("g").await?;
    let mut leaders = a.watch_leader("g").await?;
    next_within(ctx, "the snapshot", &mut events).await;
    next_within(ctx, "the present leader", &mut leaders).await;
    a.stop().await?;
    assert_eq!(ctx.soon("the end of the group's events", events.next()).await, None);
    assert_eq!(ctx.soon("the end of the leaders", leaders.next()).await, None);
    assert_eq!(ctx.soon("the end of the session's events", session.next()).await, None);
    Ok(())
}

async fn a_dropped_coordinator_gives_everything_back(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.open("a")?, ctx.start("b").await?);
    a.start().await?;
    a.join_group_create("g", &()).await?;
    let guard = a.lock("it")?.acquire().await?;
    drop(a);
    drop(guard);
    let second = Duration::from_secs(1);
    assert!(b.lock("it")?.try_acquire_for(second).await?.is_some(), "released within a second");
    let left = async || Ok(b.members("g").await?.is_empty());
    ctx.until(second, "the group without the dropped coordinator", left).await
}

async fn undeclared_features_are_refused_before_any_input_and_output(ctx: &Context) -> Result<()> {
    // Not started: a driver that is called says NotRunning.
    let a = ctx.open("a")?;
    for feature in Feature::ALL {
        if a.features().contains(*feature) {
            continue;
        }
        let refused: Result<()> = match feature {
            Feature::Locks => a.lock("it").map(drop),
            Feature::SharedLocks => match a.lock("it") {
                Ok(lock) => lock.try_acquire_shared().await.map(drop),
                Err(error) => Err(error),
            },
            Feature::BreakLock => match a.lock("it") {
                Ok(lock) => lock.break_lock().await.map(drop),
                Err(error) => Err(error),
            },
            Feature::Groups => a.members("g").await.map(drop),
            Feature::Capabilities => a.update_capabilities("g", &1).await,
            Feature::Events => a.watch_group("g").await.map(drop),
            Feature::Elections => a.campaign_with("g", Wait::Try).await.map(drop),
            // No call depends on it alone.
            _ => continue,
        };
        fails(ErrorKind::NotImplemented, refused);
    }
    Ok(())
}

async fn what_is_required_must_be_declared(ctx: &Context) -> Result<()> {
    let declared = ctx.driver().characteristics;
    for characteristic in Characteristic::ALL {
        let built = ctx.builder("a")?.require(*characteristic).build();
        // Known before any input and output, or only once the deployment was looked at.
        let refused = if !declared.contains(*characteristic) {
            fails(ErrorKind::DriverChosenPoorly, built)
        } else if ctx.lacks().contains(*characteristic) {
            fails(ErrorKind::DriverChosenPoorly, built?.start().await)
        } else {
            built?.start().await?;
            continue;
        };
        assert!(refused.to_string().contains(characteristic.name()), "it names it: {refused}");
    }
    for feature in Feature::ALL {
        let built = ctx.builder("a")?.require_feature(*feature).build();
        if ctx.driver().features.contains(*feature) {
            built?;
        } else {
            let error = fails(ErrorKind::DriverChosenPoorly, built);
            assert!(error.to_string().contains(feature.name()), "it names it: {error}");
        }
    }
    Ok(())
}

async fn unknown_options_are_refused(ctx: &Context) -> Result<()> {
    let error = fails(ErrorKind::InvalidInput, ctx.builder("a")?.option("no-such", "1").build());
    assert!(error.to_string().contains("no-such"), "it names the option: {error}");
    Ok(())
}

async fn empty_member_ids_are_refused(ctx: &Context) -> Result<()> {
    fails(ErrorKind::InvalidInput, ctx.builder(""));
    Ok(())
}

async fn a_heart_by_hand_says_when_it_beats_next(ctx: &Context) -> Result<()> {
    let a = ctx.builder("a")?.heartbeat(Heartbeat::Manual).build()?;
    a.start().await?;
    let next = a.heartbeat().await?;
    assert!(!next.is_zero(), "there is time until the next heartbeat");
    if let Some(ttl) = ctx.ttl() {
        assert!(next < ttl, "the next heartbeat ({next:?}) is before the end of the TTL ({ttl:?})");
    }
    a.stop().await
}

async fn what_rests_on_time_is_declared(ctx: &Context) -> Result<()> {
    let declared = ctx.driver().characteristics.contains(Characteristic::NonTimeoutBased);
    assert_eq!(
        declared,
        ctx.ttl().is_none(),
        "{} is declared where, and only where, nothing is owned for a time",
        Characteristic::NonTimeoutBased
    );
    Ok(())
}

async fn two_coordinators_may_have_the_same_member_id(ctx: &Context) -> Result<()> {
    let (one, two) = (ctx.start("a").await?, ctx.start("a").await?);
    one.heartbeat().await?;
    one.stop().await?;
    two.heartbeat().await.map(drop)
}
