//! Harm to the connections between a coordinator and its backend, and to the backend's server.
//!
//! The holder's way is through a proxy, the rival's is not. Whatever happens between: never do both
//! hold, by the word of their own guards.

use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::sleep;
use tooz_core::{Coordinator, Events, LockGuard, Loss, Mode, Result, SessionEvent, Wait};

use crate::Area;
use crate::case::{Case, case};
use crate::context::Context;
use crate::proxy::Proxy;

const AREA: Area = Area::Faults;

pub(super) const CASES: &[Case] = &[
    case!(a_reset_makes_no_second_holder).with(LOCKS).quiet(),
    case!(a_dead_connection_is_replaced_in_time).with(LOCKS).quiet(),
    case!(an_end_of_the_backends_side_alone_is_found_by_the_deadline).with(LOCKS).quiet(),
    case!(silence_ends_what_is_held_by_the_deadline).with(LOCKS).quiet(),
    case!(late_answers_and_then_silence_make_no_second_holder).with(LOCKS).quiet(),
    case!(a_crash_makes_no_second_holder).with(LOCKS).harms_the_server(),
    case!(a_crash_behind_a_cut_makes_no_second_holder).with(LOCKS).harms_the_server(),
    case!(a_crash_that_is_not_heard_makes_no_second_holder).with(LOCKS).harms_the_server(),
    case!(a_server_that_hangs_makes_no_second_holder).with(LOCKS).harms_the_server(),
];

const LOCKS: &[Area] = &[Area::Locks];

/// How long a namespace is there before its server is killed: servers that count whole seconds, and
/// their drivers, tell what is older than a start from what is not.
const AGE: Duration = Duration::from_secs(4);

/// Longer than any harm lasts.
const LONG: Duration = Duration::from_secs(50);

/// What is cut off, and who waits for what it holds.
struct Cut {
    proxy: Proxy,
    holder: Coordinator,
    session: Events<SessionEvent>,
    guard: LockGuard,
    rival: Coordinator,
    ttl: Duration,
    /// How much later than the rival the holder may know of a reset.
    late: Duration,
}

impl Cut {
    /// A holder behind a proxy, with the lock `l`.
    async fn new(ctx: &Context) -> Result<Self> {
        let proxy = Proxy::before(ctx.url()).await?;
        let holder = ctx.builder_at(proxy.url(), "holder")?.build()?;
        ctx.soon("the start behind the proxy", holder.start()).await?;
        ctx.keep(&holder);
        let rival = ctx.start("rival").await?;
        let session = holder.session_events();
        let guard = holder.lock("l")?.acquire().await?;
        let ttl = ctx.ttl().unwrap_or_default();
        let late = ctx.ends_with_its_connection().unwrap_or_default();
        Ok(Self { proxy, holder, session, guard, rival, ttl, late })
    }

    /// Lets the rival wait for the lock, for so long: `None` if it is still held then. If the rival
    /// gets it, the holder must know by then that it is lost.
    async fn rival_waits(&self, time: Duration) -> Result<Option<LockGuard>> {
        let lock = self.rival.lock("l")?;
        let taken = lock.acquire_with(Mode::Exclusive, Wait::For(time)).await?;
        if let Some(taken) = &taken {
            let since = Instant::now();
            while self.guard.check().is_ok() && taken.check().is_ok() {
                assert!(since.elapsed() < self.late, "both hold the lock");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert!(taken.fencing_token() > self.guard.fencing_token());
        }
        Ok(taken)
    }

    /// Lets the rival wait for the lock while the server is harmed, until the harm is over.
    async fn rival_waits_over(
        &self,
        harm: impl Future<Output = Result<()>>,
    ) -> Result<Option<LockGuard>> {
        // The rival's wait ends with this channel, whichever way.
        let (over, is_over) = oneshot::channel::<()>();
        let waits = async {
            tokio::select! {
                taken = self.rival_waits(LONG) => taken,
                _ = is_over => Ok(None),
            }
        };
        let harm = async {
            let result = harm.await;
            drop(over);
            result
        };
        let (taken, harmed) = tokio::join!(waits, harm);
        harmed?;
        taken
    }

    /// How long after a start of the server a lock is somebody's again: what the server forgot is
    /// granted after a TTL, and so is what it remembers of a holder that is gone.
    fn settled(&self) -> Duration {
        self.ttl * 2 + Duration::from_secs(1)
    }

    /// Waits until the holder, to which nothing comes through, knows that the lock is lost.
    async fn told_by_the_deadline(&self, ctx: &Context) {
        let since = Instant::now();
        ctx.soon_after(self.ttl, "the loss", self.guard.lost()).await;
        // An answer that had come through by then may have moved the deadline.
        let late = self.guard.deadline().map(|deadline| deadline.elapsed()).unwrap_or_default();
        assert!(late < Duration::from_secs(1), "{late:?} after the deadline");
        let took = since.elapsed();
        assert!(took < self.ttl + Duration::from_secs(1), "{took:?} after the last answer");
    }

    /// Waits until the holder's coordinator works again.
    async fn is_well(&self, ctx: &Context) -> Result<()> {
        let lock = self.holder.lock("m")?;
        ctx.soon_after(self.settled(), "another lock", lock.acquire()).await?.release().await?;
        Ok(())
    }

    /// Waits until the holder's coordinator is well again after a loss of its session.
    async fn repaired(&mut self, ctx: &Context) {
        let again = async {
            while let Some(event) = self.session.next().await {
                if matches!(event, SessionEvent::Rejoined(_)) {
                    return;
                }
            }
            panic!("the coordinator ended");
        };
        ctx.soon_after(self.ttl, "a new session", again).await;
    }
}

async fn a_reset_makes_no_second_holder(ctx: &Context) -> Result<()> {
    let mut cut = Cut::new(ctx).await?;
    let since = Instant::now();
    cut.proxy.reset();
    if ctx.ends_with_its_connection().is_some() {
        let loss = async {
            let loss = ctx.soon("the loss", cut.guard.lost()).await;
            (loss, since.elapsed())
        };
        let ((loss, told), taken) = tokio::join!(loss, cut.rival_waits(Duration::from_secs(5)));
        assert_eq!(loss, Loss::SessionEnded, "after {told:?}");
        assert!(taken?.is_some(), "the backend has seen the end of the connection too");
        cut.repaired(ctx).await;
    } else {
        let taken = cut.rival_waits(cut.ttl * 3 / 2).await?;
        assert!(taken.is_none(), "a session outlives its connection");
        cut.guard.check()?;
    }
    Ok(())
}

async fn a_dead_connection_is_replaced_in_time(ctx: &Context) -> Result<()> {
    let mut cut = Cut::new(ctx).await?;
    cut.proxy.silence();
    let taken = cut.rival_waits(cut.ttl * 3 / 2).await?;
    if ctx.ends_with_its_connection().is_some() {
        assert!(!cut.guard.check().is_ok_and(|()| taken.is_some()));
        ctx.soon_after(cut.ttl, "the loss", cut.guard.lost()).await;
        cut.repaired(ctx).await;
    } else {
        cut.guard.check()?;
        assert!(taken.is_none(), "two unanswered heartbeats and a new connection fit");
    }
    let again = cut.holder.lock("m")?;
    ctx.soon("another lock", again.acquire()).await?.release().await?;
    Ok(())
}

async fn an_end_of_the_backends_side_alone_is_found_by_the_deadline(ctx: &Context) -> Result<()> {
    let mut cut = Cut::new(ctx).await?;
    cut.proxy.reset_half();
    if ctx.ends_with_its_connection().is_some() {
        // The rival may have it meanwhile: that is what the driver's page declares.
        cut.told_by_the_deadline(ctx).await;
        cut.repaired(ctx).await;
    } else {
        let taken = cut.rival_waits(cut.ttl * 3 / 2).await?;
        assert!(taken.is_none(), "a session outlives its connection");
        cut.guard.check()?;
    }
    Ok(())
}

async fn silence_ends_what_is_held_by_the_deadline(ctx: &Context) -> Result<()> {
    let mut cut = Cut::new(ctx).await?;
    cut.proxy.freeze();
    silence_makes_no_second_holder(ctx, &cut).await?;
    cut.proxy.thaw();
    cut.repaired(ctx).await;
    Ok(())
}

async fn late_answers_and_then_silence_make_no_second_holder(ctx: &Context) -> Result<()> {
    let mut cut = Cut::new(ctx).await?;
    // Late, and early enough that what is held is kept.
    cut.proxy.delay(cut.ttl / 20);
    assert!(cut.rival_waits(cut.ttl).await?.is_none(), "it is renewed meanwhile");
    cut.guard.check()?;
    cut.proxy.freeze();
    silence_makes_no_second_holder(ctx, &cut).await?;
    cut.proxy.delay(Duration::ZERO);
    cut.proxy.thaw();
    cut.repaired(ctx).await;
    Ok(())
}

/// In silence, the holder knows that it is lost before the rival has it.
async fn silence_makes_no_second_holder(ctx: &Context, cut: &Cut) -> Result<()> {
    let (mut lost, mut taken) = (pin!(cut.guard.lost()), pin!(cut.rival_waits(ctx.death())));
    let taken = tokio::select! {
        biased;
        _ = &mut lost => taken.await?,
        taken = &mut taken => panic!("the rival came first: {:?}", taken?),
    };
    match taken {
        Some(taken) => drop(taken.release().await?),
        // A backend that ends sessions late: that it does is the business of other cases.
        None => assert!(cut.guard.check().is_err()),
    }
    Ok(())
}

// ---- The server.

async fn a_crash_makes_no_second_holder(ctx: &Context) -> Result<()> {
    let cut = Cut::new(ctx).await?;
    let (server, bound) = (ctx.server()?, cut.settled());
    sleep(AGE).await;
    let taken = cut
        .rival_waits_over(async {
            server.0.kill().await?;
            server.0.start().await?;
            sleep(bound).await;
            Ok(())
        })
        .await?;
    assert!(taken.is_some() || cut.guard.check().is_ok(), "somebody has it in the end");
    cut.is_well(ctx).await
}

async fn a_crash_behind_a_cut_makes_no_second_holder(ctx: &Context) -> Result<()> {
    crash_unheard(ctx, Proxy::freeze).await
}

async fn a_crash_that_is_not_heard_makes_no_second_holder(ctx: &Context) -> Result<()> {
    crash_unheard(ctx, Proxy::deafen).await
}

/// The server comes back at once, and the holder learns nothing of it.
async fn crash_unheard(ctx: &Context, cut_off: fn(&Proxy)) -> Result<()> {
    let cut = Cut::new(ctx).await?;
    let (server, bound) = (ctx.server()?, cut.settled());
    sleep(AGE).await;
    cut_off(&cut.proxy);
    let taken = cut
        .rival_waits_over(async {
            let told = cut.told_by_the_deadline(ctx);
            let crash = async {
                server.0.kill().await?;
                server.0.start().await
            };
            tokio::join!(told, crash).1?;
            sleep(bound).await;
            Ok(())
        })
        .await?;
    assert!(taken.is_some(), "free when the time of the holder is over");
    drop(taken);
    cut.proxy.thaw();
    cut.is_well(ctx).await
}

async fn a_server_that_hangs_makes_no_second_holder(ctx: &Context) -> Result<()> {
    let cut = Cut::new(ctx).await?;
    let (server, bound) = (ctx.server()?, cut.settled());
    let taken = cut
        .rival_waits_over(async {
            server.0.freeze().await?;
            cut.told_by_the_deadline(ctx).await;
            sleep(cut.ttl / 2).await;
            server.0.start().await?;
            sleep(bound).await;
            Ok(())
        })
        .await?;
    assert!(taken.is_some(), "free when the time of the holder is over");
    drop(taken);
    cut.is_well(ctx).await
}
