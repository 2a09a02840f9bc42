//! Locks that several hold at once.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tooz_core::{Coordinator, ErrorKind, Permit, Result};

use super::{AT_ONCE, contenders, fails};
use crate::case::{Case, case};
use crate::context::Context;
use crate::sweep::{Cut, sweep};
use crate::worker::{Contention, Wanted};
use crate::{Area, contention};

const AREA: Area = Area::Semaphores;

const PROCESSES: &[Area] = &[Area::Processes];

pub(super) const CASES: &[Case] = &[
    case!(as_many_hold_it_as_there_are_permits),
    case!(a_released_permit_is_free_at_once),
    case!(a_dropped_permit_is_free),
    case!(slots_are_numbers_with_tokens_of_their_own).with(&[Area::Fencing]),
    case!(a_bounded_wait_for_a_permit_ends_in_time).alone(),
    case!(who_waits_gets_the_slot_that_is_free_first),
    case!(those_who_wait_take_turns),
    case!(the_number_of_permits_may_change),
    case!(semaphores_of_other_names_are_independent),
    case!(wrong_numbers_of_permits_are_refused),
    case!(a_dropped_acquisition_of_a_permit).alone(),
    case!(a_dropped_wait_for_a_permit).alone(),
    case!(contenders_never_hold_more_than_the_permits).alone(),
    case!(processes_never_hold_more_than_the_permits).with(PROCESSES).alone(),
    case!(a_killed_holder_of_a_permit_is_followed).with(PROCESSES).quiet(),
    case!(a_killed_waiter_in_front_is_followed).with(PROCESSES).quiet(),
];

/// How long a wait is given to show that it does not end.
const A_WHILE: Duration = Duration::from_millis(100);

/// All permits of a semaphore, by the order of their slots.
async fn take_all(coordinator: &Coordinator, permits: u32) -> Result<Vec<Permit>> {
    let semaphore = coordinator.semaphore("it", permits)?;
    let mut held = Vec::new();
    for _ in 0..permits {
        held.push(semaphore.acquire().await?);
    }
    held.sort_by_key(Permit::slot);
    Ok(held)
}

async fn as_many_hold_it_as_there_are_permits(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?.semaphore("it", 3)?, ctx.start("b").await?);
    let b = b.semaphore("it", 3)?;
    let held = [a.acquire().await?, b.acquire().await?, a.acquire().await?];
    let slots: BTreeSet<_> = held.iter().map(Permit::slot).collect();
    assert_eq!(slots, BTreeSet::from([0, 1, 2]));
    for semaphore in [&a, &b] {
        assert!(semaphore.try_acquire().await?.is_none(), "three of three are held");
    }
    for permit in &held {
        permit.check()?;
        assert!(permit.verify().await?, "the backend agrees");
    }
    for permit in held {
        permit.release().await?;
    }
    Ok(())
}

async fn a_released_permit_is_free_at_once(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let held = take_all(&a, 2).await?;
    let other = b.semaphore("it", 2)?;
    let mut theirs = Vec::new();
    for permit in held {
        let slot = permit.slot();
        permit.release().await?;
        let permit = other.try_acquire().await?.expect("free once the release has returned");
        assert_eq!(permit.slot(), slot, "the only one that is free");
        theirs.push(permit);
    }
    for permit in theirs {
        permit.release().await?;
        a.semaphore("it", 2)?.acquire().await?.release().await?;
    }
    Ok(())
}

async fn a_dropped_permit_is_free(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    drop(a.semaphore("it", 1)?.acquire().await?);
    let permit = b.semaphore("it", 1)?.try_acquire_for(AT_ONCE).await?;
    assert!(permit.is_some(), "released within a second");
    Ok(())
}

async fn slots_are_numbers_with_tokens_of_their_own(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let mut last = [0, 0];
    for coordinator in [&a, &b, &a] {
        for (slot, permit) in take_all(coordinator, 2).await?.into_iter().enumerate() {
            let token = permit.fencing_token().0;
            assert!(token > last[slot], "the token {token} of {slot} came after {}", last[slot]);
            last[slot] = token;
            permit.release().await?;
        }
    }
    Ok(())
}

async fn a_bounded_wait_for_a_permit_ends_in_time(ctx: &Context) -> Result<()> {
    let (a, b, c) = (ctx.start("a").await?, ctx.start("b").await?, ctx.start("c").await?);
    let _held = take_all(&a, 2).await?;
    let time = Duration::from_millis(200);
    // One waits in front, for the slots, and the other for its turn.
    let wait = async |coordinator: &Coordinator| {
        let start = Instant::now();
        assert!(coordinator.semaphore("it", 2)?.try_acquire_for(time).await?.is_none());
        Ok::<_, tooz_core::Error>(start.elapsed())
    };
    let (first, second) = tokio::join!(wait(&b), wait(&c));
    for took in [first?, second?] {
        assert!(took >= time, "gave up after {took:?} of {time:?}");
        assert!(took < time + Duration::from_millis(500), "gave up only after {took:?}");
    }
    let start = Instant::now();
    let other = b.semaphore("it", 2)?;
    assert!(other.try_acquire_for(Duration::ZERO).await?.is_none(), "all are held");
    assert!(start.elapsed() < Duration::from_millis(500), "an attempt does not wait");
    Ok(())
}

async fn who_waits_gets_the_slot_that_is_free_first(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let mut held = take_all(&a, 3).await?;
    let other = b.semaphore("it", 3)?;
    for slot in [1, 0, 2] {
        let mut waiting = Box::pin(other.acquire());
        ctx.pending_for(A_WHILE, "a permit of three that are held", &mut waiting).await;
        held.remove(slot).release().await?;
        let permit = ctx.within(AT_ONCE, "the permit that is free", waiting).await?;
        assert_eq!(permit.slot() as usize, slot);
        held.insert(slot, permit);
    }
    Ok(())
}

async fn those_who_wait_take_turns(ctx: &Context) -> Result<()> {
    let held = take_all(&ctx.start("holder").await?, 2).await?;
    let mut waiters = JoinSet::new();
    for n in 0..6 {
        let semaphore = ctx.start(format!("waiter-{n}")).await?.semaphore("it", 2)?;
        waiters.spawn(async move {
            let permit = semaphore.acquire().await?;
            permit.check()?;
            permit.release().await
        });
    }
    let early = tokio::time::timeout(A_WHILE, waiters.join_next()).await;
    assert!(early.is_err(), "they wait for the holder");
    for permit in held {
        permit.release().await?;
    }
    while let Some(release) = ctx.soon("the next of the waiters", waiters.join_next()).await {
        release.expect("no panic")?;
    }
    Ok(())
}

async fn the_number_of_permits_may_change(ctx: &Context) -> Result<()> {
    let (a, b, c) = (ctx.start("a").await?, ctx.start("b").await?, ctx.start("c").await?);
    let mut held = take_all(&a, 3).await?;
    // Two from now on.
    let fewer = b.semaphore("it", 2)?;
    let mut waiting = Box::pin(fewer.acquire());
    ctx.pending_for(A_WHILE, "a permit below the smaller number", &mut waiting).await;
    held.remove(2).release().await?;
    ctx.pending_for(A_WHILE, "a permit below the smaller number", &mut waiting).await;
    held.remove(0).release().await?;
    let permit = ctx.within(AT_ONCE, "the permit that is free", waiting).await?;
    assert_eq!(permit.slot(), 0);
    assert!(fewer.try_acquire().await?.is_none(), "two of two are held");
    // And four.
    let more = c.semaphore("it", 4)?;
    let added = [more.acquire().await?, more.acquire().await?];
    assert!(added.iter().all(|permit| permit.slot() >= 2), "the slots that are free");
    assert!(more.try_acquire().await?.is_none(), "four of four are held");
    Ok(())
}

async fn semaphores_of_other_names_are_independent(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let permit = a.semaphore("it", 1)?.acquire().await?;
    let lock = a.lock("it")?.try_acquire().await?.expect("a lock of that name is another thing");
    for other in ["it2", "it.0", "it.turn", "i"] {
        let held = b.semaphore(other, 1)?.try_acquire().await?;
        held.unwrap_or_else(|| panic!("{other:?} is another semaphore")).release().await?;
    }
    assert!(permit.verify().await? && lock.verify().await?);
    Ok(())
}

async fn wrong_numbers_of_permits_are_refused(ctx: &Context) -> Result<()> {
    let a = ctx.start("a").await?;
    for (name, permits) in [("it", 0), ("it", u32::MAX), ("", 1)] {
        fails(ErrorKind::InvalidInput, a.semaphore(name, permits));
    }
    Ok(())
}

// ---- Dropped.

/// How long somebody else needs to get the only permit, which must be under a second in any case.
async fn others_get(coordinator: &Coordinator, cut: Cut) -> Result<Duration> {
    let start = Instant::now();
    let permit = coordinator.semaphore("it", 1)?.try_acquire_for(AT_ONCE).await?;
    let time = start.elapsed();
    let permit = permit.unwrap_or_else(|| panic!("after {cut:?} the permit is held by nobody"));
    permit.release().await?;
    Ok(time)
}

async fn a_dropped_acquisition_of_a_permit(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let ours = a.semaphore("it", 1)?;
    sweep(async |cut| {
        let cutting = cut.apply(async { ours.acquire().await.map(drop) }).await?;
        Ok((cutting, others_get(&b, cut).await?))
    })
    .await
}

async fn a_dropped_wait_for_a_permit(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let held = ctx.start("holder").await?.semaphore("it", 1)?;
    let ours = a.semaphore("it", 1)?;
    sweep(async |cut| {
        let permit = held.acquire().await?;
        let cutting = cut.apply(async { ours.acquire().await.map(drop) }).await?;
        assert!(!cutting.is_completed(), "it was held");
        permit.check()?;
        permit.release().await?;
        Ok((cutting, others_get(&b, cut).await?))
    })
    .await
}

// ---- Many.

/// Three permits for all of them, which take turns for a second.
fn contention(folder: &tempfile::TempDir) -> Contention {
    Contention {
        wanted: Wanted::Permit("it".into(), 3),
        tasks: 3,
        time: Duration::from_secs(1),
        folder: folder.path().to_owned(),
    }
}

async fn contenders_never_hold_more_than_the_permits(ctx: &Context) -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder for the record");
    let bound = Duration::from_secs(15);
    let granted = contenders::coordinators(ctx, 4, bound, |_| contention(&folder)).await?;
    assert_eq!(contention::grants_in_order(folder.path())?, granted.iter().sum::<u64>());
    assert!(granted.iter().all(|count| *count > 2), "all get their turn: {granted:?}");
    Ok(())
}

async fn processes_never_hold_more_than_the_permits(ctx: &Context) -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder for the record");
    let bound = Duration::from_secs(15);
    let granted = contenders::processes(ctx, 4, bound, |_| contention(&folder)).await?;
    assert_eq!(contention::grants_in_order(folder.path())?, granted.iter().sum::<u64>());
    assert!(granted.iter().all(|count| *count > 2), "all get their turn: {granted:?}");
    Ok(())
}

async fn a_killed_holder_of_a_permit_is_followed(ctx: &Context) -> Result<()> {
    let (mut a, b, c) = (ctx.worker("a").await, ctx.start("b").await?, ctx.worker("c").await);
    let slot = a.permit("it", 2, None).await?.expect("it is free");
    let held = b.semaphore("it", 2)?.acquire().await?;
    let mut waiting = Box::pin(c.permit("it", 2, None));
    ctx.pending_for(A_WHILE, "a permit of two that are held", &mut waiting).await;
    a.kill().await;
    let next = ctx.within(ctx.death(), "the permit of a killed process", waiting).await?;
    assert_eq!(next, Some(slot));
    assert!(held.verify().await?, "the other one lives");
    assert!(c.release("it").await?);
    Ok(())
}

async fn a_killed_waiter_in_front_is_followed(ctx: &Context) -> Result<()> {
    let (a, mut b, c) = (ctx.start("a").await?, ctx.worker("b").await, ctx.worker("c").await);
    let held = take_all(&a, 2).await?;
    let mut front = Box::pin(b.permit("it", 2, None));
    ctx.pending_for(A_WHILE, "a permit of two that are held", &mut front).await;
    drop(front);
    let mut next = Box::pin(c.permit("it", 2, None));
    ctx.pending_for(A_WHILE, "a permit of two that are held", &mut next).await;
    b.kill().await;
    for permit in held {
        permit.release().await?;
    }
    // The turn of the killed one, and a slot that it was given on the way, are free when their time
    // is over.
    let slot = ctx.within(ctx.death(), "the permit behind a killed waiter", next).await?;
    assert!(slot.is_some());
    assert!(c.release("it").await?);
    Ok(())
}
