//! How long something is ours: the one place where ownership is judged.

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use tokio::sync::watch;

use crate::Moment;

/// Why something is no longer held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Loss {
    /// The local deadline passed: no renewal was confirmed in time.
    Expired,
    /// The backend ended the session or the connection that it depended on.
    SessionEnded,
    /// The backend says that it is no longer ours: broken, evicted or deleted.
    Taken,
    /// It was released, or the coordinator was stopped.
    GivenUp,
    /// This process is a fork of the one that holds it.
    Forked,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "no renewal was confirmed before the deadline",
            Self::SessionEnded => "the backend ended the session",
            Self::Taken => "the backend says that it is no longer ours",
            Self::GivenUp => "it was released, or the coordinator was stopped",
            Self::Forked => "this process is a fork of the one that holds it",
        })
    }
}

/// How long something is ours that the backend can end: a session, a lock, a term, a membership.
///
/// A timed lease has a deadline: the moment at which the last *confirmed* renewal was *sent*, plus
/// the TTL, minus a margin of a tenth of the TTL for clocks that run at different rates. The
/// deadline is judged locally, so that the loss is known even if the network is gone. Once lost, a
/// lease stays lost: a late confirmation does not bring it back.
///
/// Clones are the same lease. Drivers make leases and renew them; guards look at them.
#[derive(Clone)]
pub struct Lease(Arc<Shared>);

struct Shared {
    state: watch::Sender<State>,
    ttl: Option<Duration>,
    parent: Option<Lease>,
    probe: OnceLock<Probe>,
}

/// Tells whether a connection is still open.
type Probe = Box<dyn Fn() -> bool + Send + Sync>;

#[derive(Clone, Copy, Debug, Default)]
struct State {
    deadline: Option<Moment>,
    in_doubt: bool,
    loss: Option<Loss>,
}

impl Lease {
    /// A lease that lasts `ttl` from the moment at which the request that made it was sent.
    pub fn timed(ttl: Duration, sent: Moment) -> Self {
        let deadline = Some(sent + usable(ttl));
        Self::new(State { deadline, ..State::default() }, Some(ttl), None)
    }

    /// A lease that ends only when the backend says so: ownership tied to a connection or to a
    /// process.
    pub fn untimed() -> Self {
        Self::new(State::default(), None, None)
    }

    /// A lease that is lost with this one, has its deadline, and can be lost alone.
    #[must_use]
    pub fn child(&self) -> Self {
        Self::new(State::default(), self.0.ttl, Some(self.clone()))
    }

    /// A lease that lasts `ttl` from `sent`, and is lost with this one at the latest: its deadline is
    /// the earlier of the two. Renewing it does not renew this one.
    #[must_use]
    pub fn timed_child(&self, ttl: Duration, sent: Moment) -> Self {
        let deadline = Some(sent + usable(ttl));
        Self::new(State { deadline, ..State::default() }, Some(ttl), Some(self.clone()))
    }

    fn new(state: State, ttl: Option<Duration>, parent: Option<Self>) -> Self {
        let (state, probe) = (watch::Sender::new(state), OnceLock::new());
        let lease = Self(Arc::new(Shared { state, ttl, parent, probe }));
        lease.expire_in_time();
        lease
    }

    /// Ties the lease to a connection, with whose end it is lost: `stands` tells whether the
    /// connection is still open, and from now on every look at the lease or its children calls it.
    ///
    /// This is how a process that was stopped for a while finds out that its connection ended
    /// meanwhile, before its runtime has read the socket. So `stands` must ask the operating system,
    /// not the runtime: one call of at most about a microsecond, which never blocks and runs on any
    /// thread. It must not keep the connection open. A second call changes nothing.
    pub fn stands_with(&self, stands: impl Fn() -> bool + Send + Sync + 'static) {
        // A second one is dropped: a lease has one connection.
        drop(self.0.probe.set(Box::new(stands)));
    }

    /// The time to live at the backend, if it has one.
    pub fn ttl(&self) -> Option<Duration> {
        self.0.ttl
    }

    /// The moment at which it is lost unless a renewal is confirmed before; `None` if untimed.
    pub fn deadline(&self) -> Option<Moment> {
        let own = self.0.state.borrow().deadline;
        let inherited = self.0.parent.as_ref().and_then(Self::deadline);
        [own, inherited].into_iter().flatten().min()
    }

    /// The moment from which the backend surely no longer keeps it; `None` if untimed. The deadline
    /// is one margin before the end at the backend, so this is one margin after it.
    pub(crate) fn ends_at_backend(&self) -> Option<Moment> {
        match (self.0.state.borrow().deadline, &self.0.parent) {
            (None, Some(parent)) => parent.ends_at_backend(),
            (deadline, _) => deadline.zip(self.ttl()).map(|(deadline, ttl)| deadline + ttl / 5),
        }
    }

    /// Notes that a renewal sent at `sent` is confirmed. Returns whether the lease is still held: a
    /// confirmation after the deadline comes too late.
    pub fn renewed(&self, sent: Moment) -> bool {
        if self.loss().is_some() {
            return false;
        }
        let ttl = match (&self.0.parent, self.0.ttl) {
            // A child without a deadline of its own has its parent's.
            (Some(parent), _) if self.0.state.borrow().deadline.is_none() => {
                return parent.renewed(sent) && self.is_held();
            }
            (_, Some(ttl)) => ttl,
            (_, None) => return self.trust(),
        };
        let deadline = Some(sent + usable(ttl));
        self.0.state.send_if_modified(|state| {
            let later = state.deadline < deadline;
            if later {
                state.deadline = deadline;
            }
            std::mem::take(&mut state.in_doubt) || later
        });
        self.loss().is_none()
    }

    /// Notes that the connection is in trouble: held as far as anyone knows, until the deadline.
    pub fn suspend(&self) {
        self.0.state.send_if_modified(|state| !std::mem::replace(&mut state.in_doubt, true));
    }

    fn trust(&self) -> bool {
        self.0.state.send_if_modified(|state| std::mem::take(&mut state.in_doubt));
        true
    }

    /// Notes the loss. The first reason stays.
    pub fn lose(&self, loss: Loss) {
        let loss = self.0.parent.as_ref().and_then(Self::loss).unwrap_or(loss);
        self.0.state.send_if_modified(|state| {
            let first = state.loss.is_none();
            state.loss.get_or_insert(loss);
            first
        });
    }

    /// Why it is no longer held, or `None` while it is. Looks at the clock, and at the
    /// [connection](Self::stands_with).
    pub fn loss(&self) -> Option<Loss> {
        let state = *self.0.state.borrow();
        if state.loss.is_some() {
            return state.loss;
        }
        if let Some(loss) = self.0.parent.as_ref().and_then(Self::loss) {
            return Some(loss);
        }
        if state.deadline.is_some_and(Moment::has_passed) {
            self.lose(Loss::Expired);
            return self.0.state.borrow().loss;
        }
        if self.0.probe.get().is_some_and(|stands| !stands()) {
            self.lose(Loss::SessionEnded);
            return self.0.state.borrow().loss;
        }
        None
    }

    /// Whether it is held now. Looks at the clock.
    pub fn is_held(&self) -> bool {
        self.loss().is_none()
    }

    /// Waits for the loss. Dropping the future is safe; it runs on any runtime.
    pub async fn lost(&self) -> Loss {
        match &self.0.parent {
            None => self.lost_alone().await,
            Some(parent) => tokio::select! {
                loss = self.lost_alone() => loss,
                loss = Box::pin(parent.lost()) => loss,
            },
        }
    }

    /// Waits until its deadline is nearer than `time`, or it is lost. Inside the engine only.
    pub(crate) async fn expires_within(&self, time: Duration) {
        while let Some(deadline) = self.deadline() {
            let near = deadline - time;
            if near.has_passed() {
                return;
            }
            tokio::select! {
                _ = self.lost() => return,
                // It may have been renewed meanwhile: look again.
                () = near.wait() => {}
            }
        }
        self.lost().await;
    }

    async fn lost_alone(&self) -> Loss {
        let mut states = self.0.state.subscribe();
        match states.wait_for(|state| state.loss.is_some()).await {
            Ok(state) => state.loss.unwrap_or(Loss::Expired),
            // The sender lives in `self`, so this cannot be.
            Err(_) => Loss::Expired,
        }
    }

    /// Whether the connection that it depends on is in trouble.
    pub fn in_doubt(&self) -> bool {
        self.0.state.borrow().in_doubt || self.0.parent.as_ref().is_some_and(Self::in_doubt)
    }

    /// Waits until [`in_doubt`](Self::in_doubt) is `doubt`, of this lease alone.
    pub(crate) async fn doubt_is(&self, doubt: bool) {
        let mut states = self.0.state.subscribe();
        // The sender lives in `self`: the wait cannot fail.
        let _ = states.wait_for(|state| state.in_doubt == doubt).await;
    }

    /// Reports the loss at the deadline even if nobody looks. Only inside a runtime, which is where
    /// drivers live; elsewhere the deadline still counts whenever somebody looks.
    fn expire_in_time(&self) {
        let (Some(mut deadline), Ok(runtime)) =
            (self.0.state.borrow().deadline, tokio::runtime::Handle::try_current())
        else {
            return;
        };
        let mut states = self.0.state.subscribe();
        let lease: Weak<Shared> = Arc::downgrade(&self.0);
        runtime.spawn(async move {
            loop {
                tokio::select! {
                    () = deadline.wait() => {
                        let Some(lease) = lease.upgrade().map(Self) else { return };
                        if lease.loss().is_some() { return }
                    }
                    changed = states.changed() => if changed.is_err() { return },
                }
                let state = *states.borrow_and_update();
                match state.deadline {
                    Some(later) if state.loss.is_none() => deadline = later,
                    _ => return,
                }
            }
        });
    }
}

/// The part of a TTL that the holder may rely on.
fn usable(ttl: Duration) -> Duration {
    ttl - ttl / 10
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("ttl", &self.0.ttl)
            .field("remaining", &self.deadline().map(Moment::remaining))
            .field("loss", &self.loss())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_millis(100);

    #[tokio::test]
    async fn it_is_lost_at_the_deadline_without_anybody_asking() {
        let sent = Moment::now();
        let lease = Lease::timed(TTL, sent);
        assert!(lease.is_held());
        assert_eq!(lease.lost().await, Loss::Expired);
        assert!(sent.elapsed() >= TTL * 9 / 10);
    }

    #[tokio::test]
    async fn a_renewal_counts_from_when_it_was_sent() {
        let lease = Lease::timed(TTL, Moment::now());
        let sent = Moment::now() + TTL;
        assert!(lease.renewed(sent));
        assert_eq!(lease.deadline(), Some(sent + usable(TTL)));
        assert!(lease.renewed(sent - TTL), "an older confirmation shortens nothing");
        assert_eq!(lease.deadline(), Some(sent + usable(TTL)));
    }

    #[tokio::test]
    async fn its_end_is_near_when_no_renewal_moved_it_away() {
        let sent = Moment::now();
        let lease = Lease::timed(TTL * 2, sent);
        let near = lease.expires_within(TTL);
        assert!(lease.renewed(sent + TTL));
        near.await;
        assert!(sent.elapsed() >= usable(TTL * 2), "it was renewed meanwhile");
        assert!(lease.is_held());
        lease.expires_within(TTL * 10).await;
        let untimed = Lease::untimed();
        let waiting = tokio::time::timeout(TTL, untimed.expires_within(TTL)).await;
        assert!(waiting.is_err(), "it has no end that could be near");
        untimed.lose(Loss::Taken);
        untimed.expires_within(TTL).await;
    }

    #[tokio::test]
    async fn a_late_confirmation_does_not_bring_it_back() {
        let lease = Lease::timed(TTL, Moment::now() - TTL);
        assert!(!lease.renewed(Moment::now()));
        assert_eq!(lease.loss(), Some(Loss::Expired));
    }

    #[tokio::test]
    async fn a_child_is_lost_with_its_parent_and_alone() {
        let parent = Lease::untimed();
        let (one, two) = (parent.child(), parent.child());
        one.lose(Loss::Taken);
        assert_eq!((one.loss(), two.loss()), (Some(Loss::Taken), None));
        parent.lose(Loss::SessionEnded);
        assert_eq!(two.lost().await, Loss::SessionEnded);
        assert_eq!(one.loss(), Some(Loss::Taken), "the first reason stays");
    }

    #[tokio::test]
    async fn a_timed_child_has_the_earlier_of_two_deadlines() {
        let sent = Moment::now();
        let parent = Lease::timed(TTL * 100, sent);
        let (short, long) = (parent.timed_child(TTL, sent), parent.timed_child(TTL * 200, sent));
        assert_eq!(short.deadline(), Some(sent + usable(TTL)));
        assert_eq!(long.deadline(), parent.deadline());
        assert_eq!(long.ends_at_backend(), Some(sent + usable(TTL * 200) + TTL * 40));
        let later = sent + TTL / 2;
        assert!(short.renewed(later));
        assert_eq!(short.deadline(), Some(later + usable(TTL)));
        assert_eq!(parent.deadline(), Some(sent + usable(TTL * 100)), "it renews itself alone");
        assert_eq!(short.lost().await, Loss::Expired);
        parent.lose(Loss::SessionEnded);
        assert!(!long.renewed(Moment::now()));
        assert_eq!(long.lost().await, Loss::SessionEnded);
    }

    #[tokio::test]
    async fn it_ends_with_its_connection_however_the_runtime_hears_of_it() {
        use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
        let stands = Arc::new(AtomicBool::new(true));
        let parent = Lease::timed(TTL * 100, Moment::now());
        let (child, asked) = (parent.child(), stands.clone());
        parent.stands_with(move || asked.load(Relaxed));
        assert!(child.is_held());
        stands.store(false, Relaxed);
        assert_eq!(child.loss(), Some(Loss::SessionEnded), "a look is enough");
        stands.store(true, Relaxed);
        assert!(!parent.renewed(Moment::now()), "and it stays lost");
        assert_eq!(parent.lost().await, Loss::SessionEnded, "for whoever waits too");
    }

    #[tokio::test]
    async fn doubt_ends_with_the_next_confirmation() {
        let lease = Lease::untimed();
        lease.suspend();
        assert!(lease.in_doubt() && lease.is_held() && lease.child().in_doubt());
        assert!(lease.renewed(Moment::now()));
        assert!(!lease.in_doubt());
    }
}
