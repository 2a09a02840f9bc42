//! One run of a coordinator, from a start to the stop after it: what it has and what it holds.
//!
//! Work that is still under way when a stop runs out of time belongs to its own run, and does not
//! touch the next one.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::memberships::Memberships;
use super::stopped;
use crate::{
    Error, ErrorKind, GroupId, Hold, Lease, Loss, Moment, OperationId, Result, Session, Wait,
    WaitLimit,
};

pub(crate) struct Run {
    /// Cancelled by the stop: ends waits, watches and what keeps the session.
    pub(crate) stopped: CancellationToken,
    /// Cancelled when everything that was held is released: until then it is renewed.
    pub(crate) released: CancellationToken,
    /// Cancelled when the stop runs out of time.
    abandoned: CancellationToken,
    /// Cancelled when nothing of this run is under way any more.
    over: CancellationToken,
    pub(crate) link: watch::Sender<Link>,
    pub(crate) memberships: Memberships,
    holds: Mutex<HashMap<OperationId, Held>>,
    /// What the previous run may have left on the backend, and until when at the latest.
    left_over: BTreeMap<GroupId, Moment>,
}

/// The present session, if there is one.
#[derive(Clone)]
pub(crate) enum Link {
    /// Between two sessions; why there is no new one, if that is known.
    Down(Option<Error>),
    Up(Arc<dyn Session>),
}

/// A lock, or a term in a group.
pub(crate) struct Held {
    pub(crate) hold: Arc<dyn Hold>,
    pub(crate) term_in: Option<GroupId>,
    /// The lease that the guard looks at: lost with the hold's lease, or earlier at a stop, so that
    /// the holder can finish while the backend still keeps it.
    pub(crate) lease: Lease,
    /// Whether a stop revokes it from its holder, who keeps it until it is dropped.
    revocable: bool,
    /// Cancelled when the guard was dropped and the hold released.
    returned: CancellationToken,
}

impl Held {
    pub(crate) fn new(hold: Arc<dyn Hold>, lease: Lease, term_in: Option<GroupId>) -> Self {
        Self { hold, term_in, lease, revocable: false, returned: CancellationToken::new() }
    }
}

/// A run that is over before it began: what a coordinator has before its first start.
impl Default for Run {
    fn default() -> Self {
        let run = Self::on(Link::Down(None), BTreeMap::new());
        run.stop();
        run.end();
        run
    }
}

impl Run {
    pub(crate) fn new(session: Arc<dyn Session>, left_over: BTreeMap<GroupId, Moment>) -> Self {
        Self::on(Link::Up(session), left_over)
    }

    fn on(link: Link, left_over: BTreeMap<GroupId, Moment>) -> Self {
        Self {
            stopped: CancellationToken::new(),
            released: CancellationToken::new(),
            abandoned: CancellationToken::new(),
            over: CancellationToken::new(),
            link: watch::Sender::new(link),
            memberships: Memberships::default(),
            holds: Mutex::default(),
            left_over,
        }
    }

    fn holds(&self) -> MutexGuard<'_, HashMap<OperationId, Held>> {
        // Nothing panics while it is locked, so it is whole even if poisoned.
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- Its end.

    /// From here on nothing new begins. Returns the session that there was.
    pub(crate) fn stop(&self) -> Link {
        self.stopped.cancel();
        self.link.send_replace(Link::Down(None))
    }

    /// The failure, or the stop if that caused it.
    pub(crate) fn or_stopped(&self, error: Error) -> Error {
        if error.kind() == ErrorKind::NotRunning || !self.stopped.is_cancelled() {
            return error;
        }
        stopped().outcome_is(error.outcome()).caused_by(error)
    }

    /// The stop is out of time: all that is left to do is to end the session.
    pub(crate) fn abandon(&self) {
        self.released.cancel();
        self.abandoned.cancel();
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.is_cancelled()
    }

    pub(crate) async fn abandoned(&self) {
        self.abandoned.cancelled().await;
    }

    /// Nothing of it is under way any more.
    pub(crate) fn end(&self) {
        self.released.cancel();
        self.over.cancel();
    }

    /// Waits until nothing of it is under way any more.
    pub(crate) async fn over(&self) {
        self.over.cancelled().await;
    }

    /// The memberships that it could not leave, and how long the backend may keep them.
    pub(crate) fn left_over(&self) -> BTreeMap<GroupId, Moment> {
        self.memberships.left_over()
    }

    /// Whether the previous run may have left a membership of ours in this group.
    pub(crate) fn may_have_left(&self, group: &GroupId) -> bool {
        self.left_over.get(group).is_some_and(|until| !until.has_passed())
    }

    // ---- Its session.

    /// Continues with a new session, unless it was stopped meanwhile.
    pub(crate) fn go_on(&self, session: &Arc<dyn Session>) -> bool {
        self.link.send_if_modified(|link| {
            let goes_on = !self.stopped.is_cancelled();
            if goes_on {
                *link = Link::Up(session.clone());
            }
            goes_on
        })
    }

    /// Notes that there is no session, and why.
    pub(crate) fn is_down(&self, why: Option<Error>) {
        self.link.send_replace(Link::Down(why));
    }

    /// A session that is held now, once there is one: within `limit` of `since`, which may be past.
    pub(crate) async fn session(&self, since: Moment, limit: Duration) -> Result<Arc<dyn Session>> {
        let until = since + limit;
        let mut link = self.link.subscribe();
        loop {
            if self.stopped.is_cancelled() {
                return Err(stopped());
            }
            let why = match link.borrow_and_update().clone() {
                Link::Up(session) if session.lease().is_held() => return Ok(session),
                Link::Up(_) => None,
                Link::Down(why) => why,
            };
            tokio::select! {
                // The sender lives in `self`: the wait cannot fail.
                _ = link.changed() => {}
                () = self.stopped.cancelled() => {}
                () = until.wait() => {
                    let error = Error::new(
                        ErrorKind::Connection,
                        "there is no session: the last one was lost, and no new one came in time",
                    )
                    .with("seconds", limit.as_secs_f64());
                    return Err(match why {
                        Some(why) => error.caused_by(why),
                        None => error,
                    });
                }
            }
        }
    }

    /// Waits until there is no session, or its connection is in trouble.
    pub(crate) async fn is_in_doubt(&self) {
        let link = self.link.borrow().clone();
        if let Link::Up(session) = link {
            let lease = session.lease();
            tokio::select! {
                () = lease.doubt_is(true) => {}
                _ = lease.lost() => {}
            }
        }
    }

    /// The limit of a wait that the stop ends too.
    pub(crate) fn waiting(&self, wait: Wait) -> WaitLimit {
        let until = match wait {
            Wait::Try => Some(Moment::now()),
            Wait::For(time) => Some(Moment::now() + time),
            Wait::Forever => None,
        };
        WaitLimit::until(until, self.stopped.child_token())
    }

    // ---- What it holds.

    /// Notes what was granted, unless the run was stopped meanwhile.
    pub(crate) fn hold(&self, id: OperationId, held: Held) -> Result<()> {
        let mut holds = self.holds();
        // Checked under the lock: a stop takes what is held after that.
        if self.stopped.is_cancelled() {
            return Err(stopped());
        }
        holds.insert(id, held);
        Ok(())
    }

    /// Its holder released it.
    pub(crate) fn forget(&self, id: OperationId) {
        if let Some(held) = self.holds().remove(&id) {
            held.returned.cancel();
        }
    }

    /// At a stop its holder gets a revocation.
    pub(crate) fn is_revocable(&self, id: OperationId) {
        if let Some(held) = self.holds().get_mut(&id) {
            held.revocable = true;
        }
    }

    /// Tells the holders that they must finish, and waits until they have released what is still
    /// held at the backend.
    pub(crate) async fn recall(&self) {
        let recalled: Vec<_> = {
            let holds = self.holds();
            for held in holds.values().filter(|held| !held.revocable) {
                held.lease.lose(Loss::GivenUp);
            }
            let recall = |held: &Held| (held.hold.lease().clone(), held.returned.clone());
            holds.values().map(recall).collect()
        };
        for (lease, returned) in recalled {
            let lost = async {
                // As opposed to a release that is under way.
                if lease.lost().await == Loss::GivenUp {
                    returned.cancelled().await;
                }
            };
            tokio::select! {
                () = returned.cancelled() => {}
                () = lost => {}
            }
        }
    }

    pub(crate) fn terms_in(&self, group: &GroupId) -> Vec<Arc<dyn Hold>> {
        let led = |held: &&Held| held.term_in.as_ref() == Some(group);
        self.holds().values().filter(led).map(|held| held.hold.clone()).collect()
    }

    /// Takes what is left: its holders lose it now.
    pub(crate) fn take_holds(&self) -> Vec<Arc<dyn Hold>> {
        let taken = std::mem::take(&mut *self.holds()).into_values();
        taken.inspect(|held| held.lease.lose(Loss::GivenUp)).map(|held| held.hold).collect()
    }
}
