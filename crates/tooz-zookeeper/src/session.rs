use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tooz_core::{
    Characteristics, Elections, Error, ErrorKind, GroupId, Groups, Lease, Locks, Loss, MemberId,
    Moment, Outcome, Result, Session, async_trait,
};
use tracing::{debug, warn};
use zookeeper_client::{Client, CreateMode, Error as Cause, SessionState, Stat, StateWatcher};

use crate::config::Config;
use crate::connection;
use crate::errors::{foreign_session, settle, translate};
use crate::link::Link;
use crate::paths::Paths;
use crate::pool::Pool;

/// How often a session is renewed within its time to live. Each renewal tells what the server
/// knows; the client notices a dead connection by itself after two fifths.
const BEATS: u32 = 4;

/// A session of the server, over any number of connections.
#[derive(Debug)]
pub(crate) struct ZooKeeperSession(pub(crate) Arc<Life>);

/// What the session's tasks and holds share.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) config: Arc<Config>,
    pub(crate) member: MemberId,
    pub(crate) lease: Lease,
    pub(crate) link: Link,
    pub(crate) pool: Pool,
    /// The server's number of it: the owner of our ephemeral nodes.
    id: i64,
    /// As the server granted it.
    ttl: Duration,
    memberships: Mutex<HashMap<GroupId, Lease>>,
}

impl ZooKeeperSession {
    pub(crate) async fn open(config: Arc<Config>, member: MemberId) -> Result<Self> {
        config.paths.check_member(&member)?;
        let client = connection::open(&config).await?;
        let (id, ttl) = (client.session_id().0, client.session_timeout());
        if ttl > config.timeout * 2 {
            warn!(
                asked = config.timeout.as_secs_f64(),
                granted = ttl.as_secs_f64(),
                "the server keeps dead sessions for longer: see its minSessionTimeout"
            );
        }
        let sent = Moment::now();
        let prepared =
            tokio::time::timeout(config.connect_timeout, prepare(&client, &config, &member));
        prepared.await.unwrap_or(Err(Cause::Timeout)).map_err(|cause| match cause {
            Cause::NoNode if !config.chroot.is_empty() => {
                Error::invalid("the chroot does not exist on the server")
                    .with("chroot", &config.chroot)
            }
            cause => translate(cause),
        })?;
        let lease = Lease::timed(ttl, sent);
        let link = Link::new(client, lease.clone());
        let (memberships, pool) =
            (Mutex::default(), Pool::new(config.watch_room(), config.chroot.len()));
        let life = Arc::new(Life { config, member, lease, link, pool, id, ttl, memberships });
        if let Some(states) = life.link.states() {
            tokio::spawn(life.clone().tend(states));
        }
        life.watch_over(life.own_node(), life.lease.clone());
        Ok(Self(life))
    }
}

/// Makes the namespace and the node that says that we are here, and sees whether we may use both.
async fn prepare(client: &Client, config: &Config, member: &MemberId) -> Result<(), Cause> {
    let paths = &config.paths;
    let node = paths.session(client.session_id().0);
    let options = config.node(CreateMode::Ephemeral);
    loop {
        let made = client.create(&node, member.as_bytes(), &options);
        let seen = client.list_children(paths.base());
        let (made, seen) = (made.await.map_err(settle), seen.await.map_err(settle));
        match made {
            Err(Cause::NoNode) => {
                let options = config.node(CreateMode::Persistent);
                match client.mkdir(&paths.sessions(), &options).await.map_err(settle) {
                    Ok(()) | Err(Cause::ConnectionLoss) => {}
                    Err(cause) => return Err(cause),
                }
            }
            Err(Cause::ConnectionLoss) => {}
            // It exists when the reply to an earlier request was lost.
            Err(Cause::NodeExists) | Ok(_) => match seen {
                Err(Cause::ConnectionLoss) => {}
                seen => return seen.map(drop),
            },
            Err(cause) => return Err(cause),
        }
    }
}

impl Life {
    pub(crate) fn paths(&self) -> &Paths {
        &self.config.paths
    }

    /// Follows the state of the connection to the end of the session.
    async fn tend(self: Arc<Self>, mut states: StateWatcher) {
        loop {
            let state = tokio::select! {
            state = states.changed() => state,
            () = self.link.closed() => return,};
            match state {
                SessionState::Disconnected => {
                    debug!(member = %self.member, "connection lost");
                    self.lease.suspend();
                }
                SessionState::SyncConnected => {
                    let life = self.clone();
                    tokio::spawn(async move { life.renew_after_reconnection().await });
                }
                SessionState::Expired | SessionState::AuthFailed | SessionState::Closed => {
                    return self.lease.lose(Loss::SessionEnded);
                }
                _ => {}
            }
        }
    }

    /// When the connection and the session's end at the server cross, the server takes the
    /// connection and drops what comes over it without a word: another one tells.
    async fn renew_after_reconnection(&self) {
        let renewed = async {
            if let Err(error) = self.renew().await {
                debug!(%error, "no renewal after the reconnection");
            }
        };
        let elsewhere = async {
            tokio::time::sleep(UNANSWERED).await;
            match self.is_there().await {
                Ok(true) => {}
                Ok(false) => self.lease.lose(Loss::SessionEnded),
                Err(error) => debug!(%error, "it is not known whether the session is there"),
            }
            std::future::pending().await
        };
        tokio::select! {
            () = renewed => {}
            () = elsewhere => {}
        }
    }

    /// Whether the server still has the session, asked over a connection of its own.
    async fn is_there(&self) -> Result<bool> {
        let client = connection::open(&self.config).await?;
        let node = self.own_node();
        let stat = async {
            client.sync(&node).await?;
            client.check_stat(&node).await
        };
        let stat = tokio::time::timeout(self.config.connect_timeout, stat).await;
        let stat = stat.unwrap_or(Err(Cause::Timeout)).map_err(|cause| translate(settle(cause)))?;
        Ok(stat.is_some_and(|stat| self.owns(&stat)))
    }

    /// Hears from the leader of the servers that it has the session. The reply to a mere read comes
    /// from a server that may be cut off from the others.
    async fn renew(&self) -> Result<()> {
        let sent = Moment::now();
        match self.link.once(|client| async move { client.sync("/").await }).await {
            Ok(()) => {
                self.lease.renewed(sent);
                Ok(())
            }
            Err(cause) => Err(translate(cause)),
        }
    }

    /// Whether this session, and no other that took its place, made a node.
    pub(crate) fn owns(&self, stat: &Stat) -> bool {
        stat.ephemeral_owner == self.id
    }

    /// Fails when a node that we just made belongs to another session.
    pub(crate) fn must_own(&self, stat: &Stat) -> Result<()> {
        if self.owns(stat) {
            return Ok(());
        }
        self.lease.lose(Loss::SessionEnded);
        Err(foreign_session())
    }

    /// The node that says that we are here, and goes with the session. The server may serve a
    /// connection on after the session's end, and confirm its renewals, when the two cross.
    fn own_node(&self) -> String {
        self.paths().session(self.id)
    }

    /// Loses `lease` when the node that it depends on is gone.
    pub(crate) fn watch_over(self: &Arc<Self>, node: String, lease: Lease) {
        let life = self.clone();
        tokio::spawn(async move {
            let node = [node];
            while lease.is_held() {
                match life.watch_data(&node).await.map(|mut found| found.pop().flatten()) {
                    Ok(Some((_, stat, watch))) if life.owns(&stat) => {
                        // It is gone with the node, also when we delete it ourselves.
                        if watch.changed().await {
                            return;
                        }
                    }
                    Ok(_) => return lease.lose(life.why_gone().await),
                    Err(error) => {
                        if !error.is_retryable() {
                            return;
                        }
                        debug!(%error, "a node of ours is not watched yet");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        });
    }

    /// Whether a node of ours went with the session or alone.
    async fn why_gone(&self) -> Loss {
        let own = &*self.own_node();
        match self.link.call(|client| async move { client.check_stat(own).await }).await {
            Ok(None) => Loss::SessionEnded,
            _ => Loss::Taken,
        }
    }

    pub(crate) fn membership(&self, group: &GroupId) -> Option<Lease> {
        self.memberships().get(group).filter(|lease| lease.is_held()).cloned()
    }

    pub(crate) fn add_membership(self: &Arc<Self>, group: &GroupId, node: String) -> Lease {
        let lease = self.lease.child();
        self.watch_over(node, lease.clone());
        self.memberships().insert(group.clone(), lease.clone());
        lease
    }

    pub(crate) fn remove_membership(&self, group: &GroupId) {
        if let Some(lease) = self.memberships().remove(group) {
            lease.lose(Loss::GivenUp);
        }
    }

    fn memberships(&self) -> MutexGuard<'_, HashMap<GroupId, Lease>> {
        // Nothing panics while it is locked, so it is whole even if poisoned.
        self.memberships.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// After this time without an answer another connection is asked whether the session is there.
const UNANSWERED: Duration = Duration::from_millis(500);

/// Between attempts of background work.
pub(crate) const PAUSE: Duration = Duration::from_millis(200);

#[async_trait]
impl Session for ZooKeeperSession {
    fn lease(&self) -> &Lease {
        &self.0.lease
    }

    fn characteristics(&self) -> Characteristics {
        crate::DRIVER.characteristics
    }

    fn heartbeat_interval(&self) -> Option<Duration> {
        Some(self.0.ttl / BEATS)
    }

    async fn heartbeat(&self) -> Result<()> {
        self.0.renew().await
    }

    async fn close(&self) -> Result<()> {
        let Some(client) = self.0.link.close() else { return Ok(()) };
        self.0.pool.close();
        let mut states = client.state_watcher();
        if client.state().is_terminated() {
            return Ok(());
        }
        // The last clone: the client says goodbye.
        drop(client);
        let ended = async { while !states.changed().await.is_terminated() {} };
        tokio::time::timeout(self.0.ttl, ended).await.map_err(|_| {
            Error::new(ErrorKind::TimedOut, "the server did not answer the goodbye")
                .outcome_is(Outcome::Unknown)
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
