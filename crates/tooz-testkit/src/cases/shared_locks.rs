//! Shared locks beside exclusive ones.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tooz_core::{Mode, Result, Wait};

use super::AT_ONCE;
use crate::Area;
use crate::case::{Case, case};
use crate::context::Context;

const AREA: Area = Area::SharedLocks;

pub(super) const CASES: &[Case] = &[
    case!(who_excludes_whom),
    case!(one_coordinator_may_share_with_itself),
    case!(an_exclusive_wait_ends_with_the_last_shared_holder),
    case!(a_shared_wait_ends_with_the_exclusive_holder),
    case!(all_shared_waiters_get_it_together),
    case!(a_dropped_shared_guard_releases),
    case!(the_release_of_one_leaves_the_others),
    case!(a_shared_attempt_and_a_bounded_shared_wait_end),
    case!(a_shared_lock_is_held_as_long_as_its_guard).quiet(),
    case!(a_waiting_writer_gets_in),
    case!(a_stop_releases_shared_locks),
];

async fn who_excludes_whom(ctx: &Context) -> Result<()> {
    let held = ctx.start("a").await?.lock("it")?;
    let ours = ctx.start("b").await?.lock("it")?;
    for (first, second, together) in [
        (Mode::Shared, Mode::Shared, true),
        (Mode::Shared, Mode::Exclusive, false),
        (Mode::Exclusive, Mode::Shared, false),
        (Mode::Exclusive, Mode::Exclusive, false),
    ] {
        let guard = held.acquire_with(first, Wait::Try).await?.expect("it is free");
        let other = ours.acquire_with(second, Wait::Try).await?;
        assert_eq!(other.is_some(), together, "{second:?} beside {first:?}");
        if let Some(other) = other {
            assert!(guard.verify().await? && other.verify().await?, "both hold it");
            other.release().await?;
        }
        guard.release().await?;
    }
    Ok(())
}

async fn one_coordinator_may_share_with_itself(ctx: &Context) -> Result<()> {
    let lock = ctx.start("a").await?.lock("it")?;
    let (one, two) = (lock.acquire_shared().await?, lock.try_acquire_shared().await?);
    let two = two.expect("both are shared");
    assert!(lock.try_acquire().await?.is_none(), "it does not exclude itself");
    one.release().await?;
    assert!(two.verify().await?, "each guard holds it by itself");
    assert!(lock.try_acquire().await?.is_none(), "one of two is left");
    two.release().await?;
    assert!(lock.try_acquire().await?.is_some(), "none is left");
    Ok(())
}

async fn an_exclusive_wait_ends_with_the_last_shared_holder(ctx: &Context) -> Result<()> {
    let one = ctx.start("a").await?.lock("it")?.acquire_shared().await?;
    let two = ctx.start("b").await?.lock("it")?.acquire_shared().await?;
    let lock = ctx.start("writer").await?.lock("it")?;
    let mut waiting = Box::pin(lock.acquire());
    let a_while = Duration::from_millis(100);
    ctx.pending_for(a_while, "a lock with two shared holders", &mut waiting).await;
    one.release().await?;
    ctx.pending_for(a_while, "a lock with one shared holder", &mut waiting).await;
    two.release().await?;
    ctx.within(AT_ONCE, "the lock without holders", waiting).await?.check()
}

async fn a_shared_wait_ends_with_the_exclusive_holder(ctx: &Context) -> Result<()> {
    let guard = ctx.start("a").await?.lock("it")?.acquire().await?;
    let lock = ctx.start("b").await?.lock("it")?;
    let mut waiting = Box::pin(lock.acquire_shared());
    ctx.pending_for(Duration::from_millis(100), "a lock that is held", &mut waiting).await;
    guard.release().await?;
    ctx.within(AT_ONCE, "the lock after its release", waiting).await?.check()
}

async fn all_shared_waiters_get_it_together(ctx: &Context) -> Result<()> {
    let guard = ctx.start("a").await?.lock("it")?.acquire().await?;
    let (one, two) = (ctx.start("b").await?.lock("it")?, ctx.start("c").await?.lock("it")?);
    let mut waiting = Box::pin(async { tokio::join!(one.acquire_shared(), two.acquire_shared()) });
    ctx.pending_for(Duration::from_millis(100), "a lock that is held", &mut waiting).await;
    guard.release().await?;
    // Both guards live until both are there.
    let (one, two) = ctx.within(AT_ONCE, "the lock for both", waiting).await;
    let (one, two) = (one?, two?);
    assert!(one.verify().await? && two.verify().await?);
    Ok(())
}

async fn a_dropped_shared_guard_releases(ctx: &Context) -> Result<()> {
    drop(ctx.start("a").await?.lock("it")?.acquire_shared().await?);
    let guard = ctx.start("b").await?.lock("it")?.try_acquire_for(AT_ONCE).await?;
    assert!(guard.is_some(), "released within a second");
    Ok(())
}

async fn the_release_of_one_leaves_the_others(ctx: &Context) -> Result<()> {
    let one = ctx.start("a").await?.lock("it")?.acquire_shared().await?;
    let two = ctx.start("b").await?.lock("it")?.acquire_shared().await?;
    one.release().await?;
    assert!(two.verify().await?);
    let lock = ctx.start("c").await?.lock("it")?;
    assert!(lock.try_acquire().await?.is_none(), "one holder is left");
    assert!(lock.try_acquire_shared().await?.is_some(), "and it shares");
    Ok(())
}

async fn a_shared_attempt_and_a_bounded_shared_wait_end(ctx: &Context) -> Result<()> {
    let _guard = ctx.start("a").await?.lock("it")?.acquire().await?;
    let lock = ctx.start("b").await?.lock("it")?;
    let attempt = ctx.within(AT_ONCE, "an attempt", lock.try_acquire_shared());
    assert!(attempt.await?.is_none());
    let wait = lock.try_acquire_shared_for(Duration::from_millis(50));
    assert!(ctx.within(AT_ONCE, "a bounded wait", wait).await?.is_none());
    Ok(())
}

async fn a_shared_lock_is_held_as_long_as_its_guard(ctx: &Context) -> Result<()> {
    let one = ctx.start("a").await?.lock("it")?.acquire_shared().await?;
    let two = ctx.start("b").await?.lock("it")?.acquire_shared().await?;
    let lock = ctx.start("c").await?.lock("it")?;
    let time = ctx.ttl().map_or(Duration::from_millis(500), |ttl| ttl * 5 / 2);
    assert!(lock.try_acquire_for(time).await?.is_none(), "held all the time");
    for guard in [one, two] {
        guard.check()?;
        guard.release().await?;
    }
    Ok(())
}

async fn a_waiting_writer_gets_in(ctx: &Context) -> Result<()> {
    let mut readers = tokio::task::JoinSet::new();
    for n in 0..3 {
        let lock = ctx.start(format!("reader-{n}")).await?.lock("it")?;
        readers.spawn(async move {
            // They overlap, so that the lock is never free by itself.
            sleep(Duration::from_millis(10 * n)).await;
            while let Ok(guard) = lock.acquire_shared().await {
                sleep(Duration::from_millis(30)).await;
                guard.release().await?;
            }
            Ok::<_, tooz_core::Error>("a reader got no lock")
        });
    }
    let writer = ctx.start("writer").await?.lock("it")?;
    for _ in 0..3 {
        let guard = ctx.soon("the lock for a writer among readers", writer.acquire()).await?;
        guard.release().await?;
    }
    let ended = timeout(Duration::ZERO, readers.join_next()).await;
    assert!(ended.is_err(), "the readers go on: {ended:?}");
    readers.shutdown().await;
    Ok(())
}

async fn a_stop_releases_shared_locks(ctx: &Context) -> Result<()> {
    let a = ctx.start("a").await?;
    let guard = a.lock("it")?.acquire_shared().await?;
    a.stop().await?;
    assert!(guard.check().is_err());
    let lock = ctx.start("b").await?.lock("it")?;
    assert!(lock.try_acquire().await?.is_some(), "free once the stop has returned");
    Ok(())
}
