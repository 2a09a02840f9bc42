use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tooz_core::kit::{InFlight, Table, goodbye};
use tooz_core::{
    Characteristics, Elections, Groups, Hold, Lease, Locks, Loss, MemberId, Result, Session,
    async_trait,
};
use tooz_http::Request;
use tracing::debug;

use crate::client::SessionInfo;
use crate::config::{CHARACTERISTICS, Config};
use crate::election::ConsulElections;
use crate::group::ConsulGroups;
use crate::heartbeat;
use crate::hold::ConsulHold;
use crate::lock::ConsulLocks;
use crate::poll::{Poller, pause_after};
use crate::presence::{self, Presence};
use crate::state::State;
use crate::weak_table::WeakTable;

/// How long to wait before asking again about a session that the servers know and do not show.
const UNSEEN: Duration = Duration::from_secs(5);

/// A session: as long as Consul's own sessions live.
#[derive(Debug)]
pub(crate) struct ConsulSession {
    state: Arc<State>,
    locks: ConsulLocks,
    groups: ConsulGroups,
    elections: ConsulElections,
}

impl ConsulSession {
    pub(crate) async fn open(
        config: Arc<Config>,
        poller: Arc<Poller>,
        member: MemberId,
    ) -> Result<Self> {
        let (presence, opened) = Presence::open(&poller.client, &config, &member).await?;
        let state = Arc::new(State {
            lease: Lease::timed(config.ttl, opened),
            client: poller.client.clone(),
            heartbeats: poller.client.for_heartbeats(),
            config,
            poller,
            member,
            presence,
            grants: Table::default(),
            memberships: Table::default(),
            in_flight: InFlight::default(),
            closed: CancellationToken::new(),
            local_locks: WeakTable::new(),
        });
        for session in state.presence.sessions() {
            tokio::spawn(watch_over(state.clone(), session.to_owned()));
        }
        Ok(Self {
            locks: ConsulLocks(state.clone()),
            groups: ConsulGroups(state.clone()),
            elections: ConsulElections(state.clone()),
            state,
        })
    }
}

/// Tells the loss of a session as soon as the servers do.
async fn watch_over(state: Arc<State>, session: String) {
    tokio::select! {
        () = end(&state, &session) => state.lease.lose(Loss::SessionEnded),
        _ = state.lease.lost() => {}
        () = state.closed.cancelled() => {}
    }
}

/// Waits until the servers say that a session is over.
async fn end(state: &State, session: &str) {
    let client = &state.heartbeats;
    let node = loop {
        let request = Request::get(format!("/v1/session/info/{session}"));
        let info = client.call(request, &[]).await.and_then(|answer| answer.json());
        let renewed = match info.map(|mut info: Vec<SessionInfo>| info.pop()) {
            Ok(Some(info)) => break info.node,
            Ok(None) => presence::renew(client, session).await,
            Err(error) => Err(error),
        };
        match renewed {
            Ok(false) => return,
            Ok(true) => tokio::time::sleep(UNSEEN).await,
            // Whatever it is: the heartbeats tell if it is serious.
            Err(error) => pause_after(&error).await,
        }
    };
    let sessions = state.poller.sessions_of(&node);
    let (mut living, mut seen) = (sessions.living(), false);
    loop {
        let lives = living.borrow_and_update().as_ref().map(|living| living.contains(session));
        match lives {
            Some(false) if seen => return,
            // What is known may be older than the session.
            Some(false) if matches!(presence::renew(client, session).await, Ok(false)) => return,
            Some(true) => seen = true,
            Some(false) | None => {}
        }
        if living.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

async fn say_goodbye(state: &Arc<State>) -> Result<()> {
    // Before the session ends: what a dying session has is subject to the lock-delay. That is as it
    // should be after a loss, of which whoever works under the lock may not know yet.
    let is_lost = !state.lease.is_held();
    for grant in state.grants.values() {
        if is_lost && grant.cohort.is_none() {
            state.remove(&grant);
            continue;
        }
        grant.lease.lose(Loss::GivenUp);
        let hold = ConsulHold { state: state.clone(), grant };
        if let Err(error) = hold.release().await {
            debug!(%error, "a lock is left to its session's end");
        }
    }
    state.memberships.take_all();
    state.in_flight.none().await;
    state.presence.close(&state.client).await
}

#[async_trait]
impl Session for ConsulSession {
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
        self.state.closed.cancel();
        goodbye(self.state.config.write_timeout(), say_goodbye(&self.state)).await
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
