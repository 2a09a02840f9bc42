use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tooz_core::{
    Characteristics, Elections, Error, ErrorKind, GroupId, Groups, Hold, Lease, Locks, Loss,
    MemberId, Moment, OperationId, Outcome, Result, Session, async_trait,
};

use crate::api::{Api, session_lost};
use crate::config::Config;
use crate::heartbeat;
use crate::keys::Keys;
use crate::lock::ConsulHold;
use crate::presence::{self, Presence};
use crate::transaction::{self, Op};

/// How long to wait before a request is repeated whose fate is unknown.
const REPEAT: Duration = Duration::from_millis(100);

/// A session: as long as Consul's own sessions live.
#[derive(Debug)]
pub(crate) struct ConsulSession(pub(crate) Arc<Life>);

/// What the session's tasks and holds share.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) config: Arc<Config>,
    pub(crate) member: MemberId,
    pub(crate) presence: Presence,
    pub(crate) lease: Lease,
    /// What heartbeats go by.
    pub(crate) heart: Api,
    gates: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    holds: Mutex<HashMap<OperationId, Arc<ConsulHold>>>,
    memberships: Mutex<HashMap<GroupId, Lease>>,
    /// Ends of cohorts that nothing waits for but the goodbye.
    pub(crate) disbanding: Mutex<JoinSet<()>>,
    closed: CancellationToken,
}

/// The right to contend for a lock within a session, which Consul takes for one and the same holder.
pub(crate) type Pass = OwnedMutexGuard<()>;

impl ConsulSession {
    pub(crate) async fn open(config: Arc<Config>, member: MemberId) -> Result<Self> {
        let (presence, begun) = Presence::open(&config, OperationId::random(), &member).await?;
        let life = Arc::new(Life {
            lease: Lease::timed(config.ttl, begun),
            heart: config.api.of_heartbeats(),
            config,
            member,
            presence,
            gates: Mutex::default(),
            holds: Mutex::default(),
            memberships: Mutex::default(),
            disbanding: Mutex::default(),
            closed: CancellationToken::new(),
        });
        for session in life.presence.sessions() {
            tokio::spawn(life.clone().watch_over(session.to_owned()));
        }
        Ok(Self(life))
    }
}

impl Life {
    pub(crate) fn api(&self) -> &Api {
        &self.config.api
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.config.keys
    }

    /// Tells the loss of a session as soon as the servers do.
    async fn watch_over(self: Arc<Self>, session: String) {
        tokio::select! {
            () = presence::end(self.api(), &session) => self.lease.lose(Loss::SessionEnded),
            _ = self.lease.lost() => {}
            () = self.closed.cancelled() => {}
        }
    }

    /// Carries out a transaction that may be carried out twice, until it is known what became of it;
    /// whether an earlier attempt may have been the one that counted.
    pub(crate) async fn transact(&self, ops: &[Op]) -> Result<(transaction::Outcome, bool)> {
        let limit = Moment::now() + self.config.response_timeout * 2;
        let mut again = false;
        loop {
            match self.api().transact(ops).await {
                Ok(outcome) => return Ok((outcome, again)),
                Err(error)
                    if error.outcome() == Outcome::Unknown || (again && error.is_retryable()) =>
                {
                    again = true;
                    if limit.has_passed() || !self.lease.is_held() {
                        return Err(error.outcome_is(Outcome::Unknown));
                    }
                    tokio::time::sleep(REPEAT).await;
                }
                Err(error) => return Err(self.judged(error)),
            }
        }
    }

    /// The session is lost if the servers say so.
    fn judged(&self, error: Error) -> Error {
        if error.kind() == ErrorKind::SessionLost {
            self.lease.lose(Loss::SessionEnded);
        }
        error
    }

    /// That the servers know the session no more.
    pub(crate) fn forgotten(&self) -> Error {
        self.judged(session_lost())
    }

    // ---- What is held.

    /// Waits for the right to contend for a key, in the order of arrival.
    pub(crate) async fn enter(&self, key: &str) -> Pass {
        self.gate(key).lock_owned().await
    }

    /// The same at once or not at all.
    pub(crate) fn try_enter(&self, key: &str) -> Option<Pass> {
        self.gate(key).try_lock_owned().ok()
    }

    fn gate(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut gates = lock(&self.gates);
        if let Some(gate) = gates.get(key).and_then(Weak::upgrade) {
            return gate;
        }
        gates.retain(|_, gate| gate.strong_count() > 0);
        let gate = Arc::default();
        gates.insert(key.to_owned(), Arc::downgrade(&gate));
        gate
    }

    pub(crate) fn add_hold(&self, hold: &Arc<ConsulHold>) {
        lock(&self.holds).insert(hold.id(), hold.clone());
    }

    pub(crate) fn remove_hold(&self, id: OperationId) {
        lock(&self.holds).remove(&id);
    }

    pub(crate) fn holds(&self) -> Vec<Arc<ConsulHold>> {
        lock(&self.holds).values().cloned().collect()
    }

    pub(crate) fn memberships(&self) -> Vec<(GroupId, Lease)> {
        lock(&self.memberships).iter().map(|(g, l)| (g.clone(), l.clone())).collect()
    }

    pub(crate) fn forget_lost_memberships(&self) {
        lock(&self.memberships).retain(|_, lease| lease.is_held());
    }

    pub(crate) fn is_member(&self, group: &GroupId) -> bool {
        lock(&self.memberships).get(group).is_some_and(Lease::is_held)
    }

    pub(crate) fn add_membership(&self, group: &GroupId) -> Lease {
        let lease = self.lease.child();
        lock(&self.memberships).insert(group.clone(), lease.clone());
        lease
    }

    pub(crate) fn lose_membership(&self, group: &GroupId) {
        if let Some(lease) = lock(&self.memberships).remove(group) {
            lease.lose(Loss::Taken);
        }
    }

    pub(crate) fn remove_membership(&self, group: &GroupId) {
        lock(&self.memberships).remove(group);
    }

    async fn say_goodbye(&self) -> Result<()> {
        // Before the session ends: what a dying session has is subject to the lock-delay. That is as it
        // should be after a loss, of which whoever works under the lock may not know yet.
        let lost = !self.lease.is_held();
        for hold in self.holds() {
            if lost && hold.is_exclusive() {
                hold.is_gone();
                continue;
            }
            hold.lease().lose(Loss::GivenUp);
            if let Err(error) = hold.release().await {
                tracing::debug!(%error, "a lock is left to its session's end");
            }
        }
        lock(&self.memberships).clear();
        let disbanding = std::mem::take(&mut *lock(&self.disbanding));
        disbanding.join_all().await;
        self.presence.close(self.api()).await
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is locked, so it is whole even if poisoned.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Session for ConsulSession {
    fn lease(&self) -> &Lease {
        &self.0.lease
    }

    fn characteristics(&self) -> Characteristics {
        crate::DRIVER.characteristics
    }

    fn heartbeat_interval(&self) -> Option<Duration> {
        Some(self.0.config.heartbeat_interval())
    }

    async fn heartbeat(&self) -> Result<()> {
        heartbeat::renew(&self.0).await
    }

    async fn close(&self) -> Result<()> {
        if self.0.closed.is_cancelled() {
            return Ok(());
        }
        self.0.closed.cancel();
        let limit = self.0.config.response_timeout * 2;
        let said = tokio::time::timeout(limit, self.0.say_goodbye()).await;
        said.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::TimedOut, "the server did not answer the goodbye")
                .outcome_is(Outcome::Unknown))
        })
    }

    fn locks(&self) -> Option<&dyn Locks> {
        Some(self)
    }

    fn groups(&self) -> Option<&dyn Groups> {
        Some(self)
    }

    fn elections(&self) -> Option<&dyn Elections> {
        Some(self)
    }
}
