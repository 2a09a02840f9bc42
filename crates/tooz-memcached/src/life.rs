//! What a session's tasks and holds share, and the care for its connection.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tooz_core::{
    Error, ErrorKind, GroupId, Hold as _, Lease, Loss, MemberId, Moment, OperationId, Result,
};
use tracing::{debug, warn};

use crate::config::Config;
use crate::connection::{self, Connection};
use crate::epoch::Epoch;
use crate::hold::MemcachedHold;
use crate::keys::Keys;
use crate::link::Link;
use crate::lock::Kind;
use crate::wire::{How, Item, RAW, Reply, Request, Seconds};
use crate::{deployment, errors, group, heartbeat, local};

/// What the original writes, and any peer of it takes for a sign of life.
const ALIVE: &str = "It's alive!";

/// What the session's tasks and holds share.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) config: Arc<Config>,
    /// The server's name within this process.
    pub(crate) server: String,
    pub(crate) id: String,
    pub(crate) member: MemberId,
    pub(crate) member_key: Vec<u8>,
    pub(crate) lease: Lease,
    pub(crate) link: Link,
    /// Until when the server may have forgotten whose its locks are, if it may; as a session is of one
    /// run of the server, that stays.
    pub(crate) closed_until: Option<Moment>,
    /// Whether that was said.
    told: AtomicBool,
    epoch: Mutex<Epoch>,
    holds: Mutex<HashMap<OperationId, Arc<MemcachedHold>>>,
    memberships: Mutex<HashMap<GroupId, Membership>>,
    /// When the session's item was last renewed.
    beaten: Mutex<Moment>,
    /// How many acquisitions are under way, with what they clean up.
    busy: watch::Sender<usize>,
    closed: CancellationToken,
}

#[derive(Clone, Debug)]
pub(crate) struct Membership {
    pub(crate) lease: Lease,
    /// Of the group's item when this member was last seen in it.
    pub(crate) cas: u64,
}

/// The sign of life for peers of the original, which says whose it is.
fn alive(config: &Config, member_key: &[u8], session: &str) -> Request {
    let life = Seconds::at_least(config.membership_timeout);
    let value = format!("{ALIVE} {session}").into_bytes();
    Request::store(member_key, How::Set, RAW, life, value)
}

impl Life {
    pub(crate) async fn open(config: Arc<Config>, member: MemberId) -> Result<Arc<Self>> {
        let member_key = config.keys.member(&member)?;
        let id = OperationId::random().to_string();
        let connection = connection::open(&config).await?;
        let opening = tokio::time::timeout(config.connect_timeout, async {
            let closed_until = deployment::look_at(&connection, &config).await?;
            let epoch = Epoch::begun(connection.call(&Epoch::begin(&config.keys, None)?).await?)?;
            let sent = Moment::now();
            let life = Seconds::at_least(config.membership_timeout);
            let value = member.as_bytes().to_vec();
            let session = config.keys.session(&id);
            let first = [
                Request::store(&session, How::Set, RAW, life, value),
                alive(&config, &member_key, &id),
                Request::get(&session),
            ];
            let mut replies = connection.call(&first).await?;
            if let Some(error) = replies.iter().find_map(Reply::error) {
                return Err(error);
            }
            let item = replies.pop().ok_or_else(errors::odd_answer)?.item()?;
            if item.is_some_and(|item| item.cas == 0) {
                return Err(deployment::without_cas());
            }
            Ok((closed_until, epoch, sent))
        });
        let (closed_until, epoch, sent) =
            opening.await.unwrap_or_else(|_| Err(errors::no_answer()))?;
        let life = Arc::new(Life {
            server: config.server(),
            lease: Lease::timed(config.membership_timeout, sent),
            link: Link::new(config.clone(), connection),
            config,
            id,
            member,
            member_key,
            closed_until,
            told: AtomicBool::new(false),
            epoch: Mutex::new(epoch),
            holds: Mutex::default(),
            memberships: Mutex::default(),
            beaten: Mutex::new(sent),
            busy: watch::Sender::new(0),
            closed: CancellationToken::new(),
        });
        local::add_session(&life.id);
        tokio::spawn(life.clone().tend());
        Ok(life)
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.config.keys
    }

    pub(crate) fn session_key(&self) -> Vec<u8> {
        self.keys().session(&self.id)
    }

    pub(crate) fn alive(&self) -> Request {
        alive(&self.config, &self.member_key, &self.id)
    }

    // ---- The connection.

    /// Opens connection after connection until the session ends.
    async fn tend(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.link.down() => {}
                () = self.closed.cancelled() => return,
                _ = self.lease.lost() => return self.end_lost(),
            }
            self.lease.suspend();
            debug!(member = %self.member, "connection lost");
            let connection = tokio::select! {
                connection = self.reconnect() => connection,
                () = self.closed.cancelled() => return,
                _ = self.lease.lost() => {
                    self.link.end();
                    return self.end_lost();
                }
            };
            let Some(connection) = connection else {
                // A CAS id of before may be somebody else's now.
                self.link.end();
                drop(self.forgotten());
                return self.end_lost();
            };
            self.link.resume(connection);
            debug!(member = %self.member, "connected again");
            // The renewal is the proof of what is still ours.
            let life = self.clone();
            tokio::spawn(async move {
                if let Err(error) = heartbeat::renew(&life).await {
                    debug!(%error, "no renewal after the reconnection");
                }
            });
        }
    }

    /// The next connection to the same run of the server; `None` if it has forgotten everything.
    async fn reconnect(&self) -> Option<Connection> {
        let mut pause = Duration::from_millis(10);
        loop {
            match self.reopen().await {
                Ok((connection, true)) => return Some(connection),
                Ok((_, false)) => return None,
                Err(error) => debug!(%error, "no new connection yet"),
            }
            tokio::time::sleep(pause.mul_f64(0.5 + random_fraction() / 2.0)).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    async fn reopen(&self) -> Result<(Connection, bool)> {
        let connection = connection::open(&self.config).await?;
        let ask = [Request::get(&self.keys().epoch())];
        let answer = tokio::time::timeout(self.config.response_timeout, connection.call(&ask));
        let mut replies = answer.await.unwrap_or_else(|_| Err(errors::no_answer()))?;
        let item = replies.pop().ok_or_else(errors::odd_answer)?.item()?;
        let same = match item {
            Some(item) => Epoch::read(&item)? == self.epoch(),
            None => false,
        };
        Ok((connection, same))
    }

    /// With the session, everything that it held is lost.
    fn end_lost(&self) {
        let loss = self.lease.loss().unwrap_or(Loss::SessionEnded);
        for hold in self.holds() {
            hold.lease().lose(loss);
        }
    }

    // ---- The server's run.

    pub(crate) fn epoch(&self) -> Epoch {
        self.lock(&self.epoch).clone()
    }

    /// The epoch now, as the server's item says. An epoch that was evicted is followed by the next,
    /// for the connection shows that the server is the same.
    pub(crate) async fn epoch_in(&self, item: Option<Item>) -> Result<Epoch> {
        let epoch = match item {
            Some(item) => Epoch::read(&item)?,
            None => {
                let begin = Epoch::begin(self.keys(), Some(&self.epoch()))?;
                Epoch::begun(self.link.call(&begin).await?.0)?
            }
        };
        *self.lock(&self.epoch) = epoch.clone();
        Ok(epoch)
    }

    /// When the session's item was renewed before.
    pub(crate) fn beaten(&self, sent: Moment) -> Moment {
        std::mem::replace(&mut *self.lock(&self.beaten), sent)
    }

    /// Says once why nothing is granted.
    pub(crate) fn tell_closed(&self, until: Moment) {
        if !self.told.swap(true, Relaxed) {
            warn!(
                seconds = until.remaining().as_secs_f64(),
                "no lock and no term is granted yet: the server started a moment ago and has \
                 forgotten whose they are; see the option restart_grace"
            );
        }
    }

    // ---- What is held.

    /// The lease of what was asked for at `sent`. With its session, it is lost, so it promises no
    /// more time than that has.
    pub(crate) fn lease_of(&self, kind: Kind, sent: Moment) -> Lease {
        let ttl = self.time_of(kind).min(self.config.membership_timeout);
        let latest = self.lease.deadline().map_or(sent, |deadline| deadline - ttl * 9 / 10);
        Lease::timed(ttl, sent.min(latest))
    }

    pub(crate) fn time_of(&self, kind: Kind) -> Duration {
        match kind {
            Kind::Lock => self.config.lock_timeout,
            Kind::Term => self.config.leader_timeout,
        }
    }

    pub(crate) fn add_hold(&self, hold: &Arc<MemcachedHold>) {
        self.lock(&self.holds).insert(hold.id(), hold.clone());
        // The session may have been lost while the answer was on its way.
        if let Some(loss) = self.lease.loss() {
            hold.lease().lose(loss);
        }
    }

    pub(crate) fn remove_hold(&self, id: OperationId) {
        self.lock(&self.holds).remove(&id);
    }

    /// What could not be given back is left to expire.
    fn forget_holds(&self) {
        // They keep the session alive as long as it keeps them.
        drop(std::mem::take(&mut *self.lock(&self.holds)));
    }

    pub(crate) fn holds(&self) -> Vec<Arc<MemcachedHold>> {
        self.lock(&self.holds).values().cloned().collect()
    }

    pub(crate) fn memberships(&self) -> Vec<(GroupId, Membership)> {
        self.lock(&self.memberships).iter().map(|(g, m)| (g.clone(), m.clone())).collect()
    }

    pub(crate) fn add_membership(&self, group: &GroupId) -> Lease {
        let lease = self.lease.child();
        let membership = Membership { lease: lease.clone(), cas: 0 };
        self.lock(&self.memberships).insert(group.clone(), membership);
        lease
    }

    /// The group's item has this member, and that CAS id.
    pub(crate) fn seen_in(&self, group: &GroupId, cas: u64) {
        if let Some(membership) = self.lock(&self.memberships).get_mut(group) {
            membership.cas = cas;
        }
    }

    pub(crate) fn remove_membership(&self, group: &GroupId) {
        self.lock(&self.memberships).remove(group);
    }

    /// The server knows the session no more: it was silent for too long, its item was evicted, or the
    /// server restarted empty.
    pub(crate) fn forgotten(&self) -> Error {
        self.lease.lose(Loss::SessionEnded);
        Error::new(ErrorKind::SessionLost, "the server forgot the session")
    }

    /// Something is under way that the end of the session waits for.
    pub(crate) fn busy(self: &Arc<Self>) -> Busy {
        self.busy.send_modify(|count| *count += 1);
        Busy(self.clone())
    }

    fn lock<'a, T>(&self, mutex: &'a Mutex<T>) -> MutexGuard<'a, T> {
        // Nothing panics while it is locked, so it is whole even if poisoned.
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it; `None` if the goodbye took longer than `limit`.
    pub(crate) async fn close(self: &Arc<Self>, limit: Duration) -> Option<Result<()>> {
        if self.closed.is_cancelled() {
            return Some(Ok(()));
        }
        let said = tokio::time::timeout(limit, self.say_goodbye()).await;
        self.closed.cancel();
        self.link.end();
        self.forget_holds();
        said.ok()
    }

    /// Gives back what is left, the session last: whoever looks finds it all gone.
    async fn say_goodbye(self: &Arc<Self>) -> Result<()> {
        // Their waiting is over, and they withdraw.
        // The sender lives in `self`: the wait cannot fail.
        let _ = self.busy.subscribe().wait_for(|count| *count == 0).await;
        for hold in self.holds() {
            hold.lease().lose(Loss::GivenUp);
            hold.release().await?;
        }
        for (group, _) in self.memberships() {
            // A lost session's place is nobody's, and goes when somebody looks.
            if let Err(error) = group::take_out(self, &group).await {
                debug!(%group, %error, "the group is not left");
            }
        }
        let (session, member) = (self.session_key(), &self.member_key);
        let items = [Request::get(&session), Request::get(member)];
        let (replies, _) = self.link.call(&items).await?;
        let mut goodbye = Vec::new();
        for (reply, key) in replies.into_iter().zip([&session, member]) {
            // The sign of life may be a namesake's by now.
            let ours = |item: &Item| key == &session || item.value.ends_with(self.id.as_bytes());
            if let Some(item) = reply.item()?.filter(ours) {
                goodbye.push(Request::Delete(key.clone(), item.cas));
            }
        }
        self.link.call(&goodbye).await.map(drop)
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        local::remove_session(&self.id);
    }
}

/// As long as it lives, the session waits.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Life>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.send_modify(|count| *count -= 1);
    }
}

/// A fraction from 0 to 1, for jitter.
pub(crate) fn random_fraction() -> f64 {
    let [byte, ..] = *OperationId::random().as_bytes();
    f64::from(byte) / 255.0
}
