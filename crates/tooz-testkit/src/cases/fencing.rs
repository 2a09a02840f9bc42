//! Tokens that rise.

use std::time::Duration;

use tooz_core::{Coordinator, FencingToken, Mode, Result, Wait};

use super::AT_ONCE;
use crate::Area;
use crate::case::{Case, case};
use crate::context::Context;

const AREA: Area = Area::Fencing;

pub(super) const CASES: &[Case] = &[
    case!(tokens_rise_with_each_acquisition),
    case!(tokens_rise_from_holder_to_holder),
    case!(tokens_rise_from_a_holder_to_its_waiter),
    case!(tokens_rise_over_restarts),
    case!(tokens_rise_when_nobody_is_left),
    case!(tokens_rise_for_namesakes),
    case!(tokens_rise_over_a_drop),
    case!(tokens_rise_over_a_break).with(&[Area::BreakLock]),
    case!(tokens_rise_from_mode_to_mode).with(&[Area::SharedLocks]),
    case!(tokens_of_terms_rise).with(&[Area::Elections]),
    case!(tokens_of_terms_rise_over_another_group_of_the_name).with(&[Area::Elections]),
    case!(a_token_stays_the_same_while_it_is_held),
];

/// The tokens of one name, each of which must be higher than the one before.
#[derive(Default)]
struct Rising(Option<FencingToken>);

impl Rising {
    fn next(&mut self, token: FencingToken) {
        if let Some(last) = self.0.replace(token) {
            assert!(token > last, "the token {token} came after {last}");
        }
    }

    /// Acquires, looks at the token, and releases.
    async fn over(&mut self, coordinator: &Coordinator, mode: Mode) -> Result<()> {
        let lock = coordinator.lock("it")?;
        let guard = lock.acquire_with(mode, Wait::For(AT_ONCE)).await?.expect("it is free");
        self.next(guard.fencing_token());
        guard.release().await?;
        Ok(())
    }

    /// Leads, looks at the token, and stands down.
    async fn over_term(&mut self, coordinator: &Coordinator) -> Result<()> {
        let term = coordinator.campaign_with("g", Wait::For(AT_ONCE)).await?;
        let term = term.expect("nobody leads");
        self.next(term.fencing_token());
        term.resign().await?;
        Ok(())
    }
}

async fn tokens_rise_with_each_acquisition(ctx: &Context) -> Result<()> {
    let (a, mut tokens) = (ctx.start("a").await?, Rising::default());
    for _ in 0..50 {
        tokens.over(&a, Mode::Exclusive).await?;
    }
    Ok(())
}

async fn tokens_rise_from_holder_to_holder(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let mut tokens = Rising::default();
    for coordinator in [&a, &b, &b, &a, &b, &a] {
        tokens.over(coordinator, Mode::Exclusive).await?;
    }
    Ok(())
}

async fn tokens_rise_from_a_holder_to_its_waiter(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let mut tokens = Rising::default();
    let mut guard = a.lock("it")?.acquire().await?;
    tokens.next(guard.fencing_token());
    for next in [&b, &a, &b] {
        let lock = next.lock("it")?;
        let mut waiting = Box::pin(lock.acquire());
        ctx.pending_for(Duration::from_millis(20), "a lock that is held", &mut waiting).await;
        guard.release().await?;
        guard = ctx.within(AT_ONCE, "the lock after its release", waiting).await?;
        tokens.next(guard.fencing_token());
    }
    Ok(())
}

async fn tokens_rise_over_restarts(ctx: &Context) -> Result<()> {
    let (a, mut tokens) = (ctx.start("a").await?, Rising::default());
    for _ in 0..3 {
        tokens.over(&a, Mode::Exclusive).await?;
        a.stop().await?;
        a.start().await?;
    }
    Ok(())
}

async fn tokens_rise_when_nobody_is_left(ctx: &Context) -> Result<()> {
    let mut tokens = Rising::default();
    for _ in 0..3 {
        let a = ctx.open("a")?;
        a.start().await?;
        tokens.over(&a, Mode::Exclusive).await?;
        a.stop().await?;
        ctx.nothing_is_left().await?;
    }
    Ok(())
}

async fn tokens_rise_for_namesakes(ctx: &Context) -> Result<()> {
    let (one, two) = (ctx.start("a").await?, ctx.start("a").await?);
    let mut tokens = Rising::default();
    for coordinator in [&one, &two, &one] {
        tokens.over(coordinator, Mode::Exclusive).await?;
    }
    Ok(())
}

async fn tokens_rise_over_a_drop(ctx: &Context) -> Result<()> {
    let (a, mut tokens) = (ctx.start("a").await?, Rising::default());
    for _ in 0..5 {
        let guard = a.lock("it")?.acquire().await?;
        tokens.next(guard.fencing_token());
        drop(guard);
    }
    Ok(())
}

async fn tokens_rise_over_a_break(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let mut tokens = Rising::default();
    for _ in 0..3 {
        let guard = a.lock("it")?.acquire().await?;
        tokens.next(guard.fencing_token());
        assert!(b.lock("it")?.break_lock().await?);
        tokens.over(&b, Mode::Exclusive).await?;
    }
    Ok(())
}

async fn tokens_rise_from_mode_to_mode(ctx: &Context) -> Result<()> {
    use Mode::{Exclusive, Shared};
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let mut tokens = Rising::default();
    for mode in [Shared, Exclusive, Shared, Shared, Exclusive, Exclusive] {
        for coordinator in [&a, &b] {
            tokens.over(coordinator, mode).await?;
        }
    }
    // Together, too: the later shared acquisition has the higher token.
    let one = a.lock("it")?.acquire_shared().await?;
    let two = b.lock("it")?.acquire_shared().await?;
    tokens.next(one.fencing_token());
    tokens.next(two.fencing_token());
    Ok(())
}

async fn tokens_of_terms_rise(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let mut tokens = Rising::default();
    for coordinator in [&a, &b] {
        coordinator.join_group_create("g", &()).await?;
    }
    for coordinator in [&a, &b, &b, &a, &a] {
        tokens.over_term(coordinator).await?;
    }
    a.stop().await?;
    a.start().await?;
    a.join_group("g", &()).await?;
    tokens.over_term(&a).await
}

async fn tokens_of_terms_rise_over_another_group_of_the_name(ctx: &Context) -> Result<()> {
    let (a, mut tokens) = (ctx.start("a").await?, Rising::default());
    for _ in 0..3 {
        a.join_group_create("g", &()).await?;
        tokens.over_term(&a).await?;
        a.leave_group("g").await?;
        a.delete_group("g").await?;
    }
    Ok(())
}

async fn a_token_stays_the_same_while_it_is_held(ctx: &Context) -> Result<()> {
    let a = ctx.start("a").await?;
    let guard = a.lock("it")?.acquire().await?;
    let token = guard.fencing_token();
    a.lock("other")?.acquire().await?.release().await?;
    a.heartbeat().await?;
    assert!(guard.verify().await?);
    assert_eq!(guard.fencing_token(), token);
    Ok(())
}
