//! Exclusive locks.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tooz_core::{ErrorKind, Heartbeat, Result};

use super::{AT_ONCE, contenders, fails, is_free};
use crate::case::{Case, case};
use crate::context::Context;
use crate::worker::{Contention, Wanted};
use crate::{Area, contention};

const AREA: Area = Area::Locks;

pub(super) const CASES: &[Case] = &[
    case!(a_held_lock_excludes_others),
    case!(a_released_lock_is_free_at_once),
    case!(a_dropped_guard_releases),
    case!(a_guard_knows_that_it_holds),
    case!(an_attempt_does_not_wait).alone(),
    case!(a_bounded_wait_ends_in_time).alone(),
    case!(a_wait_of_no_time_is_an_attempt),
    case!(a_bounded_wait_gets_a_lock_that_is_released),
    case!(a_wait_of_all_time_is_a_wait),
    case!(an_unbounded_wait_gets_a_lock_that_is_released),
    case!(a_waiter_is_woken_by_a_dropped_guard),
    case!(acquisitions_of_one_coordinator_do_not_nest),
    case!(acquisitions_by_the_same_member_id_exclude_each_other),
    case!(ten_waiters_get_it_one_after_the_other),
    case!(locks_of_other_names_are_independent),
    case!(a_hundred_locks_are_held_at_once),
    case!(a_lock_is_held_as_long_as_its_guard).quiet(),
    case!(a_wait_longer_than_the_ttl_succeeds).quiet(),
    case!(work_runs_while_it_is_held),
    case!(a_lock_stays_at_least_as_long_as_told).alone(),
    case!(a_stop_does_not_wait_long_for_a_lock_that_stays),
    case!(the_end_is_near_when_nothing_renews).quiet(),
    case!(a_loss_is_an_end_that_is_near).with(&[Area::BreakLock]),
    case!(empty_names_are_refused),
    case!(odd_names_work_or_are_refused),
    case!(sixty_four_contenders_never_hold_it_together).alone(),
];

async fn a_held_lock_excludes_others(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let _guard = a.lock("it")?.acquire().await?;
    assert!(b.lock("it")?.try_acquire().await?.is_none(), "another coordinator holds it");
    assert!(a.lock("it")?.try_acquire().await?.is_none(), "the same coordinator holds it");
    Ok(())
}

async fn a_released_lock_is_free_at_once(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    for coordinator in [&a, &b, &a, &a] {
        let guard = coordinator.lock("it")?.try_acquire().await?;
        let guard = guard.expect("free once the release has returned");
        guard.release().await?;
    }
    Ok(())
}

async fn a_dropped_guard_releases(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    drop(a.lock("it")?.acquire().await?);
    let guard = b.lock("it")?.try_acquire_for(AT_ONCE).await?;
    assert!(guard.is_some(), "released within a second");
    Ok(())
}

async fn a_guard_knows_that_it_holds(ctx: &Context) -> Result<()> {
    let a = ctx.start("a").await?;
    let guard = a.lock("it")?.acquire().await?;
    guard.check()?;
    assert_eq!(guard.loss(), None);
    assert!(guard.verify().await?, "the backend agrees");
    match (ctx.ttl(), guard.deadline()) {
        (None, None) => {}
        (Some(ttl), Some(deadline)) => {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(left < ttl, "the deadline is before the backend's own");
            assert!(!left.is_zero(), "the deadline is to come");
        }
        (ttl, deadline) => panic!("with a TTL of {ttl:?} the deadline is {deadline:?}"),
    }
    guard.release().await.map(drop)
}

async fn an_attempt_does_not_wait(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let _guard = a.lock("it")?.acquire().await?;
    let attempt = b.lock("it")?;
    let attempt = ctx.within(Duration::from_millis(500), "an attempt", attempt.try_acquire());
    assert!(attempt.await?.is_none());
    Ok(())
}

async fn a_bounded_wait_ends_in_time(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let _guard = a.lock("it")?.acquire().await?;
    let lock = b.lock("it")?;
    for time in [10, 300].map(Duration::from_millis) {
        let start = Instant::now();
        assert!(lock.try_acquire_for(time).await?.is_none());
        let took = start.elapsed();
        assert!(took >= time, "gave up after {took:?} of {time:?}");
        assert!(took < time + Duration::from_millis(500), "gave up only after {took:?}");
    }
    Ok(())
}

async fn a_wait_of_no_time_is_an_attempt(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let guard = a.lock("it")?.try_acquire_for(Duration::ZERO).await?;
    let guard = guard.expect("it is free");
    assert!(b.lock("it")?.try_acquire_for(Duration::ZERO).await?.is_none(), "it is held");
    guard.release().await.map(drop)
}

async fn a_bounded_wait_gets_a_lock_that_is_released(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let guard = a.lock("it")?.acquire().await?;
    let lock = b.lock("it")?;
    let mut waiting = Box::pin(lock.try_acquire_for(Duration::from_secs(30)));
    ctx.pending_for(Duration::from_millis(100), "a lock that is held", &mut waiting).await;
    guard.release().await?;
    let guard = ctx.within(AT_ONCE, "the lock after its release", waiting).await?;
    guard.expect("the time was not over").check()
}

async fn a_wait_of_all_time_is_a_wait(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let guard = a.lock("it")?.try_acquire_for(Duration::MAX).await?.expect("it is free");
    let lock = b.lock("it")?;
    let mut waiting = Box::pin(lock.try_acquire_for(Duration::MAX));
    ctx.pending_for(Duration::from_millis(100), "a lock that is held", &mut waiting).await;
    guard.release().await?;
    let guard = ctx.within(AT_ONCE, "the lock after its release", waiting).await?;
    guard.expect("the time was not over").check()
}

async fn an_unbounded_wait_gets_a_lock_that_is_released(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let guard = a.lock("it")?.acquire().await?;
    let lock = b.lock("it")?;
    let mut waiting = Box::pin(lock.acquire());
    ctx.pending_for(Duration::from_millis(100), "a lock that is held", &mut waiting).await;
    guard.check()?;
    guard.release().await?;
    let guard = ctx.within(AT_ONCE, "the lock after its release", waiting).await?;
    guard.check()
}

async fn a_waiter_is_woken_by_a_dropped_guard(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let guard = a.lock("it")?.acquire().await?;
    let lock = b.lock("it")?;
    let mut waiting = Box::pin(lock.acquire());
    ctx.pending_for(Duration::from_millis(100), "a lock that is held", &mut waiting).await;
    drop(guard);
    ctx.within(AT_ONCE, "the lock after its guard was dropped", waiting).await?.check()
}

async fn acquisitions_of_one_coordinator_do_not_nest(ctx: &Context) -> Result<()> {
    let a = ctx.start("a").await?;
    let lock = a.lock("it")?;
    let guard = lock.acquire().await?;
    let other = lock.clone();
    let mut waiting = Box::pin(other.acquire());
    ctx.pending_for(Duration::from_millis(100), "a lock that it holds itself", &mut waiting).await;
    guard.release().await?;
    ctx.within(AT_ONCE, "the lock after its release", waiting).await?.check()
}

async fn acquisitions_by_the_same_member_id_exclude_each_other(ctx: &Context) -> Result<()> {
    let (one, two) = (ctx.start("a").await?, ctx.start("a").await?);
    let guard = one.lock("it")?.acquire().await?;
    assert!(two.lock("it")?.try_acquire().await?.is_none(), "a namesake holds it");
    two.stop().await?;
    assert!(guard.verify().await?, "the stop of a namesake takes nothing away");
    guard.release().await?;
    Ok(())
}

async fn ten_waiters_get_it_one_after_the_other(ctx: &Context) -> Result<()> {
    let holder = ctx.start("holder").await?;
    let guard = holder.lock("it")?.acquire().await?;
    let mut waiters = JoinSet::new();
    for n in 0..10 {
        let lock = ctx.start(format!("waiter-{n}")).await?.lock("it")?;
        waiters.spawn(async move {
            let guard = lock.acquire().await?;
            guard.check()?;
            guard.release().await
        });
    }
    let early = tokio::time::timeout(Duration::from_millis(100), waiters.join_next()).await;
    assert!(early.is_err(), "they wait for the holder");
    guard.release().await?;
    while let Some(release) = ctx.soon("the next of the waiters", waiters.join_next()).await {
        release.expect("no panic")?;
    }
    Ok(())
}

async fn locks_of_other_names_are_independent(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let guard = a.lock("it")?.acquire().await?;
    // Names that a careless encoding takes for the same, or for one inside the other.
    for other in ["it2", "i", "It", "it ", "it/it", "it:it", "it.lock", "it_", "%69t"] {
        let held = match b.lock(other)?.try_acquire().await {
            Err(error) if error.kind() == ErrorKind::InvalidInput => continue,
            held => held?.unwrap_or_else(|| panic!("{other:?} is another lock than \"it\"")),
        };
        held.release().await?;
    }
    assert!(guard.verify().await?);
    Ok(())
}

async fn a_hundred_locks_are_held_at_once(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let mut guards = Vec::new();
    for n in 0..100 {
        let guard = a.lock(format!("lock-{n}"))?.try_acquire().await?;
        guards.push(guard.expect("nobody holds it"));
    }
    if let Some(ttl) = ctx.ttl() {
        // Nothing tells that nothing is lost, but time.
        tokio::time::sleep(ttl + ttl / 2).await;
    }
    for guard in &guards {
        guard.check()?;
    }
    assert!(!is_free(&b, "lock-0").await? && !is_free(&b, "lock-99").await?);
    for guard in guards {
        guard.release().await?;
    }
    Ok(())
}

async fn a_lock_is_held_as_long_as_its_guard(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let guard = a.lock("it")?.acquire().await?;
    let lock = b.lock("it")?;
    let mut waiting = Box::pin(lock.acquire());
    let time = ctx.ttl().map_or(Duration::from_secs(1), |ttl| ttl * 5 / 2);
    ctx.pending_for(time, "a lock that is held", &mut waiting).await;
    guard.check()?;
    assert!(guard.verify().await?, "the backend agrees");
    guard.release().await?;
    ctx.within(AT_ONCE, "the lock after its release", waiting).await?.check()
}

async fn a_wait_longer_than_the_ttl_succeeds(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let guard = a.lock("it")?.acquire().await?;
    let lock = b.lock("it")?;
    let time = ctx.ttl().map_or(Duration::from_secs(1), |ttl| ttl * 3 / 2);
    let mut waiting = Box::pin(lock.try_acquire_for(time * 10));
    ctx.pending_for(time, "a lock that is held", &mut waiting).await;
    drop(guard);
    let guard = ctx.within(AT_ONCE, "the lock after its release", waiting).await?;
    let guard = guard.expect("the time was not over");
    if let Some(ttl) = ctx.ttl() {
        tokio::time::sleep(ttl).await;
    }
    guard.check()?;
    assert!(guard.verify().await?, "held, however long it was waited for");
    Ok(())
}

async fn work_runs_while_it_is_held(ctx: &Context) -> Result<()> {
    let a = ctx.start("a").await?;
    let guard = a.lock("it")?.acquire().await?;
    let seven = guard.run(async {
        tokio::task::yield_now().await;
        7
    });
    assert_eq!(seven.await?, 7);
    a.stop().await?;
    fails(ErrorKind::NotRunning, guard.run(async { panic!("polled after the loss") }).await);
    Ok(())
}

async fn a_lock_stays_at_least_as_long_as_told(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let (stays, other) = (Duration::from_millis(200), b.lock("it")?);
    let lock = a.lock("it")?.at_least(stays);
    let start = Instant::now();
    lock.acquire().await?.release().await?;
    assert!(start.elapsed() >= stays, "the release waits");
    other.try_acquire().await?.expect("released when its time was over").release().await?;
    let start = Instant::now();
    drop(lock.acquire().await?);
    let next = ctx.within(stays + AT_ONCE, "the lock after its time", other.acquire()).await?;
    assert!(start.elapsed() >= stays, "a dropped guard leaves it held");
    next.release().await?;
    // Longer than its time, it is held as any other.
    let guard = a.lock("it")?.acquire_at_least(Duration::from_millis(1)).await?;
    tokio::time::sleep(Duration::from_millis(2)).await;
    guard.release().await?;
    assert!(other.try_acquire().await?.is_some(), "free once the release has returned");
    Ok(())
}

async fn a_stop_does_not_wait_long_for_a_lock_that_stays(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    drop(a.lock("it")?.acquire_at_least(Duration::from_secs(600)).await?);
    assert!(b.lock("it")?.try_acquire().await?.is_none(), "its time is not over");
    ctx.soon("the stop", a.stop()).await?;
    assert!(is_free(&b, "it").await?, "the stop gives it back");
    Ok(())
}

async fn the_end_is_near_when_nothing_renews(ctx: &Context) -> Result<()> {
    // A server that has just been started may let the first one wait.
    assert!(is_free(&ctx.start("first").await?, "it").await?);
    let a = ctx.builder("a")?.heartbeat(Heartbeat::Manual).connect().await?;
    ctx.keep(&a);
    let guard = a.lock("it")?.acquire().await?;
    a.heartbeat().await?;
    let Some(ttl) = ctx.ttl() else {
        let mut near = Box::pin(guard.expires_within(Duration::MAX));
        ctx.pending_for(Duration::from_millis(100), "an end that no clock brings", &mut near).await;
        drop(near);
        return guard.release().await;
    };
    ctx.within(AT_ONCE, "an end that is near already", guard.expires_within(ttl)).await;
    let mut near = Box::pin(guard.expires_within(ttl / 2));
    // 0.9 of it is left at first, and again after this.
    ctx.pending_for(ttl / 5, "an end that is far", &mut near).await;
    a.heartbeat().await?;
    ctx.pending_for(ttl / 4, "an end that a renewal moved away", &mut near).await;
    ctx.within(ttl, "an end that is near", near).await;
    guard.check()?;
    let left = guard.deadline().map(|end| end.saturating_duration_since(Instant::now()));
    assert!(left.is_some_and(|left| left <= ttl / 2 && !left.is_zero()), "{left:?} is left");
    guard.release().await
}

async fn a_loss_is_an_end_that_is_near(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let guard = a.lock("it")?.acquire().await?;
    let mut near = Box::pin(guard.expires_within(Duration::from_millis(1)));
    ctx.pending_for(Duration::from_millis(50), "an end that is far", &mut near).await;
    b.lock("it")?.break_lock().await?;
    ctx.within(ctx.death(), "the loss", near).await;
    fails(ErrorKind::LockLost, guard.check());
    Ok(())
}

async fn empty_names_are_refused(ctx: &Context) -> Result<()> {
    let a = ctx.start("a").await?;
    fails(ErrorKind::InvalidInput, a.lock(""));
    Ok(())
}

async fn odd_names_work_or_are_refused(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    for name in super::odd_names() {
        let guard = match a.lock(name.as_slice())?.try_acquire().await {
            Err(error) if error.kind() == ErrorKind::InvalidInput => continue,
            guard => guard?.expect("nobody holds it"),
        };
        let shown = name.escape_ascii();
        let other = b.lock(name.as_slice())?;
        assert!(other.try_acquire().await?.is_none(), "{shown} is held");
        assert!(guard.verify().await?, "{shown} is held");
        guard.release().await?;
        assert!(other.try_acquire().await?.is_some(), "{shown} is free");
    }
    Ok(())
}

async fn sixty_four_contenders_never_hold_it_together(ctx: &Context) -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder for the record");
    let contention = Contention {
        wanted: Wanted::Lock("it".into()),
        tasks: 8,
        time: Duration::from_secs(5),
        folder: folder.path().to_owned(),
    };
    let bound = Duration::from_secs(20);
    let granted = contenders::coordinators(ctx, 8, bound, |_| contention.clone()).await?;
    assert_eq!(contention::grants_in_order(folder.path())?, granted.iter().sum::<u64>());
    assert!(granted.iter().all(|count| *count > 0), "all get their turn: {granted:?}");
    Ok(())
}
