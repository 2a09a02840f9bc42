//! A session: it opens, hears what is pushed, connects again, and says goodbye.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::{PushInfo, PushKind, Value};
use tokio_util::sync::CancellationToken;
use tooz_core::kit::{InFlight, Table, goodbye};
use tooz_core::{
    Characteristic, Characteristics, Elections, Groups, Lease, Locks, Loss, MemberId, OperationId,
    Result, RetryPolicy, Session, async_trait,
};
use tracing::{debug, warn};

use crate::client::Client;
use crate::config::{CHARACTERISTICS, Config};
use crate::connection::{self, Pushes};
use crate::election::RedisElections;
use crate::group::RedisGroups;
use crate::heartbeat;
use crate::keys;
use crate::lock::RedisLocks;
use crate::scripts::Script;
use crate::server::ServerInfo;
use crate::state::{State, Wake};

/// A session: as long as its member's heartbeat is renewed, over any number of connections.
#[derive(Debug)]
pub(crate) struct RedisSession {
    state: Arc<State>,
    /// Of the deployment as it was found at the start.
    characteristics: Characteristics,
    locks: RedisLocks,
    groups: RedisGroups,
    elections: RedisElections,
    closed: CancellationToken,
}

impl RedisSession {
    pub(crate) async fn open(config: Arc<Config>, member: MemberId) -> Result<Self> {
        keys::check_member(&member)?;
        let id = OperationId::random();
        let first = heartbeat::signs_of_life(&config, (id, &member), &[], true);
        let channels = [config.keys.session_channel(id)];
        let opened = connection::open(&config, &channels, Some(&first)).await?;
        let characteristics = characteristics(&opened.server, &config);
        let state = Arc::new(State {
            id,
            member,
            lease: Lease::timed(config.membership_timeout, opened.sent),
            client: Client::new(config.clone(), opened.connection),
            config,
            grants: Table::default(),
            memberships: Table::default(),
            waiters: Table::default(),
            watches: Table::default(),
            subscribing: tokio::sync::Mutex::default(),
            in_flight: InFlight::default(),
            clock: Mutex::default(),
        });
        let closed = CancellationToken::new();
        tokio::spawn(run(state.clone(), opened.pushes, closed.clone()));
        Ok(Self {
            characteristics,
            locks: RedisLocks(state.clone()),
            groups: RedisGroups(state.clone()),
            elections: RedisElections(state.clone()),
            state,
            closed,
        })
    }
}

/// What this deployment ensures, with the reasons for what it does not.
fn characteristics(server: &ServerInfo, config: &Config) -> Characteristics {
    let mut ensured = CHARACTERISTICS;
    if server.replicas > 0 && config.wait_replicas == 0 {
        // What depended on a lock may be seen where the lock is not.
        ensured = ensured.without(Characteristics::of(&[Characteristic::Causal]));
        warn!(
            replicas = server.replicas,
            "a failover may lose the newest locks: see the option wait_replicas"
        );
    }
    if server.eviction.starts_with("allkeys") || server.eviction.starts_with("volatile") {
        warn!(policy = server.eviction, "the server may evict locks when its memory is full");
    }
    ensured
}

// ---- Its connections.

/// Hears what is pushed, and opens connection after connection until the session ends.
async fn run(state: Arc<State>, mut pushes: Pushes, closed: CancellationToken) {
    let connections = &state.client.connections;
    loop {
        tokio::select! {
            () = listen(&state, &mut pushes) => {}
            () = connections.down() => {}
            () = closed.cancelled() => return,
            // The goodbye may still be said on this connection.
            _ = state.lease.lost() => return,
        }
        if let Some(present) = connections.present() {
            connections.suspend(&present);
        }
        state.lease.suspend();
        debug!(member = %state.member, "connection lost");
        pushes = tokio::select! {
            pushes = reconnect(&state) => pushes,
            () = closed.cancelled() => return,
            _ = state.lease.lost() => {
                connections.end();
                return;
            }
        };
        // Renewals are the proof of what is still ours; waiters and watches look for themselves.
        // Beside the pushes, which must not wait for it.
        let state = state.clone();
        tokio::spawn(async move {
            if let Err(error) = heartbeat::renew(&state).await {
                debug!(%error, "no renewal after the reconnection");
            }
            wake_all(&state);
        });
    }
}

async fn reconnect(state: &State) -> Pushes {
    let mut backoff =
        RetryPolicy::new(Duration::from_millis(10), Duration::from_millis(500)).backoff();
    loop {
        // Nobody subscribes in between, so the connection has all channels.
        let subscribing = state.subscribing.lock().await;
        let mut channels = vec![state.keys().session_channel(state.id)];
        channels.extend(state.watches.entries().into_iter().map(|(channel, _)| channel));
        match connection::open(&state.config, &channels, None).await {
            Ok(opened) => {
                state.client.connections.resume(opened.connection);
                debug!(member = %state.member, "connected again");
                return opened.pushes;
            }
            Err(error) => debug!(%error, "no new connection yet"),
        }
        drop(subscribing);
        backoff.pause().await;
    }
}

// ---- What is pushed.

/// Passes on what is pushed, until the connection ends.
async fn listen(state: &State, pushes: &mut Pushes) {
    let own_channel = state.keys().session_channel(state.id);
    while let Some(push) = pushes.recv().await {
        match push.kind {
            PushKind::Disconnection => return,
            PushKind::Message => on_message(state, &own_channel, &push),
            _ => {}
        }
    }
}

fn on_message(state: &State, own_channel: &[u8], push: &PushInfo) {
    let [Value::BulkString(channel), Value::BulkString(message), ..] = &push.data[..] else {
        return;
    };
    if channel != own_channel {
        if let Some(changes) = state.watches.get(channel) {
            changes.send_replace(());
        }
        return;
    }
    let Some((what, operation)) =
        std::str::from_utf8(message).ok().and_then(|message| message.split_once(':'))
    else {
        return;
    };
    let operation = operation.to_owned();
    let wake = |wake| {
        if let Some(waiter) = state.waiters.get(&operation) {
            // An error means that it waits no longer.
            let _ = waiter.send(wake);
        }
    };
    match what {
        "granted" => wake(Wake::Now),
        "check" => wake(Wake::Overdue),
        "broken" => on_broken(state, &operation),
        _ => {}
    }
}

/// Somebody broke a lock of ours, or removed our member from a group.
fn on_broken(state: &State, operation: &String) {
    let grant = state.grants.get(operation).map(|grant| grant.lease.clone());
    let mut memberships = state.memberships.values().into_iter();
    let membership = || memberships.find(|it| it.joined_by == *operation).map(|it| it.lease);
    if let Some(lease) = grant.or_else(membership) {
        lease.lose(Loss::Taken);
    }
}

/// Messages may have been missed: everybody is to look.
fn wake_all(state: &State) {
    for waiter in state.waiters.values() {
        // An error means that it waits no longer.
        let _ = waiter.send(Wake::Now);
    }
    for changes in state.watches.values() {
        changes.send_replace(());
    }
}

// ---- Its end.

/// Releases what is left, the heartbeat last: whoever is woken finds it all gone.
async fn say_goodbye(state: &State) -> Result<()> {
    // Their waiting is over, and they cancel.
    state.in_flight.none().await;
    let mut requests = Vec::new();
    for (_, grant) in state.grants.take_all() {
        grant.lease.lose(Loss::GivenUp);
        requests.push(state.grant_request(Script::Release, &grant));
    }
    let names = state.keys();
    let mut keys = vec![names.session(state.id), names.heartbeat(&state.member)];
    let mut arguments = vec![state.id.to_string().into_bytes(), state.member.as_bytes().to_vec()];
    for (group, _) in state.memberships.take_all() {
        keys.extend([names.group(&group), names.group_companion(&group)]);
        arguments.push(names.group_channel(&group));
    }
    requests.push(Script::Close.call(&keys, &arguments));
    state.client.call_all(&requests).await.map(drop)
}

#[async_trait]
impl Session for RedisSession {
    fn lease(&self) -> &Lease {
        &self.state.lease
    }

    fn characteristics(&self) -> Characteristics {
        self.characteristics
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
        self.state.client.connections.end();
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
