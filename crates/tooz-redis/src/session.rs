use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::{PushKind, Value};
use tokio_util::sync::CancellationToken;
use tooz_core::{
    Characteristic, Characteristics, Elections, Error, ErrorKind, GroupId, Groups, Hold, Lease,
    Locks, Loss, MemberId, Moment, OperationId, Outcome, Result, Session, async_trait,
};
use tracing::{debug, warn};

use crate::config::Config;
use crate::connection::{Opened, Pushes, ServerInfo};
use crate::keys::{self, Keys};
use crate::link::Link;
use crate::lock::RedisHold;
use crate::push::Listeners;
use crate::scripts::Script;
use crate::{errors, heartbeat};

/// How far the server's clock may run from ours between two renewals, in seconds.
const CLOCKS: f64 = 1.0;

/// A session: as long as its member's beat is renewed, over any number of connections.
#[derive(Debug)]
pub(crate) struct RedisSession(pub(crate) Arc<Life>);

/// What the session's tasks and holds share.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) config: Arc<Config>,
    pub(crate) id: OperationId,
    pub(crate) member: MemberId,
    /// Of the deployment as it was found at the start.
    characteristics: Characteristics,
    pub(crate) lease: Lease,
    pub(crate) link: Link,
    pub(crate) listeners: Arc<Listeners>,
    /// Locked while a channel is subscribed to or left, so that the two never cross.
    pub(crate) subscribing: tokio::sync::Mutex<()>,
    holds: Mutex<HashMap<OperationId, Arc<RedisHold>>>,
    /// With the operation of each join.
    memberships: Mutex<HashMap<GroupId, (OperationId, Lease)>>,
    /// The server's clock in milliseconds as the last renewal found it, and when that was sent and
    /// answered.
    clock: Mutex<Option<(i64, Moment, Moment)>>,
    closed: CancellationToken,
}

impl RedisSession {
    pub(crate) async fn open(config: Arc<Config>, member: MemberId) -> Result<Self> {
        keys::check_member(&member)?;
        let id = OperationId::random();
        let listeners = Arc::new(Listeners::new(config.keys.session_channel(id)));
        let beat = heartbeat::beat(&config, (id, &member), &[], true);
        let (link, pushes, server, sent) =
            Link::open(config.clone(), &listeners.channels(), &beat).await?;
        let characteristics = ensured(&server, &config);
        let life = Arc::new(Life {
            characteristics,
            lease: Lease::timed(config.membership_timeout, sent),
            config,
            id,
            member,
            link,
            listeners,
            subscribing: tokio::sync::Mutex::default(),
            holds: Mutex::default(),
            memberships: Mutex::default(),
            clock: Mutex::default(),
            closed: CancellationToken::new(),
        });
        tokio::spawn(life.clone().tend(pushes));
        Ok(Self(life))
    }
}

/// What this deployment ensures, with the reasons for what it does not.
fn ensured(server: &ServerInfo, config: &Config) -> Characteristics {
    let mut ensured = crate::DRIVER.characteristics;
    if server.replicas > 0 && config.wait_replicas == 0 {
        // What depended on a lock may be seen where the lock is not.
        ensured = ensured.without(Characteristics::of(&[Characteristic::Causal]));
        warn!(
            replicas = server.replicas,
            "a failover may forget the newest locks: see the option wait_replicas"
        );
    }
    if server.eviction.starts_with("allkeys") || server.eviction.starts_with("volatile") {
        warn!(policy = server.eviction, "the server may evict locks when its memory is full");
    }
    ensured
}

impl Life {
    pub(crate) fn keys(&self) -> &Keys {
        &self.config.keys
    }

    // ---- The connection.

    /// Hears what is pushed, and opens connection after connection until the session ends.
    async fn tend(self: Arc<Self>, mut pushes: Pushes) {
        loop {
            tokio::select! {
                () = self.hear(&mut pushes) => {}
                () = self.link.down() => {}
                () = self.closed.cancelled() => return self.link.end(),
                _ = self.lease.lost() => return self.end_lost(),
            }
            self.link.suspend();
            self.lease.suspend();
            debug!(member = %self.member, "connection lost");
            pushes = tokio::select! {
                pushes = self.reconnect() => pushes,
                () = self.closed.cancelled() => return self.link.end(),
                _ = self.lease.lost() => {
                    self.link.end();
                    return self.end_lost();
                }
            };
            // Renewals are the proof of what is still ours; waiters and watches look for
            // themselves. Beside the pushes, which must not wait for it.
            let life = self.clone();
            tokio::spawn(async move {
                if let Err(error) = heartbeat::renew(&life).await {
                    debug!(%error, "no renewal after the reconnection");
                }
                life.listeners.wake_all();
            });
        }
    }

    async fn hear(&self, pushes: &mut Pushes) {
        while let Some(push) = pushes.recv().await {
            if push.kind == PushKind::Disconnection {
                return;
            }
            self.listeners.hear(&push);
        }
    }

    async fn reconnect(&self) -> Pushes {
        let mut pause = Duration::from_millis(10);
        loop {
            // Nobody subscribes in between, so the connection has all channels.
            let subscribing = self.subscribing.lock().await;
            match self.link.reopen(&self.listeners.channels()).await {
                Ok(Opened { connection, pushes, closed, .. }) => {
                    self.link.resume(connection, closed);
                    debug!(member = %self.member, "connected again");
                    return pushes;
                }
                Err(error) => debug!(%error, "no new connection yet"),
            }
            drop(subscribing);
            tokio::time::sleep(pause.mul_f64(0.5 + random_fraction() / 2.0)).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    /// With the session, everything that it held is lost.
    fn end_lost(&self) {
        let loss = self.lease.loss().unwrap_or(Loss::SessionEnded);
        for hold in self.lock(&self.holds).values() {
            hold.lease().lose(loss);
        }
    }

    /// Says so when the server's clock ran otherwise than ours since the last renewal. What expires
    /// at the server does so by that clock.
    pub(crate) fn compare_clocks(&self, now: i64, sent: Moment) {
        let answered = Moment::now();
        let last = self.lock(&self.clock).replace((now, sent, answered));
        let Some((before, last_sent, last_answered)) = last else { return };
        let between = |from: Moment, to: Moment| from.elapsed().saturating_sub(to.elapsed());
        let ours = (between(last_answered, sent), between(last_sent, answered));
        let jump = jump((now - before) as f64 / 1000.0, ours);
        if jump.abs() > CLOCKS {
            warn!(
                seconds = jump,
                "the server's clock jumped: what it keeps expires too early or too late by that"
            );
        }
    }

    // ---- What is held.

    /// The lease of a lock that was asked for at `sent`. With its session, a lock is lost, so it
    /// promises no more time than that has.
    pub(crate) fn lease_of_lock(&self, sent: Moment) -> Lease {
        let session = self.config.membership_timeout;
        let ttl = self.config.lock_timeout.min(session);
        // A grant renews the session too. That wakes everybody who waits, so not each time.
        if self.lease.deadline().is_some_and(|deadline| deadline < sent + session * 8 / 10) {
            self.lease.renewed(sent);
        }
        let latest = self.lease.deadline().map_or(sent, |deadline| deadline - ttl * 9 / 10);
        Lease::timed(ttl, sent.min(latest))
    }

    pub(crate) fn add_hold(&self, hold: &Arc<RedisHold>) {
        self.listeners.add_holder(hold.id(), hold.lease());
        self.lock(&self.holds).insert(hold.id(), hold.clone());
        // The session may have been lost while the answer was on its way.
        if let Some(loss) = self.lease.loss() {
            hold.lease().lose(loss);
        }
    }

    pub(crate) fn remove_hold(&self, id: OperationId) {
        self.listeners.remove_holder(id);
        self.lock(&self.holds).remove(&id);
    }

    pub(crate) fn holds(&self) -> Vec<Arc<RedisHold>> {
        self.lock(&self.holds).values().cloned().collect()
    }

    pub(crate) fn memberships(&self) -> Vec<(GroupId, Lease)> {
        let memberships = self.lock(&self.memberships);
        memberships.iter().map(|(group, (_, lease))| (group.clone(), lease.clone())).collect()
    }

    pub(crate) fn add_membership(&self, group: &GroupId, by: OperationId) -> Lease {
        self.remove_membership(group);
        let lease = self.lease.child();
        self.listeners.add_holder(by, &lease);
        self.lock(&self.memberships).insert(group.clone(), (by, lease.clone()));
        lease
    }

    pub(crate) fn remove_membership(&self, group: &GroupId) {
        if let Some((by, _)) = self.lock(&self.memberships).remove(group) {
            self.listeners.remove_holder(by);
        }
    }

    /// The server knows the session no more: it was silent for too long, or the server restarted
    /// empty.
    pub(crate) fn forgotten(&self) -> Error {
        self.lease.lose(Loss::SessionEnded);
        Error::new(ErrorKind::SessionLost, "the server forgot the session")
    }

    fn lock<'a, T>(&self, mutex: &'a Mutex<T>) -> MutexGuard<'a, T> {
        // Nothing panics while it is locked, so it is whole even if poisoned.
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives back what is left, the beat last: whoever is woken finds it all gone.
    async fn say_goodbye(&self) -> Result<()> {
        // Their waiting is over, and they withdraw.
        self.listeners.no_waiters().await;
        let mut goodbye = Vec::new();
        for hold in self.holds() {
            hold.lease().lose(Loss::GivenUp);
            goodbye.push(hold.release_command());
            self.remove_hold(hold.id());
        }
        let mut keys = vec![self.keys().session(self.id), self.keys().beat(&self.member)];
        let mut arguments = vec![self.id.to_string().into_bytes(), self.member.as_bytes().to_vec()];
        for (group, _) in self.memberships() {
            keys.push(self.keys().group(&group));
            keys.push(self.keys().group_companion(&group));
            arguments.push(self.keys().group_channel(&group));
            self.remove_membership(&group);
        }
        goodbye.push(Script::Close.call(&keys, &arguments));
        self.link.call_all(&goodbye).await.map(drop)
    }
}

/// By how many seconds a clock went ahead of ours, when the time that it showed to have passed is
/// compared with the least and the most that have.
fn jump(theirs: f64, (least, most): (Duration, Duration)) -> f64 {
    theirs - theirs.clamp(least.as_secs_f64(), most.max(least).as_secs_f64())
}

/// A fraction from 0 to 1, for jitter.
pub(crate) fn random_fraction() -> f64 {
    let [byte, ..] = *OperationId::random().as_bytes();
    f64::from(byte) / 255.0
}

pub(crate) fn milliseconds(time: Duration) -> String {
    time.as_millis().to_string()
}

/// The numbers that an array of a script's answer consists of.
pub(crate) fn numbers(value: &Value) -> Result<Vec<i64>> {
    let Value::Array(values) = value else { return Err(errors::odd_answer()) };
    let number = |value: &Value| match value {
        Value::Int(number) => Ok(*number),
        _ => Err(errors::odd_answer()),
    };
    values.iter().map(number).collect()
}

#[async_trait]
impl Session for RedisSession {
    fn lease(&self) -> &Lease {
        &self.0.lease
    }

    fn characteristics(&self) -> Characteristics {
        self.0.characteristics
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
        self.0.link.end();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_is_what_no_slow_answer_explains() {
        let ours = (Duration::from_secs(9), Duration::from_secs(11));
        for (theirs, expected) in [(10.0, 0.0), (11.0, 0.0), (71.0, 60.0), (-51.0, -60.0)] {
            assert_eq!(jump(theirs, ours), expected, "{theirs}");
        }
    }
}
