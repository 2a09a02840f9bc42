//! The events of a group.

use std::collections::BTreeSet;
use std::time::Duration;

use tooz_core::{Coordinator, ErrorKind, Events, GroupEvent, MemberId, Result};

use super::groups::ids;
use super::{fails, next_within};
use crate::Area;
use crate::case::{Case, case};
use crate::context::Context;

const AREA: Area = Area::Events;

pub(super) const CASES: &[Case] = &[
    case!(a_watch_begins_with_the_members),
    case!(what_happens_is_told_once_and_in_order).with(&[Area::Capabilities]),
    case!(a_member_sees_its_own_events).with(&[Area::Capabilities]),
    case!(events_know_the_capabilities).with(&[Area::Capabilities]),
    case!(a_member_that_comes_back_leaves_and_joins),
    case!(a_stop_is_a_leave),
    case!(a_dropped_coordinator_leaves),
    case!(all_watches_see_the_same),
    case!(what_happens_between_is_not_missed),
    case!(a_watch_needs_a_group),
    case!(a_watch_goes_on_over_a_deletion),
    case!(groups_are_watched_apart),
    case!(a_dropped_watch_disturbs_nobody),
    case!(a_crowd_joins_and_leaves).with(&[Area::Groups]).alone(),
];

/// A change, by the member that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    Snapshot(Vec<String>),
    Joined(String),
    Left(String),
    Updated(String),
    Other(&'static str),
}

use Change::{Joined, Left, Snapshot, Updated};

fn name(member: &tooz_core::Member) -> String {
    member.id.to_string()
}

async fn next(ctx: &Context, events: &mut Events<GroupEvent>) -> Change {
    match next_within(ctx, "the next event of a group", events).await {
        GroupEvent::Snapshot(members) => Snapshot(members.iter().map(name).collect()),
        GroupEvent::Joined(member) => Joined(name(&member)),
        GroupEvent::Left(member) => Left(name(&member)),
        GroupEvent::Updated(member) => Updated(name(&member)),
        GroupEvent::Gap => Change::Other("gap"),
        GroupEvent::Rejoined => Change::Other("rejoined"),
        _ => Change::Other("unknown"),
    }
}

/// Sees to it that nothing more comes.
async fn nothing_more(ctx: &Context, events: &mut Events<GroupEvent>) {
    let mut more = Box::pin(events.next());
    ctx.pending_for(Duration::from_millis(200), "no event without a change", &mut more).await;
}

/// A group, and a watch of it whose first snapshot was seen.
async fn watched(
    ctx: &Context,
    coordinator: &Coordinator,
    group: &str,
) -> Result<Events<GroupEvent>> {
    coordinator.create_group(group).await?;
    let mut events = coordinator.watch_group(group).await?;
    assert_eq!(next(ctx, &mut events).await, Snapshot(vec![]));
    Ok(events)
}

async fn a_watch_begins_with_the_members(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let watcher = ctx.start("watcher").await?;
    let mut empty = watched(ctx, &watcher, "g").await?;
    nothing_more(ctx, &mut empty).await;
    a.join_group("g", &()).await?;
    b.join_group("g", &()).await?;
    let mut events = watcher.watch_group("g").await?;
    assert_eq!(next(ctx, &mut events).await, Snapshot(vec!["a".into(), "b".into()]));
    nothing_more(ctx, &mut events).await;
    Ok(())
}

async fn what_happens_is_told_once_and_in_order(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let watcher = ctx.start("watcher").await?;
    let mut events = watched(ctx, &watcher, "g").await?;
    a.join_group("g", &1).await?;
    assert_eq!(next(ctx, &mut events).await, Joined("a".into()));
    b.join_group("g", &1).await?;
    assert_eq!(next(ctx, &mut events).await, Joined("b".into()));
    a.update_capabilities("g", &2).await?;
    assert_eq!(next(ctx, &mut events).await, Updated("a".into()));
    a.leave_group("g").await?;
    assert_eq!(next(ctx, &mut events).await, Left("a".into()));
    b.leave_group("g").await?;
    assert_eq!(next(ctx, &mut events).await, Left("b".into()));
    nothing_more(ctx, &mut events).await;
    Ok(())
}

async fn a_member_sees_its_own_events(ctx: &Context) -> Result<()> {
    let a = ctx.start("a").await?;
    let mut events = watched(ctx, &a, "g").await?;
    a.join_group("g", &1).await?;
    assert_eq!(next(ctx, &mut events).await, Joined("a".into()));
    a.update_capabilities("g", &2).await?;
    assert_eq!(next(ctx, &mut events).await, Updated("a".into()));
    a.leave_group("g").await?;
    assert_eq!(next(ctx, &mut events).await, Left("a".into()));
    Ok(())
}

async fn events_know_the_capabilities(ctx: &Context) -> Result<()> {
    let (a, watcher) = (ctx.start("a").await?, ctx.start("watcher").await?);
    let mut events = watched(ctx, &watcher, "g").await?;
    a.join_group("g", &1).await?;
    let joined = next_within(ctx, "the join", &mut events).await;
    let GroupEvent::Joined(member) = joined else { panic!("a join, not {joined:?}") };
    assert_eq!(member.capabilities.decode::<i32>()?, 1);
    a.update_capabilities("g", &2).await?;
    let updated = next_within(ctx, "the update", &mut events).await;
    let GroupEvent::Updated(member) = updated else { panic!("an update, not {updated:?}") };
    assert_eq!(member.capabilities.decode::<i32>()?, 2);
    Ok(())
}

async fn a_member_that_comes_back_leaves_and_joins(ctx: &Context) -> Result<()> {
    let (a, watcher) = (ctx.start("a").await?, ctx.start("watcher").await?);
    let mut events = watched(ctx, &watcher, "g").await?;
    for _ in 0..3 {
        a.join_group("g", &()).await?;
        assert_eq!(next(ctx, &mut events).await, Joined("a".into()));
        a.leave_group("g").await?;
        assert_eq!(next(ctx, &mut events).await, Left("a".into()));
    }
    Ok(())
}

async fn a_stop_is_a_leave(ctx: &Context) -> Result<()> {
    let (a, watcher) = (ctx.start("a").await?, ctx.start("watcher").await?);
    let mut events = watched(ctx, &watcher, "g").await?;
    a.join_group("g", &()).await?;
    assert_eq!(next(ctx, &mut events).await, Joined("a".into()));
    a.stop().await?;
    assert_eq!(next(ctx, &mut events).await, Left("a".into()));
    Ok(())
}

async fn a_dropped_coordinator_leaves(ctx: &Context) -> Result<()> {
    let (a, watcher) = (ctx.open("a")?, ctx.start("watcher").await?);
    a.start().await?;
    let mut events = watched(ctx, &watcher, "g").await?;
    a.join_group("g", &()).await?;
    assert_eq!(next(ctx, &mut events).await, Joined("a".into()));
    drop(a);
    assert_eq!(next(ctx, &mut events).await, Left("a".into()));
    Ok(())
}

async fn all_watches_see_the_same(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let mut one = watched(ctx, &a, "g").await?;
    let (mut two, mut three) = (a.watch_group("g").await?, b.watch_group("g").await?);
    for events in [&mut two, &mut three] {
        assert_eq!(next(ctx, events).await, Snapshot(vec![]));
    }
    a.join_group("g", &()).await?;
    for events in [&mut one, &mut two, &mut three] {
        assert_eq!(next(ctx, events).await, Joined("a".into()));
    }
    b.join_group("g", &()).await?;
    for events in [&mut one, &mut two, &mut three] {
        assert_eq!(next(ctx, events).await, Joined("b".into()));
    }
    Ok(())
}

/// Puts events together to who is a member.
async fn apply(ctx: &Context, members: &mut BTreeSet<String>, events: &mut Events<GroupEvent>) {
    match next(ctx, events).await {
        Snapshot(all) => *members = all.into_iter().collect(),
        Joined(member) => assert!(members.insert(member.clone()), "{member} joined twice"),
        Left(member) => assert!(members.remove(&member), "{member} left and was not there"),
        Updated(_) | Change::Other(_) => {}
    }
}

async fn what_happens_between_is_not_missed(ctx: &Context) -> Result<()> {
    let (a, watcher) = (ctx.start("a").await?, ctx.start("watcher").await?);
    watcher.create_group("g").await?;
    for _ in 0..20 {
        // The join falls before, into or after the snapshot, and is seen in any case.
        let (events, joined) = tokio::join!(watcher.watch_group("g"), a.join_group("g", &()));
        joined?;
        let (mut events, mut members) = (events?, BTreeSet::new());
        while members.is_empty() {
            apply(ctx, &mut members, &mut events).await;
        }
        a.leave_group("g").await?;
        while !members.is_empty() {
            apply(ctx, &mut members, &mut events).await;
        }
    }
    Ok(())
}

async fn a_watch_needs_a_group(ctx: &Context) -> Result<()> {
    let a = ctx.start("a").await?;
    fails(ErrorKind::GroupNotCreated, a.watch_group("g").await);
    fails(ErrorKind::InvalidInput, a.watch_group("").await);
    Ok(())
}

async fn a_watch_goes_on_over_a_deletion(ctx: &Context) -> Result<()> {
    let (a, watcher) = (ctx.start("a").await?, ctx.start("watcher").await?);
    let mut events = watched(ctx, &watcher, "g").await?;
    for _ in 0..3 {
        a.join_group("g", &()).await?;
        assert_eq!(next(ctx, &mut events).await, Joined("a".into()));
        a.leave_group("g").await?;
        assert_eq!(next(ctx, &mut events).await, Left("a".into()));
        a.delete_group("g").await?;
        nothing_more(ctx, &mut events).await;
        a.create_group("g").await?;
    }
    Ok(())
}

async fn groups_are_watched_apart(ctx: &Context) -> Result<()> {
    let (a, watcher) = (ctx.start("a").await?, ctx.start("watcher").await?);
    let mut one = watched(ctx, &watcher, "g").await?;
    let mut two = watched(ctx, &watcher, "gg").await?;
    a.join_group("gg", &()).await?;
    assert_eq!(next(ctx, &mut two).await, Joined("a".into()));
    nothing_more(ctx, &mut one).await;
    Ok(())
}

async fn a_dropped_watch_disturbs_nobody(ctx: &Context) -> Result<()> {
    let (a, watcher) = (ctx.start("a").await?, ctx.start("watcher").await?);
    let mut events = watched(ctx, &watcher, "g").await?;
    drop(watcher.watch_group("g").await?);
    a.join_group("g", &()).await?;
    assert_eq!(next(ctx, &mut events).await, Joined("a".into()));
    drop(events);
    a.leave_group("g").await?;
    let mut events = watcher.watch_group("g").await?;
    assert_eq!(next(ctx, &mut events).await, Snapshot(vec![]));
    Ok(())
}

async fn a_crowd_joins_and_leaves(ctx: &Context) -> Result<()> {
    let watcher = ctx.start("watcher").await?;
    let mut events = watched(ctx, &watcher, "g").await?;
    let mut members = BTreeSet::new();
    let mut coordinators = Vec::new();
    for n in 0..ctx.crowd() {
        let coordinator = ctx.start(format!("member-{n:03}")).await?;
        coordinator.join_group("g", &()).await?;
        coordinators.push(coordinator);
    }
    while members.len() < ctx.crowd() {
        apply(ctx, &mut members, &mut events).await;
    }
    let seen: BTreeSet<MemberId> = members.iter().map(MemberId::from).collect();
    assert_eq!(seen, watcher.members("g").await?);
    for coordinator in &coordinators {
        coordinator.leave_group("g").await?;
    }
    while !members.is_empty() {
        apply(ctx, &mut members, &mut events).await;
    }
    assert_eq!(watcher.members("g").await?, ids([]));
    nothing_more(ctx, &mut events).await;
    Ok(())
}
