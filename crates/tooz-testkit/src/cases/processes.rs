//! Several processes, some of them killed or stopped.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;
use tooz_core::{ErrorKind, GroupEvent, Mode, Result};

use super::groups::ids;
use super::{AT_ONCE, contenders, next_within};
use crate::case::{Case, case};
use crate::context::Context;
use crate::worker::{Contention, Pause, Wanted, Worker};
use crate::{Area, contention};

const AREA: Area = Area::Processes;

const LOCKS: &[Area] = &[Area::Locks];
const GROUPS: &[Area] = &[Area::Groups, Area::Capabilities];
const ELECTIONS: &[Area] = &[Area::Elections];

pub(super) const CASES: &[Case] = &[
    case!(processes_exclude_each_other).with(LOCKS),
    case!(processes_share).with(&[Area::SharedLocks]),
    case!(processes_of_the_same_member_id_exclude_each_other).with(LOCKS),
    case!(processes_see_each_others_members).with(GROUPS),
    case!(tokens_rise_from_process_to_process).with(&[Area::Fencing]),
    case!(a_broken_lock_is_told_to_another_process).with(&[Area::BreakLock]),
    case!(a_killed_holder_is_followed).with(LOCKS).quiet(),
    case!(a_killed_shared_holder_is_followed).with(&[Area::SharedLocks]).quiet(),
    case!(a_killed_waiter_leaves_nothing).with(LOCKS).quiet(),
    case!(a_killed_member_leaves).with(&[Area::Events, Area::Capabilities]).quiet(),
    case!(a_killed_leader_is_followed).with(ELECTIONS).quiet(),
    case!(a_lock_lost_in_a_long_stop_is_told).with(LOCKS).still(),
    case!(a_term_lost_in_a_long_stop_is_told).with(ELECTIONS).still(),
    case!(a_short_stop_loses_nothing).with(LOCKS).still(),
    case!(sixty_four_contenders_in_eight_processes).with(LOCKS).alone(),
];

async fn processes_exclude_each_other(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.worker("a").await, ctx.worker("b").await);
    a.lock("it").await?;
    assert_eq!(b.acquire("it", Mode::Exclusive, Some(Duration::ZERO)).await?, None, "it is held");
    let mut waiting = Box::pin(b.lock("it"));
    ctx.pending_for(Duration::from_millis(100), "a lock of another process", &mut waiting).await;
    assert!(a.verify("it").await?);
    assert!(a.release("it").await?);
    ctx.within(AT_ONCE, "the lock after its release", waiting).await?;
    b.check("it").await?;
    b.stop_coordinator().await?;
    a.lock("it").await?;
    Ok(())
}

async fn processes_share(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.worker("a").await, ctx.worker("b").await);
    let attempt = Some(Duration::ZERO);
    a.acquire("it", Mode::Shared, None).await?.expect("it is free");
    b.acquire("it", Mode::Shared, attempt).await?.expect("both are shared");
    let c = ctx.start("c").await?.lock("it")?;
    assert!(c.try_acquire().await?.is_none(), "two processes share it");
    assert!(a.release("it").await?);
    assert!(c.try_acquire().await?.is_none(), "one process is left");
    assert!(b.release("it").await?);
    let _guard = c.try_acquire().await?.expect("none is left");
    assert_eq!(a.acquire("it", Mode::Shared, attempt).await?, None, "it is held exclusively");
    Ok(())
}

async fn processes_of_the_same_member_id_exclude_each_other(ctx: &Context) -> Result<()> {
    let (one, two) = (ctx.worker("a").await, ctx.worker("a").await);
    one.lock("it").await?;
    assert_eq!(two.acquire("it", Mode::Exclusive, Some(Duration::ZERO)).await?, None);
    two.stop_coordinator().await?;
    assert!(one.verify("it").await?, "the stop of a namesake takes nothing away");
    Ok(())
}

async fn processes_see_each_others_members(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.worker("a").await, ctx.worker("b").await);
    let capabilities = json!({"weight": 3});
    a.join("g", capabilities.clone()).await?;
    b.join("g", Value::Null).await?;
    assert_eq!(a.members("g").await?, ["a", "b"]);
    let watcher = ctx.start("watcher").await?;
    let member = watcher.member("g", "a").await?;
    assert_eq!(member.capabilities.decode::<Value>()?, capabilities);
    a.leave("g").await?;
    assert_eq!(b.members("g").await?, ["b"]);
    Ok(())
}

async fn tokens_rise_from_process_to_process(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.worker("a").await, ctx.worker("b").await);
    let mut last = 0;
    for worker in [&a, &b, &b, &a, &b] {
        let token = worker.lock("it").await?;
        assert!(token > last, "the token {token} came after {last}");
        last = token;
        assert!(worker.release("it").await?);
    }
    Ok(())
}

async fn a_broken_lock_is_told_to_another_process(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.worker("a").await, ctx.start("b").await?);
    a.lock("it").await?;
    assert!(b.lock("it")?.break_lock().await?);
    let guard = b.lock("it")?.try_acquire().await?.expect("free once the break has returned");
    ctx.until(ctx.death(), "the loss of a broken lock", async || Ok(a.check("it").await.is_err()))
        .await?;
    assert!(!a.release("it").await?, "it was lost");
    assert!(guard.verify().await?, "the late release took nothing from the next holder");
    Ok(())
}

// ---- Killed.

async fn a_killed_holder_is_followed(ctx: &Context) -> Result<()> {
    let (mut a, b) = (ctx.worker("a").await, ctx.worker("b").await);
    a.lock("it").await?;
    let mut waiting = Box::pin(b.lock("it"));
    ctx.pending_for(Duration::from_millis(200), "a lock of another process", &mut waiting).await;
    a.kill().await;
    ctx.within(ctx.death(), "the lock of a killed process", waiting).await?;
    assert!(b.verify("it").await?);
    assert!(b.release("it").await?);
    Ok(())
}

async fn a_killed_shared_holder_is_followed(ctx: &Context) -> Result<()> {
    let (mut a, b) = (ctx.worker("a").await, ctx.worker("b").await);
    a.acquire("it", Mode::Shared, None).await?;
    b.acquire("it", Mode::Shared, None).await?;
    let c = ctx.start("c").await?.lock("it")?;
    let mut waiting = Box::pin(c.acquire());
    a.kill().await;
    let longer = ctx.death();
    ctx.pending_for(longer, "a lock with a shared holder that lives", &mut waiting).await;
    assert!(b.release("it").await?);
    ctx.within(AT_ONCE, "the lock without holders", waiting).await?.check()?;
    // Its process is killed at the end, and may have something to tidy up.
    Ok(b.stop_coordinator().await?)
}

async fn a_killed_waiter_leaves_nothing(ctx: &Context) -> Result<()> {
    let (a, mut b, c) = (ctx.worker("a").await, ctx.worker("b").await, ctx.worker("c").await);
    a.lock("it").await?;
    let mut waiting = Box::pin(b.lock("it"));
    ctx.pending_for(Duration::from_millis(200), "a lock of another process", &mut waiting).await;
    drop(waiting);
    let mut next = Box::pin(c.lock("it"));
    ctx.pending_for(Duration::from_millis(200), "a lock of another process", &mut next).await;
    b.kill().await;
    assert!(a.release("it").await?);
    // A lock that the killed one was given on the way is free when its time is over.
    ctx.within(ctx.death(), "the lock behind a killed waiter", next).await?;
    assert!(c.release("it").await?);
    Ok(())
}

async fn a_killed_member_leaves(ctx: &Context) -> Result<()> {
    let (mut a, watcher) = (ctx.worker("a").await, ctx.start("watcher").await?);
    a.join("g", json!(7)).await?;
    let mut events = watcher.watch_group("g").await?;
    next_within(ctx, "the snapshot", &mut events).await;
    a.kill().await;
    let event = ctx.within(ctx.death(), "the leave of a killed member", events.next()).await;
    let Some(GroupEvent::Left(member)) = event else { panic!("a leave, not {event:?}") };
    assert_eq!((member.id, member.capabilities.decode::<i32>()?), ("a".into(), 7));
    assert_eq!(watcher.members("g").await?, ids([]));
    // Its id is free again.
    let again = ctx.worker("a").await;
    again.join("g", json!(8)).await?;
    assert_eq!(watcher.members("g").await?, ids(["a"]));
    Ok(())
}

async fn a_killed_leader_is_followed(ctx: &Context) -> Result<()> {
    let (mut a, b) = (ctx.worker("a").await, ctx.worker("b").await);
    for worker in [&a, &b] {
        worker.join("g", Value::Null).await?;
    }
    let first = a.campaign("g", None).await?;
    let observer = ctx.start("observer").await?;
    assert_eq!(observer.leader("g").await?, Some("a".into()));
    let mut waiting = Box::pin(b.campaign("g", None));
    ctx.pending_for(Duration::from_millis(200), "a term of another process", &mut waiting).await;
    a.kill().await;
    let second = ctx.within(ctx.death(), "the term after a killed leader's", waiting).await?;
    assert!(second > first, "the token {second:?} came after {first:?}");
    assert_eq!(observer.leader("g").await?, Some("b".into()));
    Ok(())
}

// ---- Stopped.

/// Stops the process for so long; what its guard said then.
async fn stopped_for(ctx: &Context, worker: &Worker, name: &str, time: Duration) -> Result<Pause> {
    let mut watch = Box::pin(worker.watch_pause(name));
    ctx.pending_for(Duration::from_millis(200), "a watch of a pause to come", &mut watch).await;
    worker.freeze();
    sleep(time).await;
    worker.thaw();
    let pause = ctx.soon("the word of a process that goes on", watch).await?;
    assert!(pause.length >= time / 2, "it was really stopped: {pause:?}");
    Ok(pause)
}

/// What a process whose ownership ended while it was stopped must have seen.
fn lost_at_once(pause: &Pause) {
    assert!(pause.check_failed, "the first check after it fails: {pause:?}");
    let bound = Duration::from_millis(100);
    assert!(pause.lost_after.is_some_and(|after| after <= bound), "lost() fires: {pause:?}");
}

/// What a process whose ownership went on while it was stopped must have seen.
fn nothing_lost(pause: &Pause) {
    assert!(!pause.check_failed && pause.lost_after.is_none(), "nothing is lost: {pause:?}");
}

/// The time of a stop that is short or long by the TTL.
fn stop(ctx: &Context, halves: u32) -> Duration {
    ctx.ttl().unwrap_or(Duration::from_secs(2)) * halves / 2
}

async fn a_lock_lost_in_a_long_stop_is_told(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.worker("a").await, ctx.start("b").await?);
    a.lock("it").await?;
    let lock = b.lock("it")?;
    let waiting = async { lock.try_acquire_for(stop(ctx, 3)).await };
    let (pause, next) = tokio::join!(stopped_for(ctx, &a, "it", stop(ctx, 3)), waiting);
    let (pause, next) = (pause?, next?);
    if ctx.ttl().is_none() {
        nothing_lost(&pause);
        assert!(next.is_none(), "nobody else got it");
        assert!(a.verify("it").await?);
        assert!(a.release("it").await?);
        return Ok(());
    }
    lost_at_once(&pause);
    let guard = next.expect("the lock of a stopped process is free when its time is over");
    let failure = a.check("it").await.expect_err("lost for good");
    assert!(failure.is(ErrorKind::LockLost), "{failure:?}");
    assert!(!a.release("it").await?, "it was lost");
    assert!(guard.verify().await?, "the late release took nothing from the next holder");
    assert!(lock.try_acquire().await?.is_none(), "the next holder has it");
    guard.release().await?;
    // The process works on.
    a.lock("it").await?;
    assert!(a.release("it").await?);
    Ok(())
}

async fn a_term_lost_in_a_long_stop_is_told(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.worker("a").await, ctx.start("b").await?);
    a.join("g", Value::Null).await?;
    b.join_group("g", &()).await?;
    a.campaign("g", None).await?;
    let waiting = b.campaign_with("g", tooz_core::Wait::For(stop(ctx, 3)));
    let (pause, next) = tokio::join!(stopped_for(ctx, &a, "g", stop(ctx, 3)), waiting);
    let (pause, next) = (pause?, next?);
    if ctx.ttl().is_none() {
        nothing_lost(&pause);
        assert!(next.is_none(), "nobody else leads");
        assert!(a.release("g").await?);
        return Ok(());
    }
    lost_at_once(&pause);
    let term = next.expect("the term of a stopped process is over when its time is");
    assert!(!a.release("g").await?, "it was lost");
    assert!(term.verify().await?, "the late end took nothing from the next leader");
    assert_eq!(b.leader("g").await?, Some("b".into()));
    // The membership was lost with the session, and comes back.
    let both = async || Ok(b.members("g").await? == ids(["a", "b"]));
    ctx.until(Duration::from_secs(2), "the rejoined member", both).await
}

async fn a_short_stop_loses_nothing(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.worker("a").await, ctx.start("b").await?);
    a.lock("it").await?;
    // What was renewed a third of the TTL ago has hardly more left than the stop takes.
    a.heartbeat().await?;
    let pause = stopped_for(ctx, &a, "it", stop(ctx, 1)).await?;
    nothing_lost(&pause);
    assert!(b.lock("it")?.try_acquire().await?.is_none(), "nobody else got it");
    assert!(a.verify("it").await?);
    assert!(a.release("it").await?);
    Ok(())
}

// ---- Many.

async fn sixty_four_contenders_in_eight_processes(ctx: &Context) -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder for the record");
    let contention = Contention {
        wanted: Wanted::Lock("it".into()),
        tasks: 8,
        time: Duration::from_secs(5),
        folder: folder.path().to_owned(),
    };
    let bound = Duration::from_secs(20);
    let granted = contenders::processes(ctx, 8, bound, |_| contention.clone()).await?;
    assert_eq!(contention::grants_in_order(folder.path())?, granted.iter().sum::<u64>());
    assert!(granted.iter().all(|count| *count > 0), "all get their turn: {granted:?}");
    Ok(())
}
