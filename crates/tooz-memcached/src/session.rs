//! A session: it opens, connects again to the same run of the server, and says goodbye.

use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tooz_core::kit::{InFlight, Table, goodbye, locked};
use tooz_core::{
    Characteristics, Elections, Groups, Hold as _, Lease, Locks, Loss, MemberId, Moment,
    OperationId, Result, RetryPolicy, Session, async_trait,
};
use tracing::debug;

use crate::client::Client;
use crate::config::{CHARACTERISTICS, Config};
use crate::connection::{self, Connection};
use crate::election::MemcachedElections;
use crate::epoch::Epoch;
use crate::group::{self, MemcachedGroups};
use crate::hold::MemcachedHold;
use crate::lock::MemcachedLocks;
use crate::state::{State, sign_of_life};
use crate::wire::{How, Item, RAW, Request, Seconds};
use crate::{deployment, errors, heartbeat, local};

/// A session: as long as its item is renewed, over any number of connections.
#[derive(Debug)]
pub(crate) struct MemcachedSession {
    state: Arc<State>,
    locks: MemcachedLocks,
    groups: MemcachedGroups,
    elections: MemcachedElections,
    closed: CancellationToken,
}

impl MemcachedSession {
    pub(crate) async fn open(config: Arc<Config>, member: MemberId) -> Result<Self> {
        let member_key = config.keys.member(&member)?;
        let id = OperationId::random().to_string();
        let connection = connection::open(&config).await?;
        let opening = tokio::time::timeout(config.connect_timeout, async {
            let closed_until = deployment::look_at(&connection, &config).await?;
            let epoch = connection.call_each(Epoch::begin(&config.keys, None)?).await?;
            let epoch = Epoch::begun(epoch)?;
            let sent = Moment::now();
            let ttl = Seconds::at_least(config.membership_timeout);
            let value = member.as_bytes().to_vec();
            let session = config.keys.session(&id);
            let first = [
                Request::store(&session, How::Set, RAW, ttl, value),
                sign_of_life(&config, &member_key, &id),
                Request::get(&session),
            ];
            let [stored, alive, item] = connection.call_each(first).await?;
            if let Some(error) = stored.error().or_else(|| alive.error()) {
                return Err(error);
            }
            if item.item()?.is_some_and(|item| item.cas == 0) {
                return Err(deployment::without_cas());
            }
            Ok((closed_until, epoch, sent))
        });
        let (closed_until, epoch, sent) =
            opening.await.unwrap_or_else(|_| Err(errors::no_answer()))?;
        let state = Arc::new(State {
            server: config.server(),
            lease: Lease::timed(config.membership_timeout, sent),
            client: Client::new(config.clone(), connection),
            config,
            id,
            member,
            member_key,
            closed_until,
            closed_warning: Once::new(),
            epoch: Mutex::new(epoch),
            grants: Table::default(),
            memberships: Table::default(),
            renewed: Mutex::new(sent),
            in_flight: InFlight::default(),
        });
        local::add_session(&state.id);
        let closed = CancellationToken::new();
        tokio::spawn(run(state.clone(), closed.clone()));
        Ok(Self {
            locks: MemcachedLocks(state.clone()),
            groups: MemcachedGroups(state.clone()),
            elections: MemcachedElections(state.clone()),
            state,
            closed,
        })
    }
}

// ---- Its connections.

/// Opens connection after connection until the session ends.
async fn run(state: Arc<State>, closed: CancellationToken) {
    loop {
        tokio::select! {
            () = state.client.down() => {}
            () = closed.cancelled() => return,
            // The goodbye may still be said on this connection.
            _ = state.lease.lost() => return,
        }
        state.lease.suspend();
        debug!(member = %state.member, "connection lost");
        let connection = tokio::select! {
            connection = reconnect(&state) => connection,
            () = closed.cancelled() => return,
            _ = state.lease.lost() => return state.client.end(),
        };
        let Some(connection) = connection else {
            // A CAS id of before may be somebody else's now.
            state.client.end();
            drop(state.session_lost());
            return;
        };
        state.client.connections.resume(connection);
        debug!(member = %state.member, "connected again");
        // The renewal is the proof of what is still ours.
        let state = state.clone();
        tokio::spawn(async move {
            if let Err(error) = heartbeat::renew(&state).await {
                debug!(%error, "no renewal after the reconnection");
            }
        });
    }
}

/// The next connection to the same run of the server; `None` if it has forgotten everything.
async fn reconnect(state: &State) -> Option<Connection> {
    let mut backoff =
        RetryPolicy::new(Duration::from_millis(10), Duration::from_millis(500)).backoff();
    loop {
        match connect_again(state).await {
            Ok(connection) => return connection,
            Err(error) => debug!(%error, "no new connection yet"),
        }
        backoff.pause().await;
    }
}

async fn connect_again(state: &State) -> Result<Option<Connection>> {
    let connection = connection::open(&state.config).await?;
    let answer = connection.call_each([Request::get(&state.keys().epoch())]);
    let answer = tokio::time::timeout(state.config.response_timeout, answer).await;
    let [item] = answer.unwrap_or_else(|_| Err(errors::no_answer()))?;
    let epoch = item.item()?.as_ref().map(Epoch::read).transpose()?;
    Ok((epoch.as_ref() == Some(&*locked(&state.epoch))).then_some(connection))
}

// ---- Its end.

/// Releases what is left, the session last: whoever looks finds it all gone.
async fn say_goodbye(state: &Arc<State>) -> Result<()> {
    // Their waiting is over, and they cancel.
    state.in_flight.none().await;
    for grant in state.grants.values() {
        grant.lease.lose(Loss::GivenUp);
        MemcachedHold { state: state.clone(), grant }.release().await?;
    }
    for (group, _) in state.memberships.entries() {
        // A lost session's membership is nobody's, and goes when somebody looks.
        if let Err(error) = group::remove_own(state, &group).await {
            debug!(%group, %error, "the group could not be left");
        }
    }
    let (session, member) = (state.session_key(), &state.member_key);
    let replies = state.client.call_each([Request::get(&session), Request::get(member)]).await?;
    let mut requests = Vec::new();
    for (reply, key) in replies.into_iter().zip([&session, member]) {
        // The sign of life may be a namesake's by now.
        let ours = |item: &Item| key == &session || item.value.ends_with(state.id.as_bytes());
        if let Some(item) = reply.item()?.filter(ours) {
            requests.push(Request::Delete(key.clone(), item.cas));
        }
    }
    state.client.call(&requests).await.map(drop)
}

#[async_trait]
impl Session for MemcachedSession {
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
        if self.closed.is_cancelled() {
            return Ok(());
        }
        let limit = self.state.config.response_timeout * 2;
        let said = goodbye(limit, say_goodbye(&self.state)).await;
        self.closed.cancel();
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
