use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tooz_core::{
    Characteristics, Elections, Error, ErrorKind, GroupId, Groups, Hold, Lease, Locks, Loss,
    MemberId, Moment, OperationId, Result, Session, async_trait,
};
use tracing::debug;

use crate::config::{Config, Ttl};
use crate::keys::{Keys, claim};
use crate::lock::EtcdHold;
use crate::store::{Event, If, Refusal, Store, Watched};
use crate::{group, heartbeat};

/// The pause before something is tried again that failed because of the connection.
pub(crate) const PAUSE: Duration = Duration::from_millis(100);

/// One session: its key lives as long as it is renewed.
#[derive(Debug)]
pub(crate) struct EtcdSession(pub(crate) Arc<Life>);

/// What its tasks share.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) config: Arc<Config>,
    pub(crate) store: Store,
    pub(crate) id: OperationId,
    pub(crate) member: MemberId,
    pub(crate) lease: Lease,
    holds: Mutex<HashMap<OperationId, Arc<EtcdHold>>>,
    /// The keys of places in queues, which are renewed, and who is to look when one is gone.
    places: Mutex<HashMap<String, Arc<Notify>>>,
    memberships: Mutex<HashMap<GroupId, Membership>>,
    closed: CancellationToken,
}

/// A member's key.
#[derive(Clone, Debug)]
pub(crate) struct Membership {
    pub(crate) lease: Lease,
    /// The index of its last change: what shows that it is still ours.
    pub(crate) index: Arc<AtomicU64>,
}

impl Membership {
    pub(crate) fn proof(&self) -> If<'static> {
        If::Index(self.index.load(Ordering::Relaxed))
    }
}

impl EtcdSession {
    pub(crate) async fn open(config: Arc<Config>, store: Store, member: MemberId) -> Result<Self> {
        let (id, ttl) = (OperationId::random(), config.membership_timeout);
        let (key, value) = (config.keys.session(id), claim(id, id, &member));
        let opened = match store.open(&key, &value, ttl).await {
            Ok(opened) => opened,
            Err(error) => {
                // It may be there all the same, and nobody knows of it.
                tokio::spawn(async move { drop(store.delete(&key, None).await) });
                return Err(error);
            }
        };
        let event = opened.result.map_err(|refusal| unexpected("a session's key", refusal))?;
        let life = Arc::new(Life {
            config,
            store,
            id,
            member,
            lease: Lease::timed(ttl.0, opened.sent),
            holds: Mutex::default(),
            places: Mutex::default(),
            memberships: Mutex::default(),
            closed: CancellationToken::new(),
        });
        tokio::spawn(life.clone().tend(event.node.modified));
        Ok(Self(life))
    }
}

impl Life {
    pub(crate) fn keys(&self) -> &Keys {
        &self.config.keys
    }

    pub(crate) fn claim(&self, id: OperationId) -> String {
        claim(id, self.id, &self.member)
    }

    /// Hears what happens to the session's own key until the session ends.
    async fn tend(self: Arc<Self>, since: u64) {
        tokio::select! {
            () = self.hear(since) => {}
            _ = self.lease.lost() => {}
            () = self.closed.cancelled() => {}
        }
        let loss = self.lease.loss().unwrap_or(Loss::GivenUp);
        for hold in self.holds() {
            hold.lease().lose(loss);
        }
        for (_, membership) in self.memberships() {
            membership.lease.lose(loss);
        }
        for notify in self.lock(&self.places).values() {
            notify.notify_one();
        }
    }

    /// The key's end is the session's; its change says that something of ours was broken.
    async fn hear(self: &Arc<Self>, mut since: u64) {
        let key = self.keys().session(self.id);
        loop {
            match self.store.watch(&key, since, false).await {
                Ok(Watched::Event(event)) if event.is_end() => {
                    return self.lease.lose(Loss::SessionEnded);
                }
                Ok(Watched::Event(event)) => {
                    since = event.node.modified;
                    if let Err(error) = heartbeat::renew(self).await {
                        debug!(%error, "no look at what may have been broken");
                    }
                }
                // Whatever it was, the next renewals see what it did.
                Ok(Watched::Forgotten) => match self.store.get(&key).await {
                    Ok(answer) if answer.result.is_err() => {
                        return self.lease.lose(Loss::SessionEnded);
                    }
                    Ok(answer) => since = answer.index,
                    Err(_) => tokio::time::sleep(PAUSE).await,
                },
                Err(error) => {
                    debug!(%error, "watching the session again");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Makes another session look at what it has: that its own key changes wakes it. Where that
    /// fails, it looks with its next heartbeat.
    pub(crate) async fn tell(&self, session: &str) {
        if let Err(error) = self.touch(&self.keys().session_named(session)).await {
            debug!(%error, "a session is not told of its loss");
        }
    }

    async fn touch(&self, key: &str) -> Result<()> {
        loop {
            let Ok(Event { node, .. }) = self.store.get(key).await?.result else { return Ok(()) };
            // It lives on for as long as it has: its own options say how long that is, not ours.
            let ttl = Ttl(Duration::from_secs(node.ttl.max(1)));
            let unchanged = Some(If::Index(node.modified));
            match self.store.put(key, &node.value, Some(ttl), unchanged).await?.result {
                // Renewed meanwhile.
                Err(Refusal::Differs) => {}
                _ => return Ok(()),
            }
        }
    }

    /// The server forgot the session.
    pub(crate) fn forgotten(&self) -> Error {
        self.lease.lose(Loss::SessionEnded);
        Error::new(ErrorKind::SessionLost, "the server does not know the session any more")
    }

    /// Whether it was lost or closed.
    pub(crate) fn is_over(&self) -> bool {
        self.closed.is_cancelled() || !self.lease.is_held()
    }

    // ---- What it has.

    pub(crate) fn add_hold(&self, hold: &Arc<EtcdHold>) {
        self.lock(&self.holds).insert(hold.id(), hold.clone());
        // The session may have been lost while the answer was on its way.
        if let Some(loss) = self.lease.loss() {
            hold.lease().lose(loss);
        }
    }

    pub(crate) fn remove_hold(&self, id: OperationId) {
        self.lock(&self.holds).remove(&id);
    }

    pub(crate) fn holds(&self) -> Vec<Arc<EtcdHold>> {
        self.lock(&self.holds).values().cloned().collect()
    }

    pub(crate) fn add_place(&self, key: &str, notify: &Arc<Notify>) {
        self.lock(&self.places).insert(key.to_owned(), notify.clone());
    }

    pub(crate) fn remove_place(&self, key: &str) {
        self.lock(&self.places).remove(key);
    }

    pub(crate) fn places(&self) -> Vec<(String, Arc<Notify>)> {
        self.lock(&self.places).iter().map(|(key, notify)| (key.clone(), notify.clone())).collect()
    }

    pub(crate) fn add_membership(&self, group: &GroupId, membership: Membership) {
        self.lock(&self.memberships).insert(group.clone(), membership);
    }

    pub(crate) fn membership(&self, group: &GroupId) -> Option<Membership> {
        self.lock(&self.memberships).get(group).cloned()
    }

    pub(crate) fn remove_membership(&self, group: &GroupId) {
        self.lock(&self.memberships).remove(group);
    }

    pub(crate) fn memberships(&self) -> Vec<(GroupId, Membership)> {
        self.lock(&self.memberships).iter().map(|(g, m)| (g.clone(), m.clone())).collect()
    }

    fn lock<'a, T>(&self, mutex: &'a Mutex<T>) -> MutexGuard<'a, T> {
        // Nothing panics while one is locked, so it is whole even if poisoned.
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn say_goodbye(&self) -> Result<()> {
        // What cannot be given back expires; the session's own key goes last, and in any case.
        for hold in self.holds() {
            drop(hold.release().await);
        }
        for (group, _) in self.memberships() {
            drop(group::leave(self, &group).await);
        }
        self.store.delete(&self.keys().session(self.id), None).await.map(drop)
    }
}

/// A refusal for which the driver's own requests give no reason.
pub(crate) fn unexpected(what: &str, refusal: Refusal) -> Error {
    let problem = match refusal {
        Refusal::Missing => "is missing",
        Refusal::Differs => "was changed by somebody else",
        Refusal::Exists => "is there already",
        Refusal::InUse => "is a directory, or has one above it that is a key",
    };
    Error::new(ErrorKind::Backend, format!("{what} {problem}"))
}

#[async_trait]
impl Session for EtcdSession {
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
        self.0.say_goodbye().await
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

/// The lease of something that is lost with the session, asked for at `sent`.
pub(crate) fn lease_of_lock(life: &Life, sent: Moment) -> Lease {
    Lease::timed(life.config.lock_timeout.0, sent)
}
