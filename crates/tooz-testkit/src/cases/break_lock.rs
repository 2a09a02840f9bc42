//! Taking a lock away.

use std::time::Duration;

use tooz_core::{ErrorKind, Loss, Result};

use super::{AT_ONCE, fails, is_free};
use crate::Area;
use crate::case::{Case, case};
use crate::context::Context;

const AREA: Area = Area::BreakLock;

pub(super) const CASES: &[Case] = &[
    case!(a_broken_lock_is_free_and_its_holder_is_told),
    case!(a_lock_that_nobody_holds_cannot_be_broken),
    case!(a_holder_may_break_its_own_lock),
    case!(a_late_release_does_not_free_the_next_holder),
    case!(a_waiter_gets_a_broken_lock),
    case!(breaking_one_lock_leaves_the_others),
    case!(all_shared_holders_are_told).with(&[Area::SharedLocks]),
    case!(breaking_needs_a_running_coordinator),
];

async fn a_broken_lock_is_free_and_its_holder_is_told(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let guard = a.lock("it")?.acquire().await?;
    assert!(b.lock("it")?.break_lock().await?, "it was held");
    assert!(is_free(&b, "it").await?, "free once the break has returned");
    let told = ctx.death();
    assert_eq!(ctx.within(told, "the loss of a broken lock", guard.lost()).await, Loss::Taken);
    fails(ErrorKind::LockLost, guard.check());
    fails(ErrorKind::LockLost, guard.verify().await);
    assert_eq!(guard.release().await.unwrap_err().kind(), ErrorKind::LockLost);
    Ok(())
}

async fn a_lock_that_nobody_holds_cannot_be_broken(ctx: &Context) -> Result<()> {
    let lock = ctx.start("a").await?.lock("it")?;
    assert!(!lock.break_lock().await?, "it was never held");
    lock.acquire().await?.release().await?;
    assert!(!lock.break_lock().await?, "it was released");
    assert!(lock.try_acquire().await?.is_some(), "it is free");
    Ok(())
}

async fn a_holder_may_break_its_own_lock(ctx: &Context) -> Result<()> {
    let lock = ctx.start("a").await?.lock("it")?;
    let guard = lock.acquire().await?;
    assert!(lock.break_lock().await?);
    ctx.within(ctx.death(), "the loss of a broken lock", guard.lost()).await;
    lock.try_acquire().await?.expect("it is free").check()
}

async fn a_late_release_does_not_free_the_next_holder(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let late = [a.lock("it")?.acquire().await?];
    b.lock("it")?.break_lock().await?;
    let guard = b.lock("it")?.try_acquire().await?.expect("free once the break has returned");
    for late in late {
        assert_eq!(late.release().await.unwrap_err().kind(), ErrorKind::LockLost);
    }
    assert!(guard.verify().await?, "the next holder keeps it");
    assert!(!is_free(&a, "it").await?, "the next holder keeps it");
    guard.release().await?;
    Ok(())
}

async fn a_waiter_gets_a_broken_lock(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let _guard = a.lock("it")?.acquire().await?;
    let lock = b.lock("it")?;
    let mut waiting = Box::pin(lock.acquire());
    ctx.pending_for(Duration::from_millis(100), "a lock that is held", &mut waiting).await;
    assert!(ctx.start("c").await?.lock("it")?.break_lock().await?);
    ctx.within(AT_ONCE, "the broken lock", waiting).await?.check()
}

async fn breaking_one_lock_leaves_the_others(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let broken = a.lock("it")?.acquire().await?;
    let kept = a.lock("other")?.acquire().await?;
    b.lock("it")?.break_lock().await?;
    ctx.within(ctx.death(), "the loss of a broken lock", broken.lost()).await;
    kept.check()?;
    assert!(kept.verify().await?);
    kept.release().await?;
    Ok(())
}

async fn all_shared_holders_are_told(ctx: &Context) -> Result<()> {
    let one = ctx.start("a").await?.lock("it")?.acquire_shared().await?;
    let two = ctx.start("b").await?.lock("it")?.acquire_shared().await?;
    let lock = ctx.start("c").await?.lock("it")?;
    assert!(lock.break_lock().await?);
    assert!(lock.try_acquire().await?.is_some(), "no shared holder is left");
    for guard in [one, two] {
        ctx.within(ctx.death(), "the loss of a broken lock", guard.lost()).await;
        assert_eq!(guard.release().await.unwrap_err().kind(), ErrorKind::LockLost);
    }
    Ok(())
}

async fn breaking_needs_a_running_coordinator(ctx: &Context) -> Result<()> {
    fails(ErrorKind::NotRunning, ctx.open("a")?.lock("it")?.break_lock().await);
    Ok(())
}
