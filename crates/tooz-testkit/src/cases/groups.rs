//! Groups and their members.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::time::Duration;

use tokio::task::JoinSet;
use tooz_core::{
    Coordinator, ErrorKind, Feature, GroupEvent, GroupId, MemberId, Result, SessionEvent,
};

use super::{fails, odd_names};
use crate::Area;
use crate::case::{Case, case};
use crate::context::Context;

const AREA: Area = Area::Groups;

pub(super) const CASES: &[Case] = &[
    case!(a_group_is_created_once_and_deleted),
    case!(groups_are_listed),
    case!(a_deleted_group_can_be_created_again),
    case!(what_does_not_exist_is_said_so),
    case!(members_join_and_leave),
    case!(joining_may_create_the_group),
    case!(a_member_joins_once),
    case!(a_member_id_joins_once).with(&[Area::Capabilities]),
    case!(who_is_not_a_member_cannot_leave),
    case!(a_namesake_can_neither_leave_nor_update),
    case!(a_removed_member_is_told_and_joins_again).with(&[Area::Events]),
    case!(a_removed_member_may_stay_out),
    case!(a_removal_needs_a_member),
    case!(a_group_with_members_is_not_deleted),
    case!(a_member_may_join_again),
    case!(groups_are_independent),
    case!(a_member_joins_and_leaves_many_groups_at_once).with(&[Area::Capabilities]),
    case!(a_membership_lasts).quiet(),
    case!(one_member_can_be_asked_for),
    case!(empty_names_are_refused),
    case!(odd_group_names_work_or_are_refused),
    case!(odd_member_ids_work_or_are_refused),
    case!(a_group_is_created_by_one_of_many),
    case!(all_who_join_and_create_at_once_are_in),
    case!(a_join_and_a_deletion_exclude_each_other),
    case!(a_crowd_of_members).alone(),
];

/// The ids of the members.
pub(super) fn ids<const N: usize>(ids: [&str; N]) -> BTreeSet<MemberId> {
    ids.into_iter().map(MemberId::from).collect()
}

async fn a_group_is_created_once_and_deleted(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    a.create_group("g").await?;
    fails(ErrorKind::GroupAlreadyExists, a.create_group("g").await);
    fails(ErrorKind::GroupAlreadyExists, b.create_group("g").await);
    b.delete_group("g").await?;
    fails(ErrorKind::GroupNotCreated, a.delete_group("g").await);
    assert!(a.groups().await?.is_empty());
    Ok(())
}

async fn groups_are_listed(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    assert!(a.groups().await?.is_empty(), "a fresh world has none");
    a.create_group("one").await?;
    b.create_group("two").await?;
    let both: BTreeSet<GroupId> = [GroupId::from("one"), GroupId::from("two")].into();
    assert_eq!(a.groups().await?, both);
    assert_eq!(b.groups().await?, both);
    a.stop().await?;
    assert_eq!(b.groups().await?, both, "groups outlive who created them");
    Ok(())
}

async fn a_deleted_group_can_be_created_again(ctx: &Context) -> Result<()> {
    let a = ctx.start("a").await?;
    for _ in 0..3 {
        a.create_group("g").await?;
        a.join_group("g", &()).await?;
        a.leave_group("g").await?;
        a.delete_group("g").await?;
    }
    Ok(())
}

async fn what_does_not_exist_is_said_so(ctx: &Context) -> Result<()> {
    let a = ctx.start("a").await?;
    fails(ErrorKind::GroupNotCreated, a.join_group("g", &()).await);
    fails(ErrorKind::GroupNotCreated, a.leave_group("g").await);
    fails(ErrorKind::GroupNotCreated, a.delete_group("g").await);
    fails(ErrorKind::GroupNotCreated, a.members("g").await);
    fails(ErrorKind::GroupNotCreated, a.members_with_capabilities("g").await);
    fails(ErrorKind::GroupNotCreated, a.member("g", "a").await);
    assert!(a.groups().await?.is_empty(), "a failed join creates nothing");
    Ok(())
}

async fn members_join_and_leave(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    a.create_group("g").await?;
    assert_eq!(b.members("g").await?, ids([]));
    a.join_group("g", &()).await?;
    assert_eq!(b.members("g").await?, ids(["a"]));
    b.join_group("g", &()).await?;
    for coordinator in [&a, &b] {
        assert_eq!(coordinator.members("g").await?, ids(["a", "b"]));
    }
    a.leave_group("g").await?;
    for coordinator in [&a, &b] {
        assert_eq!(coordinator.members("g").await?, ids(["b"]));
    }
    Ok(())
}

async fn joining_may_create_the_group(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    a.join_group_create("g", &()).await?;
    b.join_group_create("g", &()).await?;
    assert_eq!(a.members("g").await?, ids(["a", "b"]));
    fails(ErrorKind::MemberAlreadyExists, a.join_group_create("g", &()).await);
    Ok(())
}

async fn a_member_joins_once(ctx: &Context) -> Result<()> {
    let a = ctx.start("a").await?;
    a.join_group_create("g", &()).await?;
    fails(ErrorKind::MemberAlreadyExists, a.join_group("g", &()).await);
    assert_eq!(a.members("g").await?, ids(["a"]));
    Ok(())
}

async fn a_member_id_joins_once(ctx: &Context) -> Result<()> {
    let (one, two) = (ctx.start("a").await?, ctx.start("a").await?);
    one.join_group_create("g", &1).await?;
    fails(ErrorKind::MemberAlreadyExists, two.join_group("g", &2).await);
    let member = two.member("g", "a").await?;
    assert_eq!(member.capabilities.decode::<i32>()?, 1, "the refused join changed nothing");
    two.stop().await?;
    assert_eq!(one.members("g").await?, ids(["a"]), "the namesake's stop takes nothing away");
    Ok(())
}

async fn who_is_not_a_member_cannot_leave(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    a.join_group_create("g", &()).await?;
    fails(ErrorKind::MemberNotJoined, b.leave_group("g").await);
    a.leave_group("g").await?;
    fails(ErrorKind::MemberNotJoined, a.leave_group("g").await);
    Ok(())
}

async fn a_namesake_can_neither_leave_nor_update(ctx: &Context) -> Result<()> {
    let (one, two) = (ctx.start("a").await?, ctx.start("a").await?);
    one.join_group_create("g", &()).await?;
    fails(ErrorKind::MemberNotJoined, two.leave_group("g").await);
    if ctx.driver().features.contains(Feature::Capabilities) {
        fails(ErrorKind::MemberNotJoined, two.update_capabilities("g", &2).await);
    }
    assert_eq!(one.members("g").await?, ids(["a"]), "the namesake took nothing away");
    one.leave_group("g").await?;
    Ok(())
}

async fn a_removed_member_is_told_and_joins_again(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    a.join_group_create("g", &()).await?;
    b.join_group("g", &()).await?;
    let mut events = a.watch_group("g").await?;
    b.remove_member("g", "a").await?;
    // A member whose backend does not push it hears of it with its next heartbeat.
    let rejoined = async {
        while let Some(event) = events.next().await {
            if event == GroupEvent::Rejoined {
                return;
            }
        }
        panic!("the events ended");
    };
    ctx.soon_after(ctx.ttl().unwrap_or_default(), "the repair", rejoined).await;
    assert_eq!(b.members("g").await?, ids(["a", "b"]), "it is a member again, and b still is");
    Ok(())
}

async fn a_removed_member_may_stay_out(ctx: &Context) -> Result<()> {
    let a = ctx.builder("a")?.rejoin_when_removed(false).build()?;
    ctx.soon("the start of a coordinator", a.start()).await?;
    ctx.keep(&a);
    let b = ctx.start("b").await?;
    a.join_group_create("g", &()).await?;
    let mut session = a.session_events();
    b.remove_member("g", "a").await?;
    assert_eq!(b.members("g").await?, ids([]), "it is out at once");
    let told = async {
        loop {
            match session.next().await {
                Some(SessionEvent::Removed(group)) => return group,
                Some(SessionEvent::Suspended | SessionEvent::Resumed) => {}
                other => panic!("a removal, not {other:?}"),
            }
        }
    };
    let group = ctx.soon_after(ctx.ttl().unwrap_or_default(), "the news", told).await;
    assert_eq!(group, "g".into());
    fails(ErrorKind::MemberNotJoined, a.leave_group("g").await);
    a.join_group("g", &()).await?;
    assert_eq!(b.members("g").await?, ids(["a"]), "it may join again");
    Ok(())
}

async fn a_removal_needs_a_member(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    fails(ErrorKind::GroupNotCreated, b.remove_member("g", "a").await);
    a.join_group_create("g", &()).await?;
    fails(ErrorKind::MemberNotJoined, b.remove_member("g", "c").await);
    assert_eq!(b.members("g").await?, ids(["a"]), "a failed removal changes nothing");
    Ok(())
}

async fn a_group_with_members_is_not_deleted(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    a.join_group_create("g", &()).await?;
    fails(ErrorKind::GroupNotEmpty, a.delete_group("g").await);
    fails(ErrorKind::GroupNotEmpty, b.delete_group("g").await);
    assert_eq!(a.members("g").await?, ids(["a"]), "a failed deletion changes nothing");
    a.leave_group("g").await?;
    b.delete_group("g").await
}

async fn a_member_may_join_again(ctx: &Context) -> Result<()> {
    let a = ctx.start("a").await?;
    a.create_group("g").await?;
    for _ in 0..5 {
        a.join_group("g", &()).await?;
        assert_eq!(a.members("g").await?, ids(["a"]));
        a.leave_group("g").await?;
        assert_eq!(a.members("g").await?, ids([]));
    }
    Ok(())
}

async fn groups_are_independent(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    for group in ["g", "gg", "g2"] {
        a.create_group(group).await?;
        a.join_group(group, &()).await?;
    }
    b.join_group("g", &()).await?;
    a.leave_group("gg").await?;
    a.delete_group("gg").await?;
    assert_eq!(a.members("g").await?, ids(["a", "b"]));
    assert_eq!(a.members("g2").await?, ids(["a"]));
    Ok(())
}

async fn a_member_joins_and_leaves_many_groups_at_once(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let groups: Vec<_> = (0..12).map(|number| format!("g{number}")).collect();
    type Work = fn(Coordinator, String) -> Pin<Box<dyn Future<Output = Result<()>> + Send>>;
    let all = |work: Work| {
        let running: JoinSet<_> =
            groups.iter().map(|group| work(a.clone(), group.clone())).collect();
        async move { running.join_all().await.into_iter().collect::<Result<Vec<_>>>() }
    };
    for round in 0..2 {
        all(|a, group| Box::pin(async move { a.join_group_create(&group, &1).await })).await?;
        all(|a, group| Box::pin(async move { a.update_capabilities(&group, &2).await })).await?;
        for group in &groups {
            let members = b.members_with_capabilities(group).await?;
            assert_eq!(members.len(), 1, "{group}, round {round}");
            assert_eq!(members[0].capabilities.decode::<i32>()?, 2, "{group}, round {round}");
        }
        all(|a, group| Box::pin(async move { a.leave_group(&group).await })).await?;
        for group in &groups {
            assert_eq!(b.members(group).await?, ids([]), "{group}, round {round}");
        }
    }
    Ok(())
}

async fn a_membership_lasts(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    a.join_group_create("g", &()).await?;
    // Nothing tells that a member stays, but time.
    tokio::time::sleep(ctx.ttl().map_or(Duration::from_millis(500), |ttl| ttl * 5 / 2)).await;
    assert_eq!(b.members("g").await?, ids(["a"]));
    a.leave_group("g").await
}

async fn one_member_can_be_asked_for(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    a.join_group_create("g", &()).await?;
    assert_eq!(b.member("g", "a").await?.id, MemberId::from("a"));
    fails(ErrorKind::MemberNotJoined, a.member("g", "b").await);
    fails(ErrorKind::GroupNotCreated, a.member("h", "a").await);
    Ok(())
}

async fn empty_names_are_refused(ctx: &Context) -> Result<()> {
    let a = ctx.start("a").await?;
    fails(ErrorKind::InvalidInput, a.create_group("").await);
    fails(ErrorKind::InvalidInput, a.delete_group("").await);
    fails(ErrorKind::InvalidInput, a.join_group("", &()).await);
    fails(ErrorKind::InvalidInput, a.join_group_create("", &()).await);
    fails(ErrorKind::InvalidInput, a.leave_group("").await);
    fails(ErrorKind::InvalidInput, a.members("").await);
    a.create_group("g").await?;
    fails(ErrorKind::InvalidInput, a.member("g", "").await);
    Ok(())
}

async fn odd_group_names_work_or_are_refused(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    for name in odd_names() {
        let (group, shown) = (GroupId::from(name.clone()), name.escape_ascii().to_string());
        match a.create_group(&group).await {
            Err(error) if error.kind() == ErrorKind::InvalidInput => {
                fails(ErrorKind::InvalidInput, a.join_group(&group, &()).await);
                fails(ErrorKind::InvalidInput, a.members(&group).await);
                continue;
            }
            created => created?,
        }
        a.join_group(&group, &()).await?;
        assert_eq!(b.members(&group).await?, ids(["a"]), "{shown}");
        assert_eq!(b.groups().await?, [group.clone()].into(), "{shown}");
        a.leave_group(&group).await?;
        b.delete_group(&group).await?;
        assert!(b.groups().await?.is_empty(), "{shown}");
    }
    Ok(())
}

async fn odd_member_ids_work_or_are_refused(ctx: &Context) -> Result<()> {
    let watcher = ctx.start("watcher").await?;
    watcher.create_group("g").await?;
    for name in odd_names() {
        let (member, shown) = (MemberId::from(name.clone()), name.escape_ascii().to_string());
        // Refused at any of these points, or at none.
        let joined = async {
            let a = ctx.open(&member)?;
            a.start().await?;
            a.join_group("g", &()).await?;
            Ok::<Coordinator, tooz_core::Error>(a)
        };
        let a = match joined.await {
            Err(error) if error.kind() == ErrorKind::InvalidInput => continue,
            joined => joined?,
        };
        assert_eq!(watcher.members("g").await?, [member.clone()].into(), "{shown}");
        assert_eq!(watcher.member("g", &member).await?.id, member, "{shown}");
        a.leave_group("g").await?;
        assert!(watcher.members("g").await?.is_empty(), "{shown}");
        a.stop().await?;
    }
    Ok(())
}

/// Has all coordinators do something at the same time.
async fn all_at_once<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    coordinators: Vec<Coordinator>,
    what: impl Fn(Coordinator) -> F,
) -> Vec<T> {
    let mut tasks = JoinSet::new();
    for coordinator in coordinators {
        tasks.spawn(what(coordinator));
    }
    tasks.join_all().await
}

async fn several(ctx: &Context, count: usize) -> Result<Vec<Coordinator>> {
    let mut coordinators = Vec::new();
    for n in 0..count {
        coordinators.push(ctx.start(format!("member-{n:03}")).await?);
    }
    Ok(coordinators)
}

async fn a_group_is_created_by_one_of_many(ctx: &Context) -> Result<()> {
    let coordinators = several(ctx, 8).await?;
    let create = |c: Coordinator| async move { c.create_group("g").await };
    let results = all_at_once(coordinators, create).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "one created it");
    for result in results.into_iter().filter(|result| result.is_err()) {
        fails(ErrorKind::GroupAlreadyExists, result);
    }
    Ok(())
}

async fn all_who_join_and_create_at_once_are_in(ctx: &Context) -> Result<()> {
    let coordinators = several(ctx, 8).await?;
    let join = |c: Coordinator| async move { c.join_group_create("g", &()).await };
    for result in all_at_once(coordinators.clone(), join).await {
        result?;
    }
    for coordinator in &coordinators {
        assert_eq!(coordinator.members("g").await?.len(), 8);
    }
    Ok(())
}

async fn a_join_and_a_deletion_exclude_each_other(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    for _ in 0..20 {
        a.create_group("g").await?;
        match tokio::join!(a.join_group("g", &()), b.delete_group("g")) {
            (Ok(()), deleted) => {
                fails(ErrorKind::GroupNotEmpty, deleted);
                assert_eq!(b.members("g").await?, ids(["a"]));
                a.leave_group("g").await?;
                b.delete_group("g").await?;
            }
            (joined, deleted) => {
                fails(ErrorKind::GroupNotCreated, joined);
                deleted?;
            }
        }
    }
    Ok(())
}

async fn a_crowd_of_members(ctx: &Context) -> Result<()> {
    let coordinators = several(ctx, ctx.crowd()).await?;
    coordinators[0].create_group("g").await?;
    for coordinator in &coordinators {
        coordinator.join_group("g", &()).await?;
    }
    let expected: BTreeSet<_> = coordinators.iter().map(|c| c.member_id().clone()).collect();
    assert_eq!(coordinators[0].members("g").await?, expected);
    let last = &coordinators[ctx.crowd() - 1];
    assert_eq!(last.members_with_capabilities("g").await?.len(), ctx.crowd());
    for coordinator in &coordinators[1..] {
        coordinator.leave_group("g").await?;
    }
    assert_eq!(last.members("g").await?, ids(["member-000"]));
    Ok(())
}
