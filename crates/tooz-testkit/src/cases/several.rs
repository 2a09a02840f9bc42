//! Several locks that are held together.

use std::time::{Duration, Instant};

use tooz_core::{Coordinator, ErrorKind, Mode, Result, Wait};

use super::{AT_ONCE, contenders, fails, is_free};
use crate::case::{Case, case};
use crate::context::Context;
use crate::sweep::{Cut, sweep};
use crate::worker::{Contention, Wanted};
use crate::{Area, contention};

const AREA: Area = Area::Several;

pub(super) const CASES: &[Case] = &[
    case!(all_are_held),
    case!(an_attempt_has_all_or_none),
    case!(a_bounded_wait_has_all_or_none).alone(),
    case!(who_waits_gets_the_last_lock),
    case!(the_tokens_of_each_rise).with(&[Area::Fencing]),
    case!(shared_holders_share_all).with(&[Area::SharedLocks]),
    case!(the_loss_of_one_is_the_loss_of_all).with(&[Area::BreakLock]),
    case!(names_that_make_no_set_are_refused),
    case!(a_dropped_acquisition_of_several).alone(),
    case!(a_dropped_wait_for_several).alone(),
    case!(opposite_orders_never_wait_in_a_circle).alone(),
    case!(processes_never_wait_in_a_circle).with(&[Area::Processes]).alone(),
];

const NAMES: [&str; 3] = ["one", "two", "three"];

/// How long a wait is given to show that it does not end.
const A_WHILE: Duration = Duration::from_millis(100);

async fn are_free(coordinator: &Coordinator) -> Result<bool> {
    for name in NAMES {
        if !is_free(coordinator, name).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn all_are_held(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let guard = a.lock_all(NAMES)?.acquire().await?;
    guard.check()?;
    assert_eq!(guard.loss(), None);
    assert!(guard.verify().await?, "the backend agrees");
    assert_eq!(guard.run(async { 7 }).await?, 7);
    let left = guard.deadline().map(|end| end.saturating_duration_since(Instant::now()));
    assert_eq!(left.is_some(), ctx.ttl().is_some());
    assert!(left.is_none_or(|left| !left.is_zero()));
    for name in NAMES {
        assert!(b.lock(name)?.try_acquire().await?.is_none(), "{name} is held");
    }
    guard.release().await?;
    assert!(are_free(&b).await?, "all are released");
    drop(a.lock_all(NAMES)?.acquire().await?);
    let guard = b.lock_all(NAMES)?.try_acquire_for(AT_ONCE).await?;
    assert!(guard.is_some(), "all are released within a second");
    Ok(())
}

async fn an_attempt_has_all_or_none(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let set = a.lock_all(NAMES)?;
    for held in NAMES {
        let guard = b.lock(held)?.acquire().await?;
        assert!(set.try_acquire().await?.is_none(), "{held} is held");
        assert!(set.try_acquire_for(Duration::ZERO).await?.is_none(), "{held} is held");
        for name in NAMES {
            assert_eq!(is_free(&b, name).await?, name != held, "{name}, while {held} is held");
        }
        assert!(guard.verify().await?);
        guard.release().await?;
    }
    assert!(set.try_acquire().await?.is_some());
    Ok(())
}

async fn a_bounded_wait_has_all_or_none(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let set = a.lock_all(NAMES)?;
    let time = Duration::from_millis(150);
    for held in NAMES {
        let guard = b.lock(held)?.acquire().await?;
        let start = Instant::now();
        assert!(set.try_acquire_for(time).await?.is_none(), "{held} is held");
        let took = start.elapsed();
        assert!(took >= time, "gave up after {took:?} of {time:?}");
        assert!(took < time + Duration::from_millis(500), "gave up only after {took:?}");
        guard.release().await?;
        assert!(are_free(&b).await?, "none is kept");
    }
    Ok(())
}

async fn who_waits_gets_the_last_lock(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let set = a.lock_all(NAMES)?;
    let held = [b.lock("two")?.acquire().await?, b.lock("three")?.acquire().await?];
    let mut waiting = Box::pin(set.acquire());
    for guard in held {
        ctx.pending_for(A_WHILE, "locks of which some are held", &mut waiting).await;
        guard.release().await?;
    }
    let guard = ctx.within(AT_ONCE, "the locks after the last release", waiting).await?;
    guard.check()?;
    assert!(guard.verify().await?, "the backend agrees");
    guard.release().await
}

async fn the_tokens_of_each_rise(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let mut last = [0; NAMES.len()];
    for (n, coordinator) in [&a, &b, &a].into_iter().enumerate() {
        // One of them has more than the others.
        b.lock(NAMES[n])?.acquire().await?.release().await?;
        let guard = coordinator.lock_all(NAMES)?.acquire().await?;
        for (place, (name, token)) in guard.fencing_tokens().enumerate() {
            assert_eq!(name.as_str(), Some(NAMES[place]), "in the order of the caller");
            assert!(token.0 > last[place], "the token {token} came after {}", last[place]);
            last[place] = token.0;
        }
        guard.release().await?;
    }
    Ok(())
}

async fn shared_holders_share_all(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let (ours, theirs) = (a.lock_all(NAMES)?, b.lock_all(NAMES)?);
    let reader = ours.acquire_with(Mode::Shared, Wait::Forever).await?.expect("they are free");
    let another = theirs.acquire_with(Mode::Shared, Wait::Try).await?.expect("all are shared");
    assert!(theirs.try_acquire().await?.is_none(), "two share them");
    reader.release().await?;
    another.release().await?;
    assert!(theirs.try_acquire().await?.is_some(), "none is left");
    Ok(())
}

async fn the_loss_of_one_is_the_loss_of_all(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let guard = a.lock_all(NAMES)?.acquire().await?;
    assert!(b.lock("two")?.break_lock().await?);
    {
        let (name, _) = ctx.within(ctx.death(), "the loss of a broken lock", guard.lost()).await;
        assert_eq!(name.as_str(), Some("two"));
    }
    let error = fails(ErrorKind::LockLost, guard.check());
    assert_eq!(error.context("lock"), Some("two"));
    fails(ErrorKind::LockLost, guard.run(async { panic!("polled after the loss") }).await);
    assert!(b.lock("one")?.try_acquire().await?.is_none(), "the others are held until then");
    fails(ErrorKind::LockLost, guard.release().await);
    assert!(are_free(&b).await?, "all are released even so");
    Ok(())
}

async fn names_that_make_no_set_are_refused(ctx: &Context) -> Result<()> {
    let a = ctx.start("a").await?;
    fails(ErrorKind::InvalidInput, a.lock_all([""; 0]));
    fails(ErrorKind::InvalidInput, a.lock_all(["one", ""]));
    let error = fails(ErrorKind::InvalidInput, a.lock_all(["one", "two", "one"]));
    assert_eq!(error.context("lock"), Some("one"));
    Ok(())
}

// ---- Dropped.

/// How long somebody else needs to get all, which must be under a second in any case.
async fn others_get(coordinator: &Coordinator, cut: Cut) -> Result<Duration> {
    let start = Instant::now();
    let guard = coordinator.lock_all(NAMES)?.try_acquire_for(AT_ONCE).await?;
    let time = start.elapsed();
    let guard = guard.unwrap_or_else(|| panic!("after {cut:?} a lock is held by nobody"));
    guard.release().await?;
    Ok(time)
}

async fn a_dropped_acquisition_of_several(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let ours = a.lock_all(NAMES)?;
    sweep(async |cut| {
        let cutting = cut.apply(async { ours.acquire().await.map(drop) }).await?;
        Ok((cutting, others_get(&b, cut).await?))
    })
    .await
}

async fn a_dropped_wait_for_several(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let held = ctx.start("holder").await?.lock("three")?;
    let ours = a.lock_all(NAMES)?;
    sweep(async |cut| {
        let guard = held.acquire().await?;
        let cutting = cut.apply(async { ours.acquire().await.map(drop) }).await?;
        assert!(!cutting.is_completed(), "one of them was held");
        guard.release().await?;
        Ok((cutting, others_get(&b, cut).await?))
    })
    .await
}

// ---- Many.

/// The same locks for all, in an order of its own for each.
fn contention(n: usize, folder: &tempfile::TempDir) -> Contention {
    let mut names = NAMES;
    names.rotate_left(n);
    if n.is_multiple_of(2) {
        names.reverse();
    }
    Contention {
        wanted: Wanted::All(names.map(Into::into).into()),
        tasks: 2,
        time: Duration::from_secs(1),
        folder: folder.path().to_owned(),
    }
}

/// Whether each had its turn, and nobody's was another's.
fn judge(folder: &tempfile::TempDir, granted: &[u64]) -> Result<()> {
    let recorded = contention::grants_in_order(folder.path())?;
    assert_eq!(recorded, granted.iter().sum::<u64>() * NAMES.len() as u64);
    assert!(granted.iter().all(|count| *count > 1), "all get their turn: {granted:?}");
    Ok(())
}

async fn opposite_orders_never_wait_in_a_circle(ctx: &Context) -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder for the record");
    let bound = Duration::from_secs(15);
    let granted = contenders::coordinators(ctx, 4, bound, |n| contention(n, &folder)).await?;
    judge(&folder, &granted)
}

async fn processes_never_wait_in_a_circle(ctx: &Context) -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder for the record");
    let bound = Duration::from_secs(15);
    let granted = contenders::processes(ctx, 4, bound, |n| contention(n, &folder)).await?;
    judge(&folder, &granted)
}
