use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tooz_core::{
    Characteristics, Elections, Error, ErrorKind, GroupId, Groups, Hold, Lease, Locks, Loss,
    MemberId, Moment, OperationId, Outcome, Result, Session, async_trait,
};
use tracing::{debug, warn};

use crate::client::{self, Client, Watch};
use crate::config::Config;
use crate::hold::EtcdHold;
use crate::keys::{self, Keys};
use crate::transport::{Connector, Event, Op, Range, Txn};
use crate::{CHARACTERISTICS, heartbeat};

/// A session: one lease, over any number of connections.
#[derive(Debug)]
pub(crate) struct EtcdSession(pub(crate) Arc<Life>);

/// What the session's tasks and holds share.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) config: Arc<Config>,
    pub(crate) client: Client,
    pub(crate) member: MemberId,
    /// The number of the lease, which all keys of the session are attached to.
    pub(crate) id: i64,
    pub(crate) lease: Lease,
    holds: Mutex<HashMap<OperationId, Arc<EtcdHold>>>,
    memberships: Mutex<HashMap<GroupId, Membership>>,
    /// The acquisitions under way: what the server has of others is a remnant.
    attempts: Mutex<BTreeSet<String>>,
    /// A join is under way.
    pub(crate) joining: AtomicUsize,
    closed: CancellationToken,
}

/// A group that the session has joined.
#[derive(Clone, Debug)]
pub(crate) struct Membership {
    pub(crate) lease: Lease,
    /// The revision that created the member's key: a later one is not ours.
    pub(crate) revision: i64,
}

impl EtcdSession {
    pub(crate) async fn open(
        config: Arc<Config>,
        connector: Arc<dyn Connector>,
        member: MemberId,
    ) -> Result<Self> {
        keys::check_member(&member)?;
        let client = Client::new(config.clone(), connector);
        client.opens(true);
        let id = random_lease();
        // At least what is asked for is granted, so that much can be relied on.
        let granted = client.grant(id, config.ttl).await;
        let sent = match granted {
            Ok(answer) => answer.sent,
            // An earlier attempt made it, which was not before the call.
            Err(error) if made_before(&error) => Moment::now(),
            Err(error) => return Err(error),
        };
        let lease = Lease::timed(config.session_ttl(), sent);
        client.serve(&lease);
        let life = Arc::new(Life {
            config,
            client,
            member,
            id,
            lease,
            holds: Mutex::default(),
            memberships: Mutex::default(),
            attempts: Mutex::default(),
            joining: AtomicUsize::new(0),
            closed: CancellationToken::new(),
        });
        let key = life.keys().session(id);
        let value = life.member.as_bytes().to_vec();
        let announced = life.client.txn(&Txn::read(vec![Op::Put { key, value, lease: id }])).await;
        let watch = match announced {
            Ok(_) => life.watch_itself().await,
            Err(error) => Err(error),
        };
        match watch {
            Ok(watch) => {
                life.client.opens(false);
                tokio::spawn(life.clone().tend(watch));
                Ok(Self(life))
            }
            Err(error) => {
                life.client.end();
                tokio::spawn(async move { life.client.revoke(id).await });
                Err(error)
            }
        }
    }
}

/// A number for a lease that nobody else has.
pub(crate) fn random_lease() -> i64 {
    let [bytes @ .., _, _, _, _, _, _, _, _] = *OperationId::random().as_bytes();
    // 0 and below are not numbers of leases.
    (i64::from_be_bytes(bytes) & i64::MAX).max(1)
}

/// Whether an earlier attempt of ours made the lease: nobody else has its number.
fn made_before(error: &Error) -> bool {
    error.outcome() == Outcome::Unknown && client::exists_already(error)
}

impl Life {
    pub(crate) fn keys(&self) -> &Keys {
        &self.config.keys
    }

    // ---- The server's word.

    /// Hears when the session ends at the server or something is taken away, over one watch after
    /// the other, until it is over.
    async fn tend(self: Arc<Self>, mut watch: Watch) {
        loop {
            tokio::select! {
                error = self.hear(&mut watch) => {
                    debug!(member = %self.member, %error, "the session's watch ended");
                }
                () = self.closed.cancelled() => return self.client.end(),
                loss = self.lease.lost() => return self.end_lost(loss),
            }
            watch = tokio::select! {
            watch = self.watch_again() => watch,
            () = self.closed.cancelled() => return self.client.end(),
            loss = self.lease.lost() => return self.end_lost(loss),};
            // What happened meanwhile shows in what is still attached to the lease.
            let life = self.clone();
            tokio::spawn(async move {
                if let Err(error) = heartbeat::renew(&life).await {
                    debug!(%error, "no renewal after the reconnection");
                }
            });
        }
    }

    async fn watch_itself(&self) -> Result<Watch> {
        self.client.watch(Range::prefix(self.keys().session(self.id))).await
    }

    async fn watch_again(&self) -> Watch {
        loop {
            match self.watch_itself().await {
                Ok(watch) => return watch,
                Err(error) => debug!(%error, "no watch yet"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Hears until the watch ends, and why it did.
    async fn hear(self: &Arc<Self>, watch: &mut Watch) -> Error {
        let own = self.keys().session(self.id);
        loop {
            let events = match watch.next().await {
                Ok(events) => events,
                Err(error) => return error,
            };
            for event in events {
                match event {
                    Event::Deleted { key, .. } if key == own => {
                        self.lease.lose(Loss::SessionEnded);
                    }
                    Event::Put(notice) if notice.key.len() > own.len() => {
                        self.was_taken(&notice.key[own.len() + 1..]);
                        let (life, key) = (self.clone(), Range::key(notice.key));
                        tokio::spawn(async move {
                            // Else it goes with the session.
                            let _ = life.client.txn(&Txn::read(vec![key.delete()])).await;
                        });
                    }
                    _ => {}
                }
            }
        }
    }

    /// What the operation acquired was taken away, or the membership of that revision.
    fn was_taken(&self, what: &[u8]) {
        let holds = self.holds();
        for hold in holds.iter().filter(|hold| hold.id().to_string().as_bytes() == what) {
            warn!(member = %self.member, "a lock was broken");
            hold.lease().lose(Loss::Taken);
        }
        let memberships = self.memberships();
        let removed = |membership: &Membership| membership.revision.to_string().as_bytes() == what;
        for (group, membership) in memberships.iter().filter(|(_, one)| removed(one)) {
            self.lost_membership(group, membership);
        }
    }

    /// Somebody else ended the membership.
    pub(crate) fn lost_membership(&self, group: &GroupId, membership: &Membership) {
        let mut memberships = lock_of(&self.memberships);
        // Quietly if it was left meanwhile; one that was joined since is not meant.
        if memberships.get(group).is_some_and(|now| now.revision == membership.revision) {
            warn!(%group, member = %self.member, "the membership was deleted");
            memberships.remove(group);
            membership.lease.lose(Loss::Taken);
        }
    }

    /// With the session, everything that it held is lost.
    fn end_lost(&self, loss: Loss) {
        for hold in self.holds() {
            hold.lease().lose(loss);
        }
        self.client.end();
    }

    /// The server knows the session no more.
    pub(crate) fn forgotten(&self) -> Error {
        self.lease.lose(Loss::SessionEnded);
        Error::new(ErrorKind::SessionLost, "the server knows the session's lease no more")
            .on(self.config.backend)
    }

    /// A transaction on behalf of the session. That its lease is gone is told to all.
    pub(crate) async fn txn(&self, txn: &Txn) -> Result<client::Answer<crate::TxnReply>> {
        let answer = self.client.txn(txn).await;
        if answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::SessionLost) {
            self.lease.lose(Loss::SessionEnded);
        }
        answer
    }

    // ---- What is held.

    pub(crate) fn add_hold(&self, hold: &Arc<EtcdHold>) {
        lock_of(&self.holds).insert(hold.id(), hold.clone());
        // The session may have been lost while the answer was on its way.
        if let Some(loss) = self.lease.loss() {
            hold.lease().lose(loss);
        }
    }

    pub(crate) fn remove_hold(&self, id: OperationId) {
        lock_of(&self.holds).remove(&id);
    }

    pub(crate) fn holds(&self) -> Vec<Arc<EtcdHold>> {
        lock_of(&self.holds).values().cloned().collect()
    }

    pub(crate) fn add_attempt(&self, id: OperationId) {
        lock_of(&self.attempts).insert(id.to_string());
    }

    pub(crate) fn remove_attempt(&self, id: OperationId) {
        lock_of(&self.attempts).remove(&id.to_string());
    }

    /// Whether an acquisition of this id is under way or holds something.
    pub(crate) fn knows(&self, operation: &str) -> bool {
        lock_of(&self.attempts).contains(operation)
            || lock_of(&self.holds).keys().any(|id| id.to_string() == operation)
    }

    pub(crate) fn membership(&self, group: &GroupId) -> Option<Membership> {
        lock_of(&self.memberships).get(group).cloned()
    }

    pub(crate) fn memberships(&self) -> Vec<(GroupId, Membership)> {
        lock_of(&self.memberships).iter().map(|(g, m)| (g.clone(), m.clone())).collect()
    }

    pub(crate) fn add_membership(&self, group: &GroupId, revision: i64) -> Lease {
        let lease = self.lease.child();
        let membership = Membership { lease: lease.clone(), revision };
        lock_of(&self.memberships).insert(group.clone(), membership);
        lease
    }

    pub(crate) fn remove_membership(&self, group: &GroupId) {
        lock_of(&self.memberships).remove(group);
    }

    /// Ends the lease at the server, and with it all that is attached to it. Locks that are shared
    /// outlive it, so they go first.
    async fn say_goodbye(&self) -> Result<()> {
        for hold in self.holds() {
            hold.lease().lose(Loss::GivenUp);
            if hold.is_shared() {
                hold.give_back().await?;
            }
        }
        self.client.revoke(self.id).await
    }
}

fn lock_of<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is locked, so it is whole even if poisoned.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Session for EtcdSession {
    fn lease(&self) -> &Lease {
        &self.0.lease
    }

    fn characteristics(&self) -> Characteristics {
        CHARACTERISTICS
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
        let limit = self.0.config.response_timeout * 2;
        let said = tokio::time::timeout(limit, self.0.say_goodbye()).await;
        self.0.closed.cancel();
        self.0.client.end();
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
