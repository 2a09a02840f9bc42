//! The loss of a session, and silence.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tooz_core::blocking::block_on;
use tooz_core::{
    Coordinator, ErrorKind, Events, GroupEvent, GroupId, Heartbeat, LockGuard, Result, SessionEvent,
};

use super::groups::ids;
use super::{AT_ONCE, fails, is_free, next_within};
use crate::Area;
use crate::case::{Case, case};
use crate::context::Context;

const AREA: Area = Area::Sessions;

const LOCKS: &[Area] = &[Area::Locks];
const GROUPS: &[Area] = &[Area::Groups, Area::Capabilities];

pub(super) const CASES: &[Case] = &[
    case!(a_loss_is_told_and_repaired),
    case!(a_lost_session_loses_its_locks).with(LOCKS),
    case!(a_waiter_gets_what_a_lost_session_held).with(LOCKS),
    case!(a_lost_session_loses_its_term).with(&[Area::Elections]),
    case!(others_keep_what_they_have).with(LOCKS),
    case!(a_wait_survives_the_loss_of_its_session).with(LOCKS),
    case!(a_candidacy_survives_the_loss_of_its_session).with(&[Area::Elections]),
    case!(groups_are_joined_again_with_their_capabilities).with(GROUPS),
    case!(groups_are_joined_again_each_time).with(GROUPS),
    case!(watches_go_on).with(&[Area::Events, Area::Capabilities]),
    case!(observations_go_on).with(&[Area::Elections]),
    case!(calls_work_right_after_a_loss).with(GROUPS),
    case!(an_update_after_a_loss_counts).with(GROUPS),
    case!(a_leave_after_a_loss_is_for_good).with(GROUPS),
    case!(a_stop_after_a_loss_leaves_nothing).with(GROUPS),
    case!(a_heart_by_hand_keeps_what_is_held).with(LOCKS).quiet(),
    case!(a_heart_that_stands_still_loses_what_is_held).with(LOCKS).quiet(),
    case!(a_heart_that_stands_still_loses_its_membership).with(GROUPS).quiet(),
    case!(a_heart_that_stands_still_waits_for_no_lock).with(LOCKS).quiet(),
    case!(a_heart_that_stands_still_is_no_candidate).with(&[Area::Elections]).quiet(),
    case!(a_blocked_runtime_loses_nothing_silently).with(LOCKS).quiet(),
];

/// How soon a lost session is replaced, and everything that depends on it repaired.
const REPAIRED: Duration = Duration::from_secs(2);

/// How soon after the loss of its session a wait is withdrawn.
const WITHDRAWN: Duration = Duration::from_millis(500);

/// The session is taken away, and replaced.
async fn lose_session(
    ctx: &Context,
    coordinator: &Coordinator,
    session: &mut Events<SessionEvent>,
) -> Result<Vec<GroupId>> {
    let start = Instant::now();
    ctx.take_session_away(coordinator).await?;
    loop {
        match ctx.within(REPAIRED, "the loss of the session", session.next()).await {
            // Trouble may be noticed before the loss.
            Some(SessionEvent::Suspended | SessionEvent::Resumed) => {}
            Some(SessionEvent::Lost(_)) => break,
            other => panic!("a loss, not {other:?}"),
        }
    }
    match ctx.within(REPAIRED, "a new session", session.next()).await {
        Some(SessionEvent::Rejoined(groups)) => {
            let took = start.elapsed();
            assert!(took <= REPAIRED, "repaired after {took:?}");
            Ok(groups)
        }
        other => panic!("a new session, not {other:?}"),
    }
}

async fn a_loss_is_told_and_repaired(ctx: &Context) -> Result<()> {
    let a = ctx.start("a").await?;
    let mut session = a.session_events();
    for _ in 0..3 {
        assert_eq!(lose_session(ctx, &a, &mut session).await?, []);
        a.heartbeat().await?;
    }
    Ok(())
}

/// What a guard says that was lost.
async fn is_lost(ctx: &Context, guard: LockGuard) -> Result<()> {
    ctx.within(AT_ONCE, "the loss of a lock with its session", guard.lost()).await;
    fails(ErrorKind::LockLost, guard.check());
    fails(ErrorKind::LockLost, guard.run(async {}).await);
    assert_eq!(guard.release().await.unwrap_err().kind(), ErrorKind::LockLost);
    Ok(())
}

async fn a_lost_session_loses_its_locks(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let (one, two) = (a.lock("one")?.acquire().await?, a.lock("two")?.acquire().await?);
    let mut session = a.session_events();
    lose_session(ctx, &a, &mut session).await?;
    is_lost(ctx, one).await?;
    assert!(is_free(&b, "one").await? && is_free(&b, "two").await?, "they are not taken again");
    let guard = b.lock("two")?.acquire().await?;
    is_lost(ctx, two).await?;
    assert!(guard.verify().await?, "the late release took nothing from the next holder");
    guard.release().await?;
    assert!(is_free(&a, "two").await?, "the coordinator works on");
    Ok(())
}

async fn a_waiter_gets_what_a_lost_session_held(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let guard = a.lock("it")?.acquire().await?;
    let lock = b.lock("it")?;
    let mut waiting = Box::pin(lock.acquire());
    ctx.pending_for(Duration::from_millis(50), "a lock that is held", &mut waiting).await;
    ctx.take_session_away(&a).await?;
    let next = ctx.within(REPAIRED, "the lock of a lost session", waiting).await?;
    is_lost(ctx, guard).await?;
    assert!(next.verify().await?);
    Ok(())
}

async fn a_lost_session_loses_its_term(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    for coordinator in [&a, &b] {
        coordinator.join_group_create("g", &()).await?;
    }
    let term = a.campaign("g").await?;
    let mut waiting = Box::pin(b.campaign("g"));
    ctx.pending_for(Duration::from_millis(50), "a term of another", &mut waiting).await;
    let mut session = a.session_events();
    assert_eq!(lose_session(ctx, &a, &mut session).await?, [GroupId::from("g")]);
    ctx.within(AT_ONCE, "the loss of a term with its session", term.lost()).await;
    fails(ErrorKind::LockLost, term.check());
    let next = ctx.within(REPAIRED, "the next term", waiting).await?;
    assert_eq!(term.resign().await.unwrap_err().kind(), ErrorKind::LockLost);
    assert!(next.verify().await?, "the late end took nothing from the next leader");
    assert_eq!(a.leader("g").await?, Some("b".into()));
    Ok(())
}

async fn others_keep_what_they_have(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let guard = b.lock("it")?.acquire().await?;
    let mut session = a.session_events();
    lose_session(ctx, &a, &mut session).await?;
    guard.check()?;
    assert!(guard.verify().await?);
    assert!(!is_free(&a, "it").await?);
    guard.release().await?;
    Ok(())
}

async fn a_wait_survives_the_loss_of_its_session(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let guard = a.lock("it")?.acquire().await?;
    let (lock, mut session) = (b.lock("it")?, b.session_events());
    let mut waiting = Box::pin(lock.acquire());
    ctx.pending_for(Duration::from_millis(50), "a lock that is held", &mut waiting).await;
    lose_session(ctx, &b, &mut session).await?;
    ctx.pending_for(Duration::from_millis(100), "a lock that is held", &mut waiting).await;
    guard.release().await?;
    let guard = ctx.within(REPAIRED, "the lock after its release", waiting).await?;
    assert!(guard.verify().await?);
    Ok(())
}

async fn a_candidacy_survives_the_loss_of_its_session(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    for coordinator in [&a, &b] {
        coordinator.join_group_create("g", &()).await?;
    }
    let (term, mut session) = (a.campaign("g").await?, b.session_events());
    let mut waiting = Box::pin(b.campaign("g"));
    ctx.pending_for(Duration::from_millis(50), "a term of another", &mut waiting).await;
    lose_session(ctx, &b, &mut session).await?;
    term.resign().await?;
    let term = ctx.within(REPAIRED, "the next term", waiting).await?;
    assert!(term.verify().await?);
    Ok(())
}

async fn groups_are_joined_again_with_their_capabilities(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    for (group, value) in [("g", 1), ("h", 2), ("left", 3)] {
        a.join_group_create(group, &value).await?;
    }
    a.update_capabilities("g", &10).await?;
    a.leave_group("left").await?;
    let mut session = a.session_events();
    let mut groups = lose_session(ctx, &a, &mut session).await?;
    groups.sort();
    assert_eq!(groups, ["g", "h"].map(GroupId::from));
    // They are members by the time that it is told.
    for (group, value) in [("g", 10), ("h", 2)] {
        let member = b.member(group, "a").await?;
        assert_eq!(member.capabilities.decode::<i32>()?, value, "the latest of {group}");
    }
    assert_eq!(b.members("left").await?, ids([]), "what was left stays left");
    fails(ErrorKind::MemberAlreadyExists, a.join_group("g", &()).await);
    a.leave_group("g").await?;
    assert_eq!(b.members("g").await?, ids([]));
    Ok(())
}

async fn groups_are_joined_again_each_time(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    a.join_group_create("g", &0).await?;
    let mut session = a.session_events();
    for n in 1..=3 {
        a.update_capabilities("g", &n).await?;
        lose_session(ctx, &a, &mut session).await?;
        assert_eq!(b.member("g", "a").await?.capabilities.decode::<i32>()?, n);
    }
    Ok(())
}

async fn watches_go_on(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    a.join_group_create("g", &1).await?;
    let (mut events, mut session) = (a.watch_group("g").await?, a.session_events());
    let first = next_within(ctx, "the snapshot", &mut events).await;
    assert!(matches!(first, GroupEvent::Snapshot(_)), "a snapshot, not {first:?}");
    lose_session(ctx, &a, &mut session).await?;
    let (mut gap, mut rejoined, mut member, mut seen) = (false, false, None, Vec::new());
    while !(gap && rejoined && member == Some(1)) {
        let what = format!("the repair of a watch, after {seen:?}");
        let event = next_within(ctx, &what, &mut events).await;
        seen.push(event.clone());
        match event {
            // The loss of its own session may be seen before it has an effect here.
            GroupEvent::Left(_) if !gap && !rejoined => member = None,
            GroupEvent::Gap if !gap => {
                let next = next_within(ctx, "the snapshot after a gap", &mut events).await;
                // A rejoin may fall between.
                let next = match next {
                    GroupEvent::Rejoined => {
                        rejoined = true;
                        next_within(ctx, "the snapshot after a gap", &mut events).await
                    }
                    next => next,
                };
                let GroupEvent::Snapshot(members) = next else { panic!("{next:?} after a gap") };
                member = match members.first() {
                    Some(member) => Some(member.capabilities.decode::<i32>()?),
                    None => None,
                };
                gap = true;
            }
            GroupEvent::Joined(now) | GroupEvent::Updated(now) if gap => {
                member = Some(now.capabilities.decode()?);
            }
            // The remnant of the lost session, if the snapshot still had it.
            GroupEvent::Left(_) if gap => member = None,
            GroupEvent::Rejoined if !rejoined => rejoined = true,
            _ => panic!("the order is wrong: {seen:?}"),
        }
    }
    b.join_group("g", &2).await?;
    let event = next_within(ctx, "what happens after the repair", &mut events).await;
    let GroupEvent::Joined(member) = event else { panic!("a join, not {event:?}") };
    assert_eq!(member.id, "b".into());
    Ok(())
}

async fn observations_go_on(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    a.join_group_create("g", &()).await?;
    let (mut leaders, mut session) = (b.watch_leader("g").await?, b.session_events());
    assert_eq!(next_within(ctx, "the present leader", &mut leaders).await, None);
    lose_session(ctx, &b, &mut session).await?;
    let term = a.campaign("g").await?;
    let leader = ctx.within(REPAIRED, "the new leader", leaders.next()).await;
    assert_eq!(leader, Some(Some("a".into())));
    term.check()
}

async fn calls_work_right_after_a_loss(ctx: &Context) -> Result<()> {
    let a = ctx.start("a").await?;
    a.create_group("g").await?;
    let mut session = a.session_events();
    for _ in 0..5 {
        ctx.take_session_away(&a).await?;
        ctx.soon("a read after a loss", a.members("g")).await?;
        repaired(ctx, &mut session).await;
        ctx.take_session_away(&a).await?;
        ctx.soon("a join after a loss", a.join_group("g", &())).await?;
        repaired(ctx, &mut session).await;
        ctx.soon("a leave", a.leave_group("g")).await?;
    }
    Ok(())
}

/// Waits until there is a new session, and whoever wanted to join again has done so.
async fn repaired(ctx: &Context, session: &mut Events<SessionEvent>) {
    loop {
        match ctx.within(REPAIRED, "a new session", session.next()).await {
            Some(SessionEvent::Rejoined(_)) => return,
            Some(_) => {}
            None => panic!("the coordinator ended"),
        }
    }
}

async fn an_update_after_a_loss_counts(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    a.join_group_create("g", &0).await?;
    let mut session = a.session_events();
    for n in 1..=10 {
        ctx.take_session_away(&a).await?;
        ctx.soon("an update after a loss", a.update_capabilities("g", &n)).await?;
        repaired(ctx, &mut session).await;
        assert_eq!(b.member("g", "a").await?.capabilities.decode::<i32>()?, n);
    }
    Ok(())
}

async fn a_leave_after_a_loss_is_for_good(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    for _ in 0..10 {
        a.join_group_create("g", &()).await?;
        let mut session = a.session_events();
        ctx.take_session_away(&a).await?;
        ctx.soon("a leave after a loss", a.leave_group("g")).await?;
        assert_eq!(b.members("g").await?, ids([]), "left once the leave has returned");
        repaired(ctx, &mut session).await;
        assert_eq!(b.members("g").await?, ids([]), "left for good");
    }
    Ok(())
}

async fn a_stop_after_a_loss_leaves_nothing(ctx: &Context) -> Result<()> {
    let a = ctx.start("a").await?;
    for _ in 0..10 {
        a.join_group_create("g", &()).await?;
        ctx.take_session_away(&a).await?;
        ctx.soon("a stop after a loss", a.stop()).await?;
        ctx.nothing_is_left().await?;
        a.start().await?;
        assert_eq!(a.members("g").await?, ids([]), "a stop is for good");
    }
    Ok(())
}

/// A coordinator whose heart beats by hand.
async fn by_hand(ctx: &Context) -> Result<Coordinator> {
    let coordinator = ctx.builder("a")?.heartbeat(Heartbeat::Manual).build()?;
    coordinator.start().await?;
    ctx.keep(&coordinator);
    Ok(coordinator)
}

async fn a_heart_by_hand_keeps_what_is_held(ctx: &Context) -> Result<()> {
    let a = by_hand(ctx).await?;
    let guard = a.lock("it")?.acquire().await?;
    let end = Instant::now() + ctx.ttl().map_or(Duration::from_millis(500), |ttl| ttl * 5 / 2);
    while Instant::now() < end {
        let next = a.heartbeat().await?;
        tokio::time::sleep(next.min(end.saturating_duration_since(Instant::now()))).await;
        guard.check()?;
    }
    assert!(guard.verify().await?);
    guard.release().await?;
    Ok(())
}

async fn a_heart_that_stands_still_loses_what_is_held(ctx: &Context) -> Result<()> {
    let (a, b) = (by_hand(ctx).await?, ctx.start("b").await?);
    let guard = a.lock("it")?.acquire().await?;
    // The last one: session and lock end together.
    a.heartbeat().await?;
    let start = Instant::now();
    let Some(ttl) = ctx.ttl() else {
        // Nothing tells that nothing is lost, but time.
        tokio::time::sleep(Duration::from_secs(1)).await;
        guard.check()?;
        assert!(!is_free(&b, "it").await?, "what does not rest on time needs no heart");
        return Ok(());
    };
    let deadline = guard.deadline().expect("with a TTL, there is a deadline");
    // The backend may still hold it a little longer, and a waiter gets it then.
    let lock = b.lock("it")?;
    let (lost_at, next) = tokio::join!(
        async {
            ctx.within(ttl, "the loss at the deadline", guard.lost()).await;
            Instant::now()
        },
        async { ctx.within(ctx.death(), "the lock that was not renewed", lock.acquire()).await }
    );
    assert!(lost_at + Duration::from_millis(20) >= deadline, "not lost before its deadline");
    assert!(lost_at - start <= ttl, "lost before the backend gives it away");
    fails(ErrorKind::LockLost, guard.check());
    assert_eq!(guard.release().await.unwrap_err().kind(), ErrorKind::LockLost);
    assert!(next?.verify().await?, "the late release took nothing from the next holder");
    Ok(())
}

async fn a_heart_that_stands_still_loses_its_membership(ctx: &Context) -> Result<()> {
    let (a, b) = (by_hand(ctx).await?, ctx.start("b").await?);
    a.join_group_create("g", &7).await?;
    let mut session = a.session_events();
    if ctx.ttl().is_none() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(b.members("g").await?, ids(["a"]), "what does not rest on time needs no heart");
        return Ok(());
    }
    let gone = async || Ok(b.members("g").await?.is_empty());
    ctx.until(ctx.death(), "the group without a member that hangs", gone).await?;
    stays_so(ctx, async || {
        assert_eq!(b.members("g").await?, ids([]), "who hangs is no member");
        Ok(())
    })
    .await?;
    // From here on it is repaired like any other.
    ctx.soon("the next heartbeat", a.heartbeat()).await?;
    loop {
        match ctx.within(REPAIRED, "the membership", session.next()).await {
            Some(SessionEvent::Rejoined(groups)) => {
                assert_eq!(groups, [GroupId::from("g")]);
                break;
            }
            Some(_) => {}
            None => panic!("the coordinator ended"),
        }
    }
    assert_eq!(b.member("g", "a").await?.capabilities.decode::<i32>()?, 7);
    Ok(())
}

/// Waits for the loss of a session whose heart stands still.
async fn hangs(ctx: &Context, session: &mut Events<SessionEvent>) {
    loop {
        match ctx.within(ctx.death(), "the loss of a session", session.next()).await {
            Some(SessionEvent::Lost(_)) => return,
            Some(_) => {}
            None => panic!("the coordinator ended"),
        }
    }
}

/// Looks for longer than a new session would live: nothing tells that nothing comes, but time.
async fn stays_so(ctx: &Context, mut look: impl AsyncFnMut() -> Result<()>) -> Result<()> {
    let end = Instant::now() + ctx.ttl().unwrap_or_default() * 5 / 4;
    while Instant::now() < end {
        look().await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn a_heart_that_stands_still_waits_for_no_lock(ctx: &Context) -> Result<()> {
    if ctx.ttl().is_none() {
        return Ok(());
    }
    let (a, b) = (by_hand(ctx).await?, ctx.start("b").await?);
    let guard = b.lock("it")?.acquire().await?;
    let (lock, mut session) = (a.lock("it")?, a.session_events());
    let mut waiting = Box::pin(lock.acquire());
    ctx.pending_for(Duration::from_millis(50), "a lock that is held", &mut waiting).await;
    hangs(ctx, &mut session).await;
    guard.release().await?;
    // The loss is told first, and the wait withdrawn then.
    ctx.until(WITHDRAWN, "a lock that nobody waits for", async || is_free(&b, "it").await).await?;
    stays_so(ctx, async || {
        assert!(is_free(&b, "it").await?, "who hangs waits for no lock");
        Ok(())
    })
    .await?;
    ctx.soon("the next heartbeat", a.heartbeat()).await?;
    let guard = ctx.within(REPAIRED, "the lock that was waited for", waiting).await?;
    assert!(guard.verify().await?);
    Ok(())
}

async fn a_heart_that_stands_still_is_no_candidate(ctx: &Context) -> Result<()> {
    if ctx.ttl().is_none() {
        return Ok(());
    }
    let (a, b) = (by_hand(ctx).await?, ctx.start("b").await?);
    for coordinator in [&a, &b] {
        coordinator.join_group_create("g", &()).await?;
    }
    let (term, mut session) = (b.campaign("g").await?, a.session_events());
    let mut waiting = Box::pin(a.campaign("g"));
    ctx.pending_for(Duration::from_millis(50), "a term of another", &mut waiting).await;
    hangs(ctx, &mut session).await;
    term.resign().await?;
    let nobody_leads = async || Ok(b.leader("g").await?.is_none());
    ctx.until(WITHDRAWN, "a group that nobody wants to lead", nobody_leads).await?;
    stays_so(ctx, async || {
        assert_eq!(b.leader("g").await?, None, "who hangs is no candidate");
        Ok(())
    })
    .await?;
    ctx.soon("the next heartbeat", a.heartbeat()).await?;
    let term = ctx.within(REPAIRED, "the term that was waited for", waiting).await?;
    assert!(term.verify().await?);
    assert_eq!(b.members("g").await?, ids(["a", "b"]), "a member before it leads");
    Ok(())
}

async fn a_blocked_runtime_loses_nothing_silently(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let time = ctx.ttl().map_or(Duration::from_secs(2), |ttl| ttl * 3);
    let (reply, answer) = oneshot::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let guard = runtime.block_on(async {
            let guard = a.lock("it")?.acquire().await?;
            // Blocks the only thread of this runtime.
            std::thread::sleep(time);
            // The very first look after it, before anything else can run.
            let held = guard.check().is_ok();
            Ok::<_, tooz_core::Error>((guard, held))
        });
        reply.send(guard)
    });
    let (guard, held) =
        ctx.soon_after(time, "a blocked runtime", answer).await.expect("no panic")?;
    if held {
        assert!(guard.verify().await?, "what is said to be held is held at the backend");
        assert!(!is_free(&b, "it").await?, "what is said to be held is free for nobody");
        guard.release().await?;
    } else {
        ctx.within(AT_ONCE, "the loss that check tells", guard.lost()).await;
        assert_eq!(guard.release().await.unwrap_err().kind(), ErrorKind::LockLost);
    }
    // A guard that was acquired by one runtime can be used without any.
    let lock = b.lock("it")?;
    let guard = tokio::task::spawn_blocking(move || block_on(lock.acquire()));
    ctx.soon("the lock afterwards", guard).await.expect("no panic")?.check()
}
