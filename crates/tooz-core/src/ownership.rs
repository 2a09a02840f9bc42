//! What a lock guard and a leadership have in common.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::Instrument;

use crate::handle::Handle;
use crate::supervisor::{Held, Run, Supervisor, stopped};
use crate::{
    Acquisition, Error, ErrorKind, Fence, FenceName, FencingToken, GroupId, Hold, Lease, LockName,
    Loss, Mode, Moment, OperationId, Outcome, Release, Result, Session, Wait,
};

/// How long a driver may take to cancel an acquisition when its wait is over: while its backend is
/// known to be in trouble, and at most.
const CANCELLATION: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

/// Something that is ours until a deadline that each renewal moves forward: a lock or a term.
///
/// No lock service can stop a process that is paused past its deadline from believing, until it
/// looks, that it still holds the lock. So look, with [`check`](Self::check) or
/// [`run`](Self::run), and send the [`fence`](Self::fence) with each write to the
/// protected resource, so that the resource can refuse an earlier holder.
///
/// Dropping it releases it in the background: anywhere, without blocking, with or without a
/// runtime.
///
/// When the coordinator is stopped, the holder loses it at once, but the next holder gets it only
/// after it was dropped, or after the [grace](crate::Builder::stop_grace) of the stop: finish what
/// cannot wait, and drop it.
///
/// ```
/// # tooz_core::blocking::block_on(async {
/// # let coordinator = tooz_memory::start("docs-ownership", "host-1").await?;
/// let guard = coordinator.lock("inventory")?.acquire().await?;
/// println!("token {}, held until {:?} at least", guard.fencing_token(), guard.deadline());
/// guard.check()?; // a look at the clock
/// assert!(guard.verify().await?); // a question to the backend
/// let answer = guard.run(async { 6 * 7 }).await?; // dropped at the loss
/// assert_eq!(answer, 42);
///
/// tooz_memory::World::named("docs-ownership").expire_session(coordinator.member_id());
/// println!("{}", guard.lost().await);
/// assert!(guard.check().is_err());
/// # Ok::<(), tooz_core::Error>(())
/// # }).unwrap();
/// ```
pub struct Ownership {
    handle: Arc<Handle>,
    run: Arc<Run>,
    hold: Arc<dyn Hold>,
    /// A child of the hold's lease: when the coordinator is stopped, it is lost first.
    lease: Lease,
    id: OperationId,
    target: Target,
    /// It is not released before: see [`Lock::at_least`](crate::Lock::at_least).
    stays_until: Option<Moment>,
    settled: bool,
}

/// What is asked for, and held.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Lock(LockName),
    Leadership(GroupId),
}

impl Target {
    /// For messages: what it is, and its name.
    fn shown(&self) -> (&'static str, &dyn fmt::Display) {
        match self {
            Self::Lock(name) => ("lock", name),
            Self::Leadership(group) => ("group", group),
        }
    }

    fn named_in(&self, error: Error) -> Error {
        let (kind, name) = self.shown();
        error.with(kind, name)
    }

    fn group(&self) -> Option<&GroupId> {
        match self {
            Self::Lock(_) => None,
            Self::Leadership(group) => Some(group),
        }
    }
}

impl Acquisition<Target> {
    /// One attempt on one session, under an id of its own: remnants of an earlier attempt must not
    /// be taken for it.
    async fn attempt(
        &self,
        supervisor: &Supervisor,
        run: &Run,
        session_wait: SessionWait,
    ) -> Result<Option<Granted>> {
        let candidacy = match self.target.group() {
            None => None,
            Some(group) => match supervisor.must_be_member(run, group).await {
                Ok(candidacy) => Some(candidacy),
                // The next session joins the group again; nothing can be tried before that.
                Err(error) if error.is_retryable() => {
                    tokio::select! {
                        session = session_wait.session(run) => {
                            drop(session?);
                        }
                        () = self.wait.given_up() => {}
                    }
                    return Err(error);
                }
                Err(error) => return Err(error),
            },
        };
        let mut left = pin!(left(candidacy.clone()));
        let session = tokio::select! {
            biased; // If nobody waits any more, nothing is begun.
            () = self.wait.given_up() => return Ok(None),
            session = session_wait.session(run) => session?,
            () = &mut left => return Err(candidacy_ended()),
        };
        let wait = self.wait.child();
        let attempt = Acquisition::new((), self.mode, wait.clone());
        let id = attempt.id;
        let mut granted = match &self.target {
            Target::Lock(name) => {
                session.require_locks()?.acquire(attempt.with_target(name.clone()))
            }
            Target::Leadership(group) => {
                session.require_elections()?.campaign(attempt.with_target(group.clone()))
            }
        };
        let granted = tokio::select! {
            granted = &mut granted => granted?,
            _ = session.lease().lost() => {
                wait.give_up();
                granted.await?
            }
            () = left => {
                wait.give_up();
                if let Ok(Some(hold)) = granted.await {
                    // If it fails, the end of its session ends it.
                    drop(supervisor.release(run, &*hold).await);
                }
                return Err(candidacy_ended());
            }
        };
        Ok(granted.map(|hold| Granted { id, hold, candidacy }))
    }
}

/// How long the attempts of one acquisition may wait for a session.
#[derive(Clone, Copy)]
enum SessionWait {
    /// All attempts together, from that moment on: the user's wait is no longer than that.
    Until(Moment, Duration),
    /// Each attempt, like any other operation.
    Each(Duration),
}

impl SessionWait {
    async fn session(self, run: &Run) -> Result<Arc<dyn Session>> {
        match self {
            Self::Until(since, time) => run.session(since, time).await,
            Self::Each(time) => run.session(Moment::now(), time).await,
        }
    }
}

/// What a driver granted to an attempt.
struct Granted {
    id: OperationId,
    hold: Arc<dyn Hold>,
    candidacy: Option<watch::Receiver<bool>>,
}

/// Waits until the candidacy's group is being left.
async fn left(candidacy: Option<watch::Receiver<bool>>) {
    match candidacy {
        // An error means that the membership is gone.
        Some(mut candidacy) => drop(candidacy.wait_for(|left| *left).await),
        None => std::future::pending().await,
    }
}

fn candidacy_ended() -> Error {
    Error::new(ErrorKind::MemberNotJoined, "the group was left, which ended the candidacy in it")
}

impl Ownership {
    /// Acquires on the engine, over as many sessions as it takes.
    pub(crate) async fn acquire(
        handle: Arc<Handle>,
        operation: &'static str,
        target: Target,
        mode: Mode,
        wait: Wait,
    ) -> Result<Option<Self>> {
        let supervisor = handle.supervisor.clone();
        let (engine, shown) = (supervisor.engine.clone(), target.clone());
        let naming = supervisor.clone();
        let named = |e: Error| shown.named_in(naming.names(e.during(operation)));
        supervisor.engine.check_here().map_err(named)?;
        let run = supervisor.run().map_err(named)?;
        let acquisition = Acquisition::new(target, mode, run.waiting(wait));
        let (looking, timeout) = (run.clone(), supervisor.settings.timeout);
        let session_wait = match wait {
            Wait::For(time) if time <= timeout => SessionWait::Until(Moment::now(), time),
            _ => SessionWait::Each(timeout),
        };
        // Dropping this future tells the engine to cancel it.
        let _cancel = acquisition.wait.give_up_on_drop();
        let span = supervisor.span(operation);
        let acquired = async move {
            let wait = &acquisition.wait;
            let mut backoff = supervisor.settings.retry.backoff();
            loop {
                let failed = match acquisition.attempt(&supervisor, &run, session_wait).await {
                    Ok(Some(Granted { id, hold, candidacy })) => {
                        let (handle, run) = (handle.clone(), run.clone());
                        let (target, lease) = (acquisition.target.clone(), hold.lease().child());
                        let (stays_until, settled) = (None, false);
                        let ownership =
                            Self { handle, run, hold, lease, id, target, stays_until, settled };
                        let held = ownership.is_granted(candidacy).await;
                        // The wait may have outlived the lease: look before handing it out.
                        if held.is_ok() && ownership.lease.is_held() {
                            return Ok(Some(ownership));
                        }
                        // Released before the caller gets nothing. If that fails, the end of its
                        // session ends it.
                        drop(ownership.release(operation).await);
                        held.err()
                    }
                    // It waited, so earlier failures no longer matter.
                    Ok(None) => {
                        backoff = supervisor.settings.retry.backoff();
                        None
                    }
                    Err(error) => Some(error),
                };
                if let Some(error) = failed {
                    let passing = error.is_retryable() || error.kind() == ErrorKind::SessionLost;
                    if !passing || wait.is_over() {
                        return Err(run.or_stopped(error));
                    }
                }
                if wait.is_given_up() {
                    return Err(stopped());
                }
                if wait.is_over() {
                    return Ok(None);
                }
                tokio::select! {
                    () = backoff.pause() => {}
                    // One more attempt, unless nobody wants it any more.
                    () = wait.over() => {}
                }
            }
        };
        let Wait::For(time) = wait else {
            return engine.run(acquired.instrument(span)).await.map_err(named);
        };
        // The engine goes on cancelling at a backend out of reach, and releases what is
        // granted even so.
        let (limit, driving) = (time.saturating_add(CANCELLATION.0), engine.clone());
        let within_limit = async move {
            let out_of_reach = async {
                tokio::time::sleep(limit).await;
                let rest = CANCELLATION.1.saturating_sub(CANCELLATION.0);
                // Either way there is no use in waiting longer.
                let _ = tokio::time::timeout(rest, looking.is_in_doubt()).await;
            };
            tokio::select! {
                acquired = driving.run(acquired.instrument(span)) => acquired,
                () = out_of_reach => Err(Error::new(
                    ErrorKind::TimedOut,
                    "the wait is over, and the backend does not answer",
                )
                .with("seconds", time.as_secs_f64())
                .outcome_is(Outcome::Unknown)),
            }
        };
        engine.run(within_limit).await.map_err(named)
    }

    /// Notes what the driver granted, unless the run or the membership ended meanwhile.
    async fn is_granted(&self, candidacy: Option<watch::Receiver<bool>>) -> Result<()> {
        let group = self.target.group();
        let held = Held::new(self.hold.clone(), self.lease.clone(), group.cloned());
        self.run.hold(self.id, held)?;
        // Only now: a leave waits for this, and then ends the terms.
        drop(candidacy);
        match group {
            // A leave that came meanwhile has not seen this term.
            Some(group) => self.handle.supervisor.must_be_member(&self.run, group).await.map(drop),
            None => Ok(()),
        }
    }

    /// The token of this acquisition: greater than that of every earlier one of the same name.
    pub fn fencing_token(&self) -> FencingToken {
        let offset = self.handle.supervisor.settings.fencing_offset;
        FencingToken(self.hold.token().0.saturating_add(offset))
    }

    /// What a resource needs in order to refuse earlier holders: which lock or term this is, and the
    /// token. The crate `tooz-fence` has the check for databases, files and services.
    ///
    /// It is for exclusive holders: of several shared holders, each has a token of its own.
    ///
    /// ```
    /// # tooz_core::blocking::block_on(async {
    /// # let coordinator = tooz_memory::start("docs-fence", "host-1").await?;
    /// let guard = coordinator.lock("inventory")?.acquire().await?;
    /// let fence = guard.fence();
    /// assert_eq!(fence.name(), tooz_core::FenceName::of_lock("inventory"));
    /// assert_eq!(fence.token(), guard.fencing_token().0);
    /// # Ok::<(), tooz_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub fn fence(&self) -> Fence {
        let name = match &self.target {
            Target::Lock(name) => FenceName::of_lock(name),
            Target::Leadership(group) => FenceName::of_term(group),
        };
        Fence::new(name, self.fencing_token().0)
    }

    /// The moment at which it counts as lost unless a renewal is confirmed before. `None` if
    /// ownership ends only with the connection or the process, or later than a clock can express.
    pub fn deadline(&self) -> Option<Instant> {
        Instant::now().checked_add(self.lease.deadline()?.remaining())
    }

    /// Why it is lost, if it is. Looks only at the clock, does no I/O and never blocks.
    pub fn loss(&self) -> Option<Loss> {
        self.forked().or_else(|| self.lease.loss())
    }

    /// A fork has a copy of the guard, but not what it stands for.
    fn forked(&self) -> Option<Loss> {
        (!self.handle.supervisor.engine.is_here()).then_some(Loss::Forked)
    }

    /// Succeeds while it is held. Looks only at the clock, does no I/O and never blocks.
    ///
    /// # Errors
    /// [`ErrorKind::LockLost`], or [`ErrorKind::NotRunning`] if the coordinator was stopped.
    pub fn check(&self) -> Result<()> {
        match self.loss() {
            None => Ok(()),
            Some(loss) => Err(self.lost_error(loss)),
        }
    }

    /// Waits until it is lost: at the deadline at the latest, even if the network is gone.
    ///
    /// # Cancellation
    /// Dropping the future is safe. It runs on any runtime.
    pub async fn lost(&self) -> Loss {
        match self.forked() {
            Some(loss) => loss,
            None => self.lease.lost().await,
        }
    }

    /// Waits until its deadline is nearer than `time` and no renewal has moved it away, or until it is
    /// lost: so that work can be wound down while it is still held. Returns at once if that is already
    /// the case. Without a [`deadline`](Self::deadline) it returns only at the loss.
    ///
    /// Automatic heartbeats renew three times in each time to live. So with a `time` below half of
    /// that, this returns after a renewal has failed; with a longer one it says nothing.
    ///
    /// # Cancellation
    /// Dropping the future is safe. It runs on any runtime.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tooz_core::Heartbeat;
    /// # tooz_core::blocking::block_on(async {
    /// # let registry = tooz_core::Registry::new().with(tooz_memory::DRIVER)?;
    /// # let builder = registry.builder("memory://docs-expires-within?timeout=1", "host-1")?;
    /// # let coordinator = builder.heartbeat(Heartbeat::Manual).connect().await?;
    /// let guard = coordinator.lock("inventory")?.acquire().await?;
    /// guard.expires_within(Duration::from_millis(800)).await; // nobody has called heartbeat()
    /// guard.check()?; // still held: time to write down what was done
    /// # Ok::<(), tooz_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn expires_within(&self, time: Duration) {
        let lease = self.lease.clone();
        let waiting = Box::pin(async move {
            lease.expires_within(time).await;
            Ok(())
        });
        // An error is that of a fork, for which it is lost.
        drop(self.handle.while_awaited(waiting).await);
    }

    /// Asks the backend whether it is still ours. If not, it is lost from then on.
    ///
    /// # Errors
    /// Those of [`check`](Self::check) if it is known to be lost already; [`ErrorKind::Connection`] or
    /// [`ErrorKind::TimedOut`] if the backend cannot be asked.
    pub async fn verify(&self) -> Result<bool> {
        self.check()?;
        let (supervisor, hold) = (self.handle.supervisor.clone(), self.hold.clone());
        let (naming, engine) = (supervisor.clone(), supervisor.engine.clone());
        let verified = engine.run(async move {
            let ours = hold.verify().await?;
            if !ours {
                hold.lease().lose(Loss::Taken);
            }
            Ok(ours)
        });
        verified.await.map_err(|e| naming.names(e.during("verify")))
    }

    /// Runs `work` while it is held. The deadline is checked before each poll; at the loss, the
    /// future is dropped.
    ///
    /// # Errors
    /// Those of [`check`](Self::check), at the loss. What `work` has done by then stays done.
    pub async fn run<F: Future>(&self, work: F) -> Result<F::Output> {
        let lost = async { self.lost_error(self.lost().await) };
        run_while(|| self.check(), lost, work).await
    }

    /// From now on it is not released before that time.
    pub(crate) fn stays_for(&mut self, time: Duration) {
        self.stays_until = (!time.is_zero()).then(|| Moment::now() + time);
    }

    /// Releases it at once, and fails if it was lost before.
    pub(crate) async fn release(mut self, operation: &'static str) -> Result<()> {
        self.settled = true;
        let (supervisor, run) = (self.handle.supervisor.clone(), self.run.clone());
        let (hold, id, lease) = (self.hold.clone(), self.id, self.lease.clone());
        let (naming, target) = (supervisor.clone(), self.target.clone());
        let engine = supervisor.engine.clone();
        let span = supervisor.span(operation);
        let stay = self.stay();
        let released = async move {
            let stayed = stay.await;
            let lost_before = lease.loss();
            let release = supervisor.release(&run, &*hold).await;
            run.forget(id);
            // Whoever of a stop and of this has released it, its time was not over.
            Ok((if stayed { release? } else { Release::WasLost }, lost_before))
        };
        let released = engine.run(released.instrument(span)).await;
        match released.map_err(|e| target.named_in(naming.names(e.during(operation))))? {
            (Release::Released, _) => Ok(()),
            (Release::WasLost, lost_before) => {
                Err(self.lost_error(lost_before.unwrap_or(Loss::Taken)).during(operation))
            }
        }
    }

    /// Waits until it may be released, or until it is lost, as it is by a stop of the coordinator after
    /// its grace. Returns whether it was held that long.
    fn stay(&self) -> impl Future<Output = bool> + Send + 'static {
        // With the last handle the coordinator would be stopped.
        let stays = self.stays_until.map(|until| (until, self.handle.clone()));
        let lease = self.hold.lease().clone();
        async move {
            let Some((until, _handle)) = stays else { return true };
            tokio::select! {
                biased;
                () = until.wait() => true,
                _ = lease.lost() => false,
            }
        }
    }

    /// At a stop its holder gets a revocation instead of a loss.
    pub(crate) fn is_revocable(&self) {
        self.run.is_revocable(self.id);
    }

    pub(crate) fn lost_error(&self, loss: Loss) -> Error {
        let error = if loss == Loss::GivenUp && self.run.stopped.is_cancelled() {
            stopped()
        } else {
            Error::new(ErrorKind::LockLost, format!("no longer held: {loss}"))
        };
        let error = error.on(self.handle.supervisor.entry.name).outcome_is(Outcome::Unknown);
        self.target.named_in(error)
    }
}

/// Runs `work` while `check` succeeds, which is looked at before each poll; at the loss it is dropped.
pub(crate) async fn run_while<F: Future>(
    check: impl Fn() -> Result<()>,
    lost: impl Future<Output = Error>,
    work: F,
) -> Result<F::Output> {
    let (mut work, mut lost) = (pin!(work), pin!(lost));
    std::future::poll_fn(|cx| {
        if let Err(error) = check() {
            return Poll::Ready(Err(error));
        }
        if let Poll::Ready(error) = lost.as_mut().poll(cx) {
            return Poll::Ready(Err(error));
        }
        work.as_mut().poll(cx).map(Ok)
    })
    .await
}

impl Drop for Ownership {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let (supervisor, run) = (self.handle.supervisor.clone(), self.run.clone());
        let (hold, id) = (self.hold.clone(), self.id);
        let engine = supervisor.engine.clone();
        let stay = self.stay();
        engine.spawn(async move {
            stay.await;
            if let Err(error) = supervisor.release(&run, &*hold).await {
                tracing::debug!(backend = supervisor.entry.name, %error, "not released");
            }
            run.forget(id);
        });
    }
}

impl fmt::Debug for Ownership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = self.target.shown();
        f.debug_struct("Ownership")
            .field(kind, &format_args!("{name}"))
            .field("token", &self.fencing_token().0)
            .field("loss", &self.loss())
            .finish()
    }
}
