//! Leaders.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tooz_core::{Coordinator, ErrorKind, Events, Leadership, Loss, MemberId, Result, Wait};

use super::{AT_ONCE, fails, next_within};
use crate::Area;
use crate::case::{Case, case};
use crate::context::Context;

const AREA: Area = Area::Elections;

pub(super) const CASES: &[Case] = &[
    case!(a_member_becomes_the_leader),
    case!(one_leads_at_a_time),
    case!(a_campaign_waits_for_the_end_of_the_term),
    case!(a_dropped_term_is_over),
    case!(a_term_knows_that_it_lasts),
    case!(a_term_lasts_as_long_as_its_guard).quiet(),
    case!(a_bounded_campaign_ends_in_time).alone(),
    case!(campaigns_of_one_member_do_not_nest),
    case!(only_members_campaign),
    case!(groups_that_do_not_exist_have_no_leader),
    case!(elections_of_groups_are_independent),
    case!(every_candidate_gets_its_term),
    case!(the_leader_is_observed),
    case!(an_observation_sees_every_lasting_change),
    case!(a_leader_that_leaves_stands_down),
    case!(a_candidate_that_leaves_is_no_candidate),
    case!(a_member_leads_again_after_joining_again),
    case!(a_dropped_leader_is_followed),
    case!(a_new_group_has_no_leader),
];

async fn member(ctx: &Context, id: &str) -> Result<Coordinator> {
    let coordinator = ctx.start(id).await?;
    coordinator.join_group_create("g", &()).await?;
    Ok(coordinator)
}

async fn attempt(coordinator: &Coordinator) -> Result<Option<Leadership>> {
    coordinator.campaign_with("g", Wait::Try).await
}

/// Waits until the observation says so; what is undone at once may not be seen.
async fn observed(ctx: &Context, leaders: &mut Events<Option<MemberId>>, leader: Option<&str>) {
    let leader = leader.map(MemberId::from);
    let what = format!("the leader {leader:?}");
    while next_within(ctx, &what, leaders).await != leader {}
}

async fn a_member_becomes_the_leader(ctx: &Context) -> Result<()> {
    let (a, b) = (member(ctx, "a").await?, ctx.start("b").await?);
    assert_eq!(b.leader("g").await?, None);
    let term = ctx.soon("the only candidate's election", a.campaign("g")).await?;
    for coordinator in [&a, &b] {
        assert_eq!(coordinator.leader("g").await?, Some("a".into()));
    }
    term.resign().await?;
    for coordinator in [&a, &b] {
        assert_eq!(coordinator.leader("g").await?, None);
    }
    Ok(())
}

async fn one_leads_at_a_time(ctx: &Context) -> Result<()> {
    let (a, b) = (member(ctx, "a").await?, member(ctx, "b").await?);
    for (one, other) in [(&a, &b), (&b, &a), (&a, &b)] {
        let term = attempt(one).await?.expect("nobody leads");
        assert!(attempt(other).await?.is_none(), "somebody leads");
        assert_eq!(other.leader("g").await?.as_ref(), Some(one.member_id()));
        term.resign().await?;
    }
    Ok(())
}

async fn a_campaign_waits_for_the_end_of_the_term(ctx: &Context) -> Result<()> {
    let (a, b) = (member(ctx, "a").await?, member(ctx, "b").await?);
    let term = a.campaign("g").await?;
    let mut waiting = Box::pin(b.campaign("g"));
    ctx.pending_for(Duration::from_millis(100), "a term of another", &mut waiting).await;
    term.check()?;
    term.resign().await?;
    let term = ctx.within(AT_ONCE, "the next term", waiting).await?;
    term.check()?;
    assert_eq!(a.leader("g").await?, Some("b".into()));
    Ok(())
}

async fn a_dropped_term_is_over(ctx: &Context) -> Result<()> {
    let (a, b) = (member(ctx, "a").await?, member(ctx, "b").await?);
    drop(a.campaign("g").await?);
    let term = b.campaign_with("g", Wait::For(AT_ONCE)).await?;
    assert!(term.is_some(), "over within a second");
    Ok(())
}

async fn a_term_knows_that_it_lasts(ctx: &Context) -> Result<()> {
    let a = member(ctx, "a").await?;
    let term = a.campaign("g").await?;
    term.check()?;
    assert_eq!(term.loss(), None);
    assert!(term.verify().await?, "the backend agrees");
    assert_eq!(term.deadline().is_some(), ctx.ttl().is_some(), "a deadline with a TTL");
    assert_eq!(term.run(async { 7 }).await?, 7);
    Ok(())
}

async fn a_term_lasts_as_long_as_its_guard(ctx: &Context) -> Result<()> {
    let (a, b) = (member(ctx, "a").await?, member(ctx, "b").await?);
    let term = a.campaign("g").await?;
    let mut waiting = Box::pin(b.campaign("g"));
    let time = ctx.ttl().map_or(Duration::from_secs(1), |ttl| ttl * 5 / 2);
    ctx.pending_for(time, "a term of another", &mut waiting).await;
    term.check()?;
    assert!(term.verify().await?, "the backend agrees");
    term.resign().await?;
    ctx.within(AT_ONCE, "the next term", waiting).await?.check()
}

async fn a_bounded_campaign_ends_in_time(ctx: &Context) -> Result<()> {
    let (a, b) = (member(ctx, "a").await?, member(ctx, "b").await?);
    let _term = a.campaign("g").await?;
    for time in [10, 300].map(Duration::from_millis) {
        let start = Instant::now();
        assert!(b.campaign_with("g", Wait::For(time)).await?.is_none());
        let took = start.elapsed();
        assert!(took >= time, "gave up after {took:?} of {time:?}");
        assert!(took < time + Duration::from_millis(500), "gave up only after {took:?}");
    }
    Ok(())
}

async fn campaigns_of_one_member_do_not_nest(ctx: &Context) -> Result<()> {
    let a = member(ctx, "a").await?;
    let term = a.campaign("g").await?;
    assert!(attempt(&a).await?.is_none(), "it leads already");
    term.resign().await?;
    assert!(attempt(&a).await?.is_some(), "it does not lead any more");
    Ok(())
}

async fn only_members_campaign(ctx: &Context) -> Result<()> {
    let (a, b) = (member(ctx, "a").await?, ctx.start("b").await?);
    fails(ErrorKind::MemberNotJoined, b.campaign("g").await);
    fails(ErrorKind::MemberNotJoined, attempt(&b).await);
    fails(ErrorKind::MemberNotJoined, b.campaign("no-such-group").await);
    a.leave_group("g").await?;
    fails(ErrorKind::MemberNotJoined, a.campaign("g").await);
    assert_eq!(b.leader("g").await?, None);
    Ok(())
}

async fn groups_that_do_not_exist_have_no_leader(ctx: &Context) -> Result<()> {
    let a = ctx.start("a").await?;
    fails(ErrorKind::GroupNotCreated, a.leader("g").await);
    fails(ErrorKind::GroupNotCreated, a.watch_leader("g").await);
    Ok(())
}

async fn elections_of_groups_are_independent(ctx: &Context) -> Result<()> {
    let (a, b) = (member(ctx, "a").await?, member(ctx, "b").await?);
    for coordinator in [&a, &b] {
        coordinator.join_group_create("gg", &()).await?;
    }
    let one = a.campaign("g").await?;
    let two = b.campaign_with("gg", Wait::Try).await?.expect("nobody leads the other group");
    assert_eq!(a.leader("g").await?, Some("a".into()));
    assert_eq!(a.leader("gg").await?, Some("b".into()));
    one.resign().await?;
    two.check()?;
    assert_eq!(a.leader("gg").await?, Some("b".into()));
    Ok(())
}

async fn every_candidate_gets_its_term(ctx: &Context) -> Result<()> {
    let mut candidates = JoinSet::new();
    for n in 0..10 {
        let candidate = member(ctx, &format!("candidate-{n}")).await?;
        candidates.spawn(async move {
            let term = candidate.campaign("g").await?;
            let leader = candidate.leader("g").await?;
            assert_eq!(leader.as_ref(), Some(candidate.member_id()), "during its term");
            term.resign().await
        });
    }
    while let Some(release) = ctx.soon("the next of the candidates", candidates.join_next()).await {
        release.expect("no panic")?;
    }
    Ok(())
}

async fn the_leader_is_observed(ctx: &Context) -> Result<()> {
    let (a, b) = (member(ctx, "a").await?, ctx.start("b").await?);
    let mut leaders = b.watch_leader("g").await?;
    assert_eq!(next_within(ctx, "the present leader", &mut leaders).await, None);
    let term = a.campaign("g").await?;
    assert_eq!(next_within(ctx, "the new leader", &mut leaders).await, Some("a".into()));
    let mut late = b.watch_leader("g").await?;
    assert_eq!(next_within(ctx, "the present leader", &mut late).await, Some("a".into()));
    term.resign().await?;
    for leaders in [&mut leaders, &mut late] {
        assert_eq!(next_within(ctx, "the end of the term", leaders).await, None);
    }
    Ok(())
}

async fn an_observation_sees_every_lasting_change(ctx: &Context) -> Result<()> {
    let (a, b) = (member(ctx, "a").await?, member(ctx, "b").await?);
    let mut leaders = ctx.start("observer").await?.watch_leader("g").await?;
    observed(ctx, &mut leaders, None).await;
    let term = a.campaign("g").await?;
    observed(ctx, &mut leaders, Some("a")).await;
    let mut next = Box::pin(b.campaign("g"));
    ctx.pending_for(Duration::from_millis(50), "a term of another", &mut next).await;
    term.resign().await?;
    let term = ctx.within(AT_ONCE, "the next term", next).await?;
    observed(ctx, &mut leaders, Some("b")).await;
    drop(term);
    observed(ctx, &mut leaders, None).await;
    // The observer is in the context's hands, and its stop ends the stream.
    ctx.finish().await?;
    assert_eq!(ctx.soon("the end of the observation", leaders.next()).await, None);
    Ok(())
}

async fn a_leader_that_leaves_stands_down(ctx: &Context) -> Result<()> {
    let (a, b) = (member(ctx, "a").await?, member(ctx, "b").await?);
    let term = a.campaign("g").await?;
    let mut waiting = Box::pin(b.campaign("g"));
    ctx.pending_for(Duration::from_millis(50), "a term of another", &mut waiting).await;
    a.leave_group("g").await?;
    fails(ErrorKind::LockLost, term.check());
    assert_eq!(term.loss(), Some(Loss::GivenUp), "it stood down by itself");
    ctx.within(AT_ONCE, "the next term", waiting).await?.check()?;
    assert_eq!(term.resign().await.unwrap_err().kind(), ErrorKind::LockLost);
    Ok(())
}

async fn a_candidate_that_leaves_is_no_candidate(ctx: &Context) -> Result<()> {
    let (a, b) = (member(ctx, "a").await?, member(ctx, "b").await?);
    let term = a.campaign("g").await?;
    let mut waiting = Box::pin(b.campaign("g"));
    ctx.pending_for(Duration::from_millis(50), "a term of another", &mut waiting).await;
    ctx.soon("a leave", b.leave_group("g")).await?;
    let ended = ctx.within(AT_ONCE, "the end of a candidacy without membership", waiting).await;
    fails(ErrorKind::MemberNotJoined, ended);
    let mut leaders = a.watch_leader("g").await?;
    observed(ctx, &mut leaders, Some("a")).await;
    term.resign().await?;
    let leader = next_within(ctx, "the end of the term", &mut leaders).await;
    assert_eq!(leader, None, "nobody leads who is no member");
    // Nor does it stand again by joining again.
    b.join_group("g", &()).await?;
    assert_eq!(a.leader("g").await?, None);
    let term = ctx.soon("a campaign of a member", b.campaign("g")).await?;
    term.check()
}

async fn a_member_leads_again_after_joining_again(ctx: &Context) -> Result<()> {
    let a = member(ctx, "a").await?;
    for _ in 0..3 {
        let term = attempt(&a).await?.expect("nobody else leads");
        term.resign().await?;
        a.leave_group("g").await?;
        a.join_group("g", &()).await?;
    }
    Ok(())
}

async fn a_dropped_leader_is_followed(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.open("a")?, member(ctx, "b").await?);
    a.start().await?;
    a.join_group("g", &()).await?;
    let term = a.campaign("g").await?;
    let mut waiting = Box::pin(b.campaign("g"));
    ctx.pending_for(Duration::from_millis(50), "a term of another", &mut waiting).await;
    drop((a, term));
    ctx.within(AT_ONCE, "the next term", waiting).await?.check()
}

async fn a_new_group_has_no_leader(ctx: &Context) -> Result<()> {
    let a = member(ctx, "a").await?;
    let term = a.campaign("g").await?;
    term.resign().await?;
    a.leave_group("g").await?;
    a.delete_group("g").await?;
    a.create_group("g").await?;
    assert_eq!(a.leader("g").await?, None);
    Ok(())
}
