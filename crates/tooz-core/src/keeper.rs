//! The engine's side of a coordinator: keeps its session alive and heals it.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Span, debug, debug_span, info, warn};

use crate::builder::{Heartbeat, Settings};
use crate::coordinator::SessionEvent;
use crate::engine::{Engine, Undo};
use crate::events::EventSink;
use crate::run::{Link, Membership, Run};
use crate::{
    Capabilities, Driver, DriverEntry, Error, ErrorKind, GroupFeed, GroupId, Hold, JoinRequest,
    LeaderFeed, Lease, Loss, MemberId, Moment, Outcome, Release, Result, Session,
};

/// What is logged of a session's state, which [`SessionEvent`]s tell too: one who tells of these can
/// leave it out.
const SESSION: &str = "tooz::session";

/// How many requests of one stop are on their way at once.
const AT_ONCE: usize = 64;

/// How much longer than its time limit an opening may take, a tenth of it within these bounds.
const WORD: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// One per coordinator, shared by its handles and by the tasks on the engine.
pub(crate) struct Keeper {
    pub(crate) engine: Engine,
    pub(crate) entry: DriverEntry,
    pub(crate) member: MemberId,
    pub(crate) settings: Settings,
    driver: Arc<dyn Driver>,
    pub(crate) address: Address,
    state: Mutex<State>,
    beats: watch::Sender<Beats>,
}

/// Where the backend is, for messages: by its URL, without what may be secret.
pub(crate) struct Address {
    /// With commas between; empty if the URL names none.
    pub(crate) hosts: String,
    pub(crate) path: String,
}

/// The heartbeats by hand: signs that the application lives.
#[derive(Clone, Copy, Default)]
struct Beats {
    begun: u64,
    running: usize,
}

/// A call of one of a session's methods with these arguments.
pub(crate) type Call<A, T> =
    for<'a> fn(&'a dyn Session, &'a A) -> Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

#[derive(Default)]
struct State {
    phase: Phase,
    /// The present run, or the last.
    run: Arc<Run>,
    session_events: Vec<EventSink<SessionEvent>>,
    group_feeds: Vec<(GroupId, GroupFeed)>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Idle,
    Starting,
    Running,
    Stopping,
    Stopped,
}

impl Phase {
    /// Why nothing can be done in any phase but one.
    fn not_running(self) -> Error {
        match self {
            Self::Stopping | Self::Stopped => stopped(),
            _ => not_running("is not started"),
        }
    }
}

impl Keeper {
    pub(crate) fn new(
        engine: Engine,
        entry: DriverEntry,
        driver: Arc<dyn Driver>,
        address: Address,
        member: MemberId,
        settings: Settings,
    ) -> Self {
        Self {
            engine,
            entry,
            member,
            settings,
            driver,
            address,
            state: Mutex::default(),
            beats: watch::Sender::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is locked, so it is whole even if poisoned.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says in an error which driver it comes from, and of one of the connection or the server which
    /// server it is, where the driver has not said so.
    pub(crate) fn names(&self, error: Error) -> Error {
        use ErrorKind::{Authentication, Backend, Connection, TimedOut};
        let error = error.on(self.entry.name);
        let of_server = matches!(error.kind(), Authentication | Backend | Connection | TimedOut);
        if of_server && !self.address.hosts.is_empty() {
            return error.with("server", &self.address.hosts);
        }
        error
    }

    /// What an operation's own events and the driver's appear under.
    pub(crate) fn span(&self, operation: &'static str) -> Span {
        debug_span!("tooz", operation, backend = self.entry.name, member = %self.member)
    }

    // ---- Start and stop.

    /// The present run.
    pub(crate) fn run(&self) -> Result<Arc<Run>> {
        let state = self.state();
        match state.phase {
            Phase::Running => Ok(state.run.clone()),
            phase => Err(phase.not_running()),
        }
    }

    /// Waits until it is stopped, or being stopped.
    pub(crate) async fn stopped(&self) {
        let run = self.state().run.clone();
        run.stopped.cancelled().await;
    }

    pub(crate) async fn start(self: &Arc<Self>) -> Result<()> {
        let before = {
            let mut state = self.state();
            match state.phase {
                Phase::Idle | Phase::Stopped => state.phase = Phase::Starting,
                Phase::Stopping => return Err(not_running("is being stopped")),
                _ => return Err(not_running("is started already")),
            }
            state.run.clone()
        };
        let opened = self.open_after(&before).await;
        let mut state = self.state();
        match opened {
            Err(error) => {
                state.phase = Phase::Idle;
                Err(error)
            }
            Ok((session, left_over)) => {
                state.phase = Phase::Running;
                let run = Arc::new(Run::new(session.clone(), left_over));
                state.run = run.clone();
                self.engine.spawn(self.clone().keep(session, run));
                info!(backend = self.entry.name, member = %self.member, "coordinator started");
                Ok(())
            }
        }
    }

    /// Opens the first session of a run, and tells which memberships the run before may have left.
    async fn open_after(
        self: &Arc<Self>,
        before: &Run,
    ) -> Result<(Arc<dyn Session>, BTreeMap<GroupId, Moment>)> {
        let until = Moment::now() + self.settings.timeout;
        // What it still has on its way must not be taken for what this run does.
        if tokio::time::timeout(self.settings.timeout, before.over()).await.is_err() {
            return Err(Error::new(
                ErrorKind::TimedOut,
                "the stop before ran out of time, and what it sent is not answered yet",
            )
            .with("seconds", self.settings.timeout.as_secs_f64()));
        }
        let session = self.open(until.remaining()).await?;
        Ok((session, before.left_over()))
    }

    /// Opens one session, within that time.
    async fn open(self: &Arc<Self>, limit: Duration) -> Result<Arc<dyn Session>> {
        // Run by the engine, for drivers are never dropped half-way: the session may come when nobody
        // takes it any more.
        let keeper = self.clone();
        let opening = self.engine.run(async move {
            let session = keeper.driver.connect(&keeper.member).await?;
            Ok(keeper.unclaimed(session))
        });
        // A driver whose own limit is the same knows what was wrong: its word comes first.
        let patience = limit.saturating_add((limit / 10).clamp(WORD.0, WORD.1));
        let Ok(opened) = tokio::time::timeout(patience, opening).await else {
            let what = "no answer came in time, so there is no session";
            return Err(Error::new(ErrorKind::TimedOut, what).with("seconds", limit.as_secs_f64()));
        };
        let (session, undo) = opened?;
        undo.keep();
        if let Err(error) = self.suits(&*session) {
            let keeper = self.clone();
            let closing = async move {
                keeper.close(&session).await;
                Ok(())
            };
            self.engine.run(closing).await?;
            return Err(error);
        }
        Ok(session)
    }

    /// A session, and what closes it unless it is taken.
    fn unclaimed(self: &Arc<Self>, session: Arc<dyn Session>) -> (Arc<dyn Session>, Undo) {
        let (keeper, opened) = (self.clone(), session.clone());
        let undo = Undo::with(move || {
            let engine = keeper.engine.clone();
            engine.spawn(async move { keeper.close(&opened).await });
        });
        (session, undo)
    }

    /// Whether the deployment gives what is required, which may be more than it ensures.
    fn suits(&self, session: &dyn Session) -> Result<()> {
        let weaker = self.entry.characteristics.without(session.characteristics());
        if weaker.is_empty() {
            return Ok(());
        }
        let missing = self.settings.required.without(session.characteristics());
        if missing.is_empty() {
            warn!(backend = self.entry.name, %weaker, "this deployment does not ensure all");
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::DriverChosenPoorly,
            format!("this deployment does not ensure: {missing}"),
        )
        .on(self.entry.name))
    }

    pub(crate) async fn stop(self: &Arc<Self>) -> Result<()> {
        let run = {
            let mut state = self.state();
            if state.phase != Phase::Running {
                return Err(state.phase.not_running());
            }
            state.phase = Phase::Stopping;
            state.run.clone()
        };
        let link = run.stop();
        if let Link::Up(session) = &link {
            if self.settings.heartbeat == Heartbeat::Manual {
                // The application waits for the stop.
                self.engine.spawn(self.clone().beat(session.clone(), run.released.clone()));
            }
            let recall = run.recall();
            if tokio::time::timeout(self.settings.stop_grace, recall).await.is_err() {
                warn!(
                    backend = self.entry.name, member = %self.member,
                    "the stop gives back what its holders have not dropped in time"
                );
            }
        }
        let holds = run.take_holds();
        let mut outcome = Ok(());
        if let Link::Up(session) = link {
            let goodbye = self.clone().say_goodbye(run.clone(), session.clone(), holds);
            let goodbye = self.engine.run(goodbye);
            // The limit is for all of it together: a dead backend must not hold up a shutdown.
            outcome =
                tokio::time::timeout(self.settings.timeout, goodbye).await.unwrap_or_else(|_| {
                    Err(Error::new(ErrorKind::TimedOut, "the backend did not answer the goodbye")
                        .outcome_is(Outcome::Unknown))
                });
            run.abandon();
            session.lease().lose(Loss::GivenUp);
        } else {
            run.end();
        }
        let mut state = self.state();
        state.phase = Phase::Stopped;
        state.session_events.clear();
        state.group_feeds.clear();
        info!(backend = self.entry.name, member = %self.member, "coordinator stopped");
        outcome
    }

    /// Gives everything back. Once it is abandoned, it says no more than that the session ends.
    async fn say_goodbye(
        self: Arc<Self>,
        run: Arc<Run>,
        session: Arc<dyn Session>,
        holds: Vec<Arc<dyn Hold>>,
    ) -> Result<()> {
        // In a panic of the driver too.
        let _over = Undo::with({
            let run = run.clone();
            move || run.end()
        });
        let releasing = holds.into_iter().map(|hold| {
            let (keeper, run) = (self.clone(), run.clone());
            async move {
                if run.is_abandoned() {
                    return;
                }
                if let Err(error) = keeper.give_back(&run, &*hold).await {
                    warn!(%error, "a lock or term could not be given back at the stop");
                }
            }
        });
        many_at_once(releasing).await;
        run.released.cancel();
        let memberships = tokio::select! {
            memberships = run.memberships.lock() => Some(memberships),
            () = run.abandoned() => None,
        };
        if let Some(mut memberships) = memberships {
            let leaving = memberships.keys().cloned().map(|group| {
                let (run, session) = (run.clone(), session.clone());
                async move {
                    if run.is_abandoned() {
                        return None;
                    }
                    match session.leave_group(&group).await {
                        Ok(()) => return Some(group),
                        Err(error) => {
                            warn!(%group, %error, "the group could not be left at the stop")
                        }
                    }
                    None
                }
            });
            for left in many_at_once(leaving).await.into_iter().flatten() {
                memberships.remove(&left);
            }
        }
        session.close().await?;
        // What it could not leave has ended with it.
        if let Ok(mut memberships) = run.memberships.try_lock() {
            memberships.clear();
        }
        Ok(())
    }

    // ---- The session and its heart.

    async fn keep(self: Arc<Self>, mut session: Arc<dyn Session>, run: Arc<Run>) {
        loop {
            if self.settings.heartbeat == Heartbeat::Automatic {
                self.engine.spawn(self.clone().beat(session.clone(), run.released.clone()));
            }
            let loss = tokio::select! {
                loss = self.tend(&session) => loss,
                () = run.stopped.cancelled() => return,
            };
            warn!(
                target: SESSION, backend = self.entry.name, member = %self.member, %loss,
                "session lost"
            );
            run.is_down(None);
            self.announce(&SessionEvent::Lost(loss));
            let beats = self.beats_begun();
            let (keeper, old) = (self.clone(), session);
            self.engine.spawn(async move { keeper.close(&old).await });
            session = tokio::select! {
                session = self.reopen(&run, beats) => session,
                () = run.stopped.cancelled() => return,
            };
            if !run.go_on(&session) {
                return self.close(&session).await;
            }
            self.engine.spawn(self.clone().rejoin_all(run.clone(), session.clone()));
        }
    }

    /// Tells of trouble until the session is lost.
    async fn tend(&self, session: &Arc<dyn Session>) -> Loss {
        let lease = session.lease();
        loop {
            tokio::select! {
                loss = lease.lost() => return loss,
                () = lease.doubt_is(true) => self.announce(&SessionEvent::Suspended),
            }
            tokio::select! {
                loss = lease.lost() => return loss,
                () = lease.doubt_is(false) => self.announce(&SessionEvent::Resumed),
            }
        }
    }

    /// The heart: one session's renewals, until it is lost.
    async fn beat(self: Arc<Self>, session: Arc<dyn Session>, released: CancellationToken) {
        let Some(interval) = session.heartbeat_interval() else { return };
        let mut next = Moment::now() + interval;
        let mut backoff = self.settings.retry.backoff();
        loop {
            tokio::select! {
                () = next.wait() => {}
                _ = session.lease().lost() => return,
                () = released.cancelled() => return,
            }
            let sent = Moment::now();
            if self.beat_once(&*session).await.is_ok() {
                next = sent + interval;
                backoff = self.settings.retry.backoff();
            } else {
                // Well before the deadline, whatever the policy: a pause must not cost the session.
                let end = session.lease().deadline();
                next = backoff.moment_before(end.unwrap_or_else(|| Moment::now() + interval));
            }
        }
    }

    async fn beat_once(&self, session: &dyn Session) -> Result<()> {
        let result = session.heartbeat().await;
        if let Err(error) = &result {
            debug!(backend = self.entry.name, %error, "heartbeat failed");
            match error.kind() {
                ErrorKind::SessionLost => session.lease().lose(Loss::SessionEnded),
                _ => session.lease().suspend(),
            }
        }
        result
    }

    /// One heartbeat by hand; when the next is due.
    pub(crate) async fn heartbeat(self: &Arc<Self>) -> Result<Duration> {
        self.beats.send_modify(|beats| {
            beats.begun += 1;
            beats.running += 1;
        });
        let keeper = self.clone();
        let _ended = Undo::with(move || keeper.beats.send_modify(|beats| beats.running -= 1));
        let run = self.run()?;
        let session = run.session(Moment::now(), self.settings.timeout).await?;
        self.beat_once(&*session).await.map_err(|e| run.or_stopped(e))?;
        Ok(session.heartbeat_interval().unwrap_or(self.settings.timeout))
    }

    fn beats_begun(&self) -> u64 {
        self.beats.borrow().begun
    }

    /// Whether the application lives: a heart by hand that stands still means that it hangs, and
    /// then nothing is taken again. `before` beats had begun at the loss.
    fn lives(&self, before: u64, beats: Beats) -> bool {
        let by_hand = self.settings.heartbeat == Heartbeat::Manual;
        !by_hand || beats.begun > before || beats.running > 0
    }

    /// Waits for a sign that the application lives.
    async fn is_alive(&self, before: u64) {
        let mut beats = self.beats.subscribe();
        // The sender lives in `self`: the wait cannot fail.
        let _ = beats.wait_for(|now| self.lives(before, *now)).await;
    }

    /// A new session, after `beats` heartbeats by hand.
    async fn reopen(self: &Arc<Self>, run: &Run, mut beats: u64) -> Arc<dyn Session> {
        let mut backoff = self.settings.retry.backoff();
        loop {
            if !self.lives(beats, *self.beats.borrow()) {
                let hangs = "heartbeat() was not called since the session was lost";
                run.is_down(Some(Error::new(ErrorKind::SessionLost, hangs)));
            }
            self.is_alive(beats).await;
            beats = self.beats_begun();
            match self.open(self.settings.timeout).await {
                Ok(session) => return session,
                Err(error) => {
                    let error = self.names(error);
                    warn!(target: SESSION, backend = self.entry.name, %error, "no new session yet");
                    run.is_down(Some(error));
                }
            }
            backoff.pause().await;
        }
    }

    async fn close(&self, session: &Arc<dyn Session>) {
        if let Err(error) = session.close().await {
            debug!(backend = self.entry.name, %error, "the session could not be closed");
        }
    }

    /// Calls the session, again after failures that changed nothing, within the time limit.
    pub(crate) async fn call<A, T>(&self, arguments: &A, call: Call<A, T>) -> Result<T> {
        Ok(self.call_in(&*self.run()?, arguments, call).await?.1)
    }

    /// The same in that run, and which session answered.
    async fn call_in<A, T>(
        &self,
        run: &Run,
        arguments: &A,
        call: Call<A, T>,
    ) -> Result<(Arc<dyn Session>, T)> {
        let (began, limit) = (Moment::now(), self.settings.timeout);
        let until = began + limit;
        let mut backoff = self.settings.retry.backoff();
        loop {
            let session = run.session(began, limit).await?;
            match call(&*session, arguments).await {
                Err(error)
                    if may_repeat(&error) && !until.has_passed() && !run.stopped.is_cancelled() =>
                {
                    debug!(backend = self.entry.name, %error, "trying again");
                    tokio::select! {
                        () = backoff.pause_before(until) => {}
                        () = run.stopped.cancelled() => {}
                    }
                }
                Err(error) => return Err(run.or_stopped(error)),
                Ok(answer) => return Ok((session, answer)),
            }
        }
    }

    // ---- What is held.

    /// Gives a lock or a term back: until that is confirmed, or its lease has surely ended.
    pub(crate) async fn give_back(&self, run: &Run, hold: &dyn Hold) -> Result<Release> {
        let lease = hold.lease();
        let lost = lease.loss().is_some_and(|loss| loss != Loss::GivenUp);
        lease.lose(Loss::GivenUp);
        let deadline = lease.deadline();
        // Whether a request that was made while it was ours may have been carried out.
        let mut unheard = false;
        let end = lease.ends_at_backend();
        let mut backoff = self.settings.retry.backoff();
        loop {
            let ours = !deadline.is_some_and(Moment::has_passed);
            match hold.release().await {
                Ok(_) if lost => return Ok(Release::WasLost),
                // The first request did it, and its answer was lost.
                Ok(Release::WasLost) if unheard => return Ok(Release::Released),
                Ok(release) => return Ok(release),
                Err(error) if error.kind() == ErrorKind::SessionLost => {
                    return Ok(Release::WasLost);
                }
                Err(error)
                    if !error.is_retryable()
                        || end.is_some_and(Moment::has_passed)
                        || run.is_abandoned() =>
                {
                    return Err(error);
                }
                Err(error) => {
                    debug!(backend = self.entry.name, %error, "releasing again");
                    unheard |= ours && error.outcome() == Outcome::Unknown;
                }
            }
            let pause = async {
                match end {
                    Some(end) => backoff.pause_before(end).await,
                    None => backoff.pause().await,
                }
            };
            tokio::select! {
                () = pause => {}
                () = run.abandoned() => {}
            }
        }
    }

    // ---- Groups.

    pub(crate) async fn join(
        self: &Arc<Self>,
        run: &Arc<Run>,
        group: &GroupId,
        capabilities: Capabilities,
    ) -> Result<()> {
        let mut memberships = run.memberships.lock().await;
        if memberships.contains_key(group) {
            return Err(Error::member_already_exists(group, &self.member));
        }
        let request =
            JoinRequest::new(group.clone(), capabilities.clone(), run.may_have_left(group));
        let (session, lease) = self
            .call_in(run, &request, |session, request| session.join_group(request.clone()))
            .await?;
        if run.stopped.is_cancelled() {
            // The goodbye did not wait for this join; the session's end ends what is left of it.
            drop(session.leave_group(group).await);
            return Err(stopped());
        }
        self.watch_over(run, group, &session, &lease);
        memberships.insert(group.clone(), Membership::new(capabilities, lease));
        Ok(())
    }

    pub(crate) async fn leave(&self, run: &Run, group: &GroupId) -> Result<()> {
        let mut memberships = run.memberships.lock().await;
        self.must_have_joined(run, &memberships, group).await?;
        // Before the terms: a candidate may come to lead meanwhile.
        if let Some(membership) = memberships.get(group) {
            membership.end_candidacies().await;
        }
        for term in run.terms_in(group) {
            self.give_back(run, &*term).await?;
        }
        let left = self.call_in(run, group, |session, group| session.leave_group(group)).await;
        match left {
            // Lost, and not joined again yet: now it never will be.
            Err(error) if is_pending(memberships.get(group), &error) => {}
            left => drop(left?),
        }
        memberships.remove(group);
        Ok(())
    }

    pub(crate) async fn update(&self, group: &GroupId, capabilities: Capabilities) -> Result<()> {
        let run = self.run()?;
        let mut memberships = run.memberships.lock().await;
        self.must_have_joined(&run, &memberships, group).await?;
        let update = (group.clone(), capabilities);
        let updated = self
            .call_in(&run, &update, |session, (group, new)| session.update_capabilities(group, new))
            .await;
        match updated {
            // Lost, and not joined again yet: it will be with these.
            Err(error) if is_pending(memberships.get(group), &error) => {}
            updated => drop(updated?),
        }
        let (_, capabilities) = update;
        if let Some(membership) = memberships.get_mut(group) {
            membership.capabilities = capabilities;
        }
        Ok(())
    }

    /// Refuses who is no member; what lasts as long as a candidacy of a member.
    pub(crate) async fn must_be_member(
        &self,
        run: &Run,
        group: &GroupId,
    ) -> Result<watch::Receiver<bool>> {
        match run.memberships.lock().await.get(group) {
            Some(membership) if membership.lease.is_held() => Ok(membership.stand()),
            // Passing: the engine is about to join again.
            Some(_) => Err(Error::new(ErrorKind::SessionLost, "the membership was just lost")
                .with("group", group)
                .retryable(true)),
            None => Err(Error::member_not_joined(group, &self.member)),
        }
    }

    /// Refuses what only a member may do: a membership of the same id may be somebody else's.
    async fn must_have_joined(
        &self,
        run: &Run,
        memberships: &BTreeMap<GroupId, Membership>,
        group: &GroupId,
    ) -> Result<()> {
        if memberships.contains_key(group) {
            return Ok(());
        }
        // For the error: which of the two is missing.
        self.call_in(run, group, |session, group| session.members(group)).await?;
        Err(Error::member_not_joined(group, &self.member))
    }

    /// Rejoins the group when the membership alone is lost.
    fn watch_over(
        self: &Arc<Self>,
        run: &Arc<Run>,
        group: &GroupId,
        session: &Arc<dyn Session>,
        lease: &Lease,
    ) {
        let (keeper, run) = (self.clone(), run.clone());
        let (group, session, lease) = (group.clone(), session.clone(), lease.clone());
        self.engine.spawn(async move {
            let loss = tokio::select! {
                loss = lease.lost() => loss,
                () = run.stopped.cancelled() => return,
            };
            let beats = keeper.beats_begun();
            if session.lease().is_held() {
                if loss == Loss::Taken && !keeper.settings.rejoin_when_removed {
                    return keeper.removed(&run, &group).await;
                }
                warn!(%group, member = %keeper.member, "membership lost");
                tokio::select! {
                    () = keeper.is_alive(beats) => keeper.rejoin(&run, &session, &group).await,
                    // It is joined again with the next session.
                    _ = session.lease().lost() => {}
                    () = run.stopped.cancelled() => {}
                }
            }
        });
    }

    /// Somebody removed this member, and it stays out.
    async fn removed(&self, run: &Run, group: &GroupId) {
        warn!(%group, member = %self.member, "removed from the group");
        if let Err(error) = self.leave(run, group).await {
            debug!(%group, %error, "what is left of the membership ends with the session");
        }
        self.announce(&SessionEvent::Removed(group.clone()));
    }

    async fn rejoin_all(self: Arc<Self>, run: Arc<Run>, session: Arc<dyn Session>) {
        let groups: Vec<_> = run.memberships.lock().await.keys().cloned().collect();
        for group in &groups {
            self.rejoin(&run, &session, group).await;
        }
        if session.lease().is_held() {
            info!(target: SESSION, backend = self.entry.name, member = %self.member, "session rebuilt");
            self.announce(&SessionEvent::Rejoined(groups));
        }
    }

    /// Joins a group again with the capabilities of before, until it succeeds or the session is
    /// lost or nobody wants the membership any more.
    async fn rejoin(self: &Arc<Self>, run: &Arc<Run>, session: &Arc<dyn Session>, group: &GroupId) {
        let mut backoff = self.settings.retry.backoff();
        while session.lease().is_held() {
            let mut memberships = run.memberships.lock().await;
            let Some(membership) = memberships.get_mut(group) else { return };
            let capabilities = membership.capabilities.clone();
            let request = JoinRequest::new(group.clone(), capabilities, true);
            match session.join_group(request).await {
                Ok(lease) => {
                    membership.lease = lease.clone();
                    drop(memberships);
                    self.watch_over(run, group, session, &lease);
                    for (_, feed) in self.state().group_feeds.iter().filter(|(g, _)| g == group) {
                        feed.rejoined();
                    }
                    return;
                }
                // The backend lost the group too, for example restarted empty.
                Err(error) if error.kind() == ErrorKind::GroupNotCreated => {
                    match session.create_group(group).await {
                        Ok(()) => continue,
                        Err(e) if e.kind() == ErrorKind::GroupAlreadyExists => continue,
                        Err(error) => warn!(%group, %error, "the group is not rebuilt yet"),
                    }
                }
                Err(error) => warn!(%group, %error, "not rejoined yet"),
            }
            drop(memberships);
            backoff.pause().await;
        }
    }

    // ---- Events.

    fn announce(&self, event: &SessionEvent) {
        let mut state = self.state();
        state.session_events.retain(|sink| !sink.is_closed());
        for sink in &state.session_events {
            sink.send(event.clone(), |newest| vec![newest]);
        }
    }

    pub(crate) fn add_session_sink(&self, sink: EventSink<SessionEvent>) {
        self.state().session_events.push(sink);
    }

    /// Feeds a group's events until nobody listens or the coordinator is stopped.
    pub(crate) fn feed_group(self: &Arc<Self>, run: Arc<Run>, group: GroupId, feed: GroupFeed) {
        self.state().group_feeds.push((group.clone(), feed.clone()));
        let keeper = self.clone();
        self.engine.spawn(async move {
            // In a panic of the driver too: the consumer sees the end, rather than nothing more.
            let _forget = Undo::with({
                let (keeper, feed) = (keeper.clone(), feed.clone());
                move || keeper.state().group_feeds.retain(|(_, other)| !other.is(&feed))
            });
            let target = (group, feed.clone());
            let watch = keeper.repeat(&run, &target, |session, (group, feed)| {
                // Nothing yet for the first watch; for a later one, what it missed.
                feed.gap();
                session.watch_group(group, feed)
            });
            tokio::select! {
                () = feed.closed() => {}
                () = run.stopped.cancelled() => {}
                () = watch => {}
            }
        });
    }

    /// Feeds who leads a group until nobody listens or the coordinator is stopped.
    pub(crate) fn feed_leader(self: &Arc<Self>, run: Arc<Run>, group: GroupId, feed: LeaderFeed) {
        let keeper = self.clone();
        self.engine.spawn(async move {
            let target = (group, feed.clone());
            let watch = keeper
                .repeat(&run, &target, |session, (group, feed)| session.watch_leader(group, feed));
            tokio::select! {
                () = feed.closed() => {}
                () = run.stopped.cancelled() => {}
                () = watch => {}
            }
        });
    }

    /// Runs a watch on one session after the other.
    async fn repeat<A>(&self, run: &Run, target: &A, watch: Call<A, ()>) {
        let mut backoff = self.settings.retry.backoff();
        loop {
            match run.session(Moment::now(), self.settings.timeout).await {
                Ok(session) => {
                    let began = Moment::now();
                    let lease = session.lease().clone();
                    tokio::select! {
                        result = watch(&*session, target) => if let Err(error) = result {
                            debug!(backend = self.entry.name, %error, "watching again");
                        },
                        _ = lease.lost() => {}
                    }
                    if began.elapsed() > Duration::from_secs(5) {
                        backoff = self.settings.retry.backoff();
                    }
                }
                Err(error) if error.kind() == ErrorKind::NotRunning => return,
                Err(_) => {}
            }
            backoff.pause().await;
        }
    }
}

/// Runs all of them, but no more at once than a backend bears well: one round trip after the other
/// would take too long. What panics is left out of the results.
async fn many_at_once<T: Send + 'static>(
    work: impl Iterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let (mut running, mut done) = (JoinSet::new(), Vec::new());
    for work in work {
        if running.len() == AT_ONCE {
            done.extend(running.join_next().await.and_then(std::result::Result::ok));
        }
        running.spawn(work);
    }
    while let Some(ended) = running.join_next().await {
        done.extend(ended.ok());
    }
    done
}

/// Whether a membership is lost and waits to be joined again, so that the backend knows nothing of
/// it.
fn is_pending(membership: Option<&Membership>, error: &Error) -> bool {
    let unknown = matches!(error.kind(), ErrorKind::MemberNotJoined | ErrorKind::GroupNotCreated);
    unknown && membership.is_some_and(|membership| !membership.lease.is_held())
}

/// Whether a failed call changed nothing and can succeed later.
fn may_repeat(error: &Error) -> bool {
    let passing = error.is_retryable() || error.kind() == ErrorKind::SessionLost;
    passing && error.outcome() == Outcome::NotApplied
}

fn not_running(what: &str) -> Error {
    Error::new(ErrorKind::NotRunning, format!("the coordinator {what}"))
}

/// The one answer to all that is tried from the first moment of a stop on.
pub(crate) fn stopped() -> Error {
    not_running("was stopped")
}
