use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tooz_core::kit::{InFlight, Table, goodbye};
use tooz_core::{
    Characteristics, Elections, Error, Groups, Hold, Lease, Locks, Loss, MemberId, Result, Session,
    async_trait,
};
use tracing::{debug, warn};

use crate::client::{Client, Watch};
use crate::config::{CHARACTERISTICS, Config};
use crate::connection::Connector;
use crate::election::EtcdElections;
use crate::group::EtcdGroups;
use crate::heartbeat;
use crate::hold::EtcdHold;
use crate::keys;
use crate::lock::EtcdLocks;
use crate::state::State;
use crate::txn::{Event, Op, Range, Txn};

/// A session: one lease, over any number of connections.
#[derive(Debug)]
pub(crate) struct EtcdSession {
    state: Arc<State>,
    locks: EtcdLocks,
    groups: EtcdGroups,
    elections: EtcdElections,
}

impl EtcdSession {
    pub(crate) async fn open(
        config: Arc<Config>,
        connector: Arc<dyn Connector>,
        member: MemberId,
    ) -> Result<Self> {
        keys::check_member(&member)?;
        let client = Client::new(config.clone(), connector);
        client.set_opening(true);
        let (id, sent) = client.grant().await?;
        let lease = Lease::timed(config.session_ttl(), sent);
        client.serve(&lease);
        let state = Arc::new(State {
            config,
            client,
            member,
            id,
            lease,
            grants: Table::default(),
            memberships: Table::default(),
            operations: Table::default(),
            joins: InFlight::default(),
            closed: CancellationToken::new(),
        });
        match announce(&state).await {
            Ok(watch) => {
                state.client.set_opening(false);
                tokio::spawn(run(state.clone(), watch));
                Ok(Self {
                    locks: EtcdLocks(state.clone()),
                    groups: EtcdGroups(state.clone()),
                    elections: EtcdElections(state.clone()),
                    state,
                })
            }
            Err(error) => {
                state.client.end();
                tokio::spawn(async move { state.client.revoke(id).await });
                Err(error)
            }
        }
    }

    /// Ends the lease at the server, and with it all that is attached to it. Locks that are shared
    /// outlive it, so they go first.
    async fn say_goodbye(&self) -> Result<()> {
        for grant in self.state.grants.values() {
            grant.lease.lose(Loss::GivenUp);
            if grant.readers_lease.is_some() {
                EtcdHold { state: self.state.clone(), grant }.release().await?;
            }
        }
        self.state.client.revoke(self.state.id).await
    }
}

/// Puts the session's own key and watches it.
async fn announce(state: &State) -> Result<Watch> {
    let put = Op::put(&state.keys().session(state.id), state.member.as_bytes(), state.id);
    state.client.txn(&Txn::of(vec![put])).await?;
    watch(state).await
}

async fn watch(state: &State) -> Result<Watch> {
    state.client.watch(Range::prefix(state.keys().session(state.id))).await
}

async fn watch_again(state: &State) -> Watch {
    loop {
        match watch(state).await {
            Ok(watch) => return watch,
            Err(error) => debug!(%error, "no watch yet"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Learns when the session ends at the server, a lock is broken or a membership removed, over one
/// watch after the other, until the session is over.
async fn run(state: Arc<State>, mut watch: Watch) {
    loop {
        tokio::select! {
            error = read_notices(&state, &mut watch) => {
                debug!(member = %state.member, %error, "the session's watch ended");
            }
            () = state.closed.cancelled() => break,
            _ = state.lease.lost() => break,
        }
        watch = tokio::select! {
            watch = watch_again(&state) => watch,
            () = state.closed.cancelled() => break,
            _ = state.lease.lost() => break,
        };
        // What happened meanwhile shows in what is still attached to the lease.
        let state = state.clone();
        tokio::spawn(async move {
            if let Err(error) = heartbeat::renew(&state).await {
                debug!(%error, "no renewal after the reconnection");
            }
        });
    }
    state.client.end();
}

/// Reads until the watch ends; why it did.
async fn read_notices(state: &Arc<State>, watch: &mut Watch) -> Error {
    let own = state.keys().session(state.id);
    loop {
        let events = match watch.next().await {
            Ok(events) => events,
            Err(error) => return error,
        };
        for event in events {
            match event {
                Event::Deleted { key, .. } if key == own => {
                    state.lease.lose(Loss::SessionEnded);
                }
                Event::Put(notice) if notice.key.len() > own.len() => {
                    on_notice(state, &notice.key[own.len() + 1..]);
                    let (state, key) = (state.clone(), Range::key(notice.key));
                    tokio::spawn(async move {
                        // Else it goes with the session.
                        let _ = state.client.txn(&Txn::of(vec![key.delete()])).await;
                    });
                }
                _ => {}
            }
        }
    }
}

/// The lock that this operation acquired was broken, or the membership of this revision removed.
fn on_notice(state: &State, what: &[u8]) {
    for grant in state.grants.values() {
        if grant.id.to_string().as_bytes() == what {
            warn!(member = %state.member, "a lock was broken");
            grant.lease.lose(Loss::Taken);
        }
    }
    for (group, membership) in state.memberships.entries() {
        if membership.revision.to_string().as_bytes() == what {
            state.membership_lost(&group, &membership);
        }
    }
}

#[async_trait]
impl Session for EtcdSession {
    fn lease(&self) -> &Lease {
        &self.state.lease
    }

    fn characteristics(&self) -> Characteristics {
        CHARACTERISTICS
    }

    fn heartbeat_interval(&self) -> Option<Duration> {
        Some(self.state.config.heartbeat_interval())
    }

    async fn heartbeat(&self) -> Result<()> {
        heartbeat::renew(&self.state).await
    }

    async fn close(&self) -> Result<()> {
        if self.state.closed.is_cancelled() {
            return Ok(());
        }
        let said = goodbye(self.state.config.response_timeout * 2, self.say_goodbye()).await;
        self.state.closed.cancel();
        self.state.client.end();
        said
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
