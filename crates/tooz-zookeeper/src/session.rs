use std::sync::Arc;
use std::time::Duration;

use tooz_core::kit::{Table, goodbye};
use tooz_core::{
    Characteristics, Elections, Error, Groups, Lease, Locks, Loss, MemberId, Moment, Result,
    Session, async_trait,
};
use tracing::{debug, warn};
use zookeeper_client::{Client, CreateMode, Error as Cause, SessionState, StateWatcher};

use crate::client::SessionClient;
use crate::config::{CHARACTERISTICS, Config};
use crate::connection;
use crate::election::ZooKeeperElections;
use crate::errors::{normalize, translate};
use crate::group::ZooKeeperGroups;
use crate::lock::ZooKeeperLocks;
use crate::pool::Pool;
use crate::state::State;
use crate::watch::watch_over;

/// How often a session is renewed within its time to live. Each renewal tells what the server
/// knows; the client notices a dead connection by itself after two fifths.
const RENEWALS: u32 = 4;

/// After this time without an answer another connection is asked whether the session is there.
const UNANSWERED: Duration = Duration::from_millis(500);

/// A session of the server, over any number of connections.
#[derive(Debug)]
pub(crate) struct ZooKeeperSession {
    state: Arc<State>,
    locks: ZooKeeperLocks,
    groups: ZooKeeperGroups,
    elections: ZooKeeperElections,
}

impl ZooKeeperSession {
    pub(crate) async fn open(config: Arc<Config>, member: MemberId) -> Result<Self> {
        config.keys.check_member(&member)?;
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
        let client = Arc::new(SessionClient::new(client, lease.clone()));
        let pool = Pool::new(config.clone(), member.clone(), client.clone());
        let memberships = Table::default();
        let state = Arc::new(State { config, member, lease, client, pool, id, ttl, memberships });
        if let Some(states) = state.client.states() {
            tokio::spawn(run(state.clone(), states));
        }
        watch_over(&state, state.own_node(), state.lease.clone());
        Ok(Self {
            locks: ZooKeeperLocks(state.clone()),
            groups: ZooKeeperGroups(state.clone()),
            elections: ZooKeeperElections(state.clone()),
            state,
        })
    }
}

/// Makes the namespace and the node that says that we are here, and sees whether we may use both.
async fn prepare(client: &Client, config: &Config, member: &MemberId) -> Result<(), Cause> {
    let keys = &config.keys;
    let node = keys.session(client.session_id().0);
    let options = config.node(CreateMode::Ephemeral);
    loop {
        let made = client.create(&node, member.as_bytes(), &options);
        let seen = client.list_children(keys.base());
        let (made, seen) = (made.await.map_err(normalize), seen.await.map_err(normalize));
        match made {
            Err(Cause::NoNode) => {
                let options = config.node(CreateMode::Persistent);
                match client.mkdir(&keys.sessions(), &options).await.map_err(normalize) {
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

/// Follows the state of the connection to the end of the session.
async fn run(state: Arc<State>, mut states: StateWatcher) {
    loop {
        let now = tokio::select! {
            now = states.changed() => now,
            () = state.client.closed() => return,
        };
        match now {
            SessionState::Disconnected => {
                debug!(member = %state.member, "connection lost");
                state.lease.suspend();
            }
            SessionState::SyncConnected => {
                let state = state.clone();
                tokio::spawn(async move { renew_after_reconnection(&state).await });
            }
            SessionState::Expired | SessionState::AuthFailed | SessionState::Closed => {
                return state.lease.lose(Loss::SessionEnded);
            }
            _ => {}
        }
    }
}

/// When the connection and the session's end at the server cross, the server takes the connection
/// and drops what comes over it without a word: another one tells.
async fn renew_after_reconnection(state: &State) {
    let renewed = async {
        if let Err(error) = renew(state).await {
            debug!(%error, "no renewal after the reconnection");
        }
    };
    let elsewhere = async {
        tokio::time::sleep(UNANSWERED).await;
        match is_there(state).await {
            Ok(true) => {}
            Ok(false) => state.lease.lose(Loss::SessionEnded),
            Err(error) => debug!(%error, "it is not known whether the session still exists"),
        }
        std::future::pending().await
    };
    tokio::select! {
        () = renewed => {}
        () = elsewhere => {}
    }
}

/// Whether the server still has the session, asked over a connection of its own.
async fn is_there(state: &State) -> Result<bool> {
    let client = connection::open(&state.config).await?;
    let node = state.own_node();
    let stat = async {
        client.sync(&node).await?;
        client.check_stat(&node).await
    };
    let stat = tokio::time::timeout(state.config.connect_timeout, stat).await;
    let stat = stat.unwrap_or(Err(Cause::Timeout)).map_err(|cause| translate(normalize(cause)))?;
    Ok(stat.is_some_and(|stat| state.owns(&stat)))
}

/// Learns from the leader of the servers that it has the session. The reply to a mere read comes
/// from a server that may be cut off from the others.
async fn renew(state: &State) -> Result<()> {
    let sent = Moment::now();
    let synced = state.client.once(|client| async move { client.sync("/").await });
    synced.await.map_err(translate)?;
    state.lease.renewed(sent);
    Ok(())
}

#[async_trait]
impl Session for ZooKeeperSession {
    fn lease(&self) -> &Lease {
        &self.state.lease
    }

    fn characteristics(&self) -> Characteristics {
        CHARACTERISTICS
    }

    fn heartbeat_interval(&self) -> Option<Duration> {
        Some(self.state.ttl / RENEWALS)
    }

    async fn heartbeat(&self) -> Result<()> {
        renew(&self.state).await
    }

    async fn close(&self) -> Result<()> {
        let Some(client) = self.state.client.close() else { return Ok(()) };
        self.state.pool.close();
        let mut states = client.state_watcher();
        if client.state().is_terminated() {
            return Ok(());
        }
        // The last clone: the client says goodbye.
        drop(client);
        let ended = async {
            while !states.changed().await.is_terminated() {}
            Ok(())
        };
        goodbye(self.state.ttl, ended).await
    }

    fn locks(&self) -> Option<&dyn Locks> {
        Some(&self.locks)
    }

    fn groups(&self) -> Option<&dyn Groups> {
        Some(&self.groups)
    }

    fn elections(&self) -> Option<&dyn Elections> {
        Some(&self.elections)
    }
}
