//! The engine's side of a coordinator: keeps its session alive, and rebuilds what a lost session took
//! with it.

mod heart;
mod holds;
mod lifecycle;
mod memberships;
mod run;
mod session;
mod watches;

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{Span, debug, debug_span};

use self::heart::Beats;
pub(crate) use self::run::{Held, Run};
use crate::engine::Engine;
use crate::events::EventSink;
use crate::settings::Settings;
use crate::{
    Driver, DriverEntry, Error, ErrorKind, GroupFeed, GroupId, MemberId, Moment, Outcome, Result,
    Session, SessionEvent,
};

/// The log target for changes of a session's state, which [`SessionEvent`]s report too: whoever shows
/// those can leave these out.
const SESSION: &str = "tooz::session";

/// How many requests of one stop or one rejoining are on their way at once.
const AT_ONCE: usize = 64;

/// One per coordinator, shared by its handles and by the tasks on the engine.
pub(crate) struct Supervisor {
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
    /// Separated by commas; empty if the URL names none.
    pub(crate) hosts: String,
    pub(crate) path: String,
}

/// A call of one of a session's methods with these arguments.
pub(crate) type Call<A, T> = for<'a> fn(&'a dyn Session, &'a A) -> Result<Called<'a, T>>;

/// The future of such a call.
type Called<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

#[derive(Default)]
struct State {
    phase: Phase,
    /// The present run, or the last one.
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

impl Supervisor {
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

    /// Adds the driver's name to an error and, if the error is about the connection or the server, the
    /// server's address, unless the driver has said so.
    pub(crate) fn names(&self, error: Error) -> Error {
        use ErrorKind::{Authentication, Backend, Connection, TimedOut};
        let error = error.on(self.entry.name);
        let of_server = matches!(error.kind(), Authentication | Backend | Connection | TimedOut);
        if of_server && !self.address.hosts.is_empty() {
            return error.with("server", &self.address.hosts);
        }
        error
    }

    /// The span of an operation's own log events and the driver's.
    pub(crate) fn span(&self, operation: &'static str) -> Span {
        debug_span!("tooz", operation, backend = self.entry.name, member = %self.member)
    }

    /// Calls the session, and again after failures that changed nothing, within the time limit.
    pub(crate) async fn call<A, T>(&self, arguments: &A, call: Call<A, T>) -> Result<T> {
        Ok(self.call_in(&*self.run()?, arguments, call).await?.1)
    }

    /// The same in that run, and which session answered.
    pub(super) async fn call_in<A, T>(
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
            let answer = call(&*session, arguments)?.await;
            match answer {
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
}

/// Runs all of them, but no more at once than a backend takes easily: one round trip after another
/// would take too long. Results of those that panic are left out.
pub(crate) async fn many_at_once<T: Send + 'static>(
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

/// Whether a failed call changed nothing and can succeed later.
fn may_repeat(error: &Error) -> bool {
    let passing = error.is_retryable() || error.kind() == ErrorKind::SessionLost;
    passing && error.outcome() == Outcome::NotApplied
}

fn not_running(what: &str) -> Error {
    Error::new(ErrorKind::NotRunning, format!("the coordinator {what}"))
}

/// The one answer to everything that is tried once a stop has begun.
pub(crate) fn stopped() -> Error {
    not_running("was stopped")
}
