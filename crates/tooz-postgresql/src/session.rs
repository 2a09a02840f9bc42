use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tooz_core::kit::{InFlight, Table, goodbye};
use tooz_core::{
    Characteristics, Elections, Groups, Hold, Lease, Locks, Loss, MemberId, Moment, Result,
    Session, async_trait,
};
use tracing::debug;

use crate::channel::Channel;
use crate::client::Client;
use crate::config::{CHARACTERISTICS, Config};
use crate::connection::{Connection, Notifications};
use crate::election::PostgresElections;
use crate::errors::{is_locked_out, is_session_lost};
use crate::group::{self, PostgresGroups};
use crate::hold::PostgresHold;
use crate::local::LocalLocks;
use crate::lock::PostgresLocks;
use crate::pool::Pool;
use crate::state::State;
use crate::{break_lock, deployment, heartbeat, keys, schema};

/// A session: as long as its main connection lives and is renewed.
#[derive(Debug)]
pub(crate) struct PostgresSession {
    state: Arc<State>,
    locks: PostgresLocks,
    groups: PostgresGroups,
    elections: PostgresElections,
}

impl PostgresSession {
    pub(crate) async fn open(config: Arc<Config>, member: MemberId) -> Result<Self> {
        keys::check_member(&member)?;
        let name = config.keys.application(&member);
        let (main, notifications) = Connection::open(&config, &name, None).await?;
        if !main.is_direct {
            let (other, _) = Connection::open(&config, &name, Some(&main)).await?;
            deployment::refuse_pooler(&main, &other).await?;
        }
        let sent = Moment::now();
        main.set_up(&config, None, config.lock_timeout()).await?;
        let grants_from = schema::ensure(&main, &config).await?;
        let lease = Lease::timed(config.timeout, sent);
        lease.stands_with(main.probe());
        let state = Arc::new(State {
            lease,
            client: Client::new(config.clone(), name, main),
            pool: Pool::default(),
            channel: Arc::new(Channel::new(config.keys.channel())),
            local: Arc::new(LocalLocks::new(config.waiters_per_lock)),
            grants: Table::default(),
            memberships: Table::default(),
            in_flight: InFlight::default(),
            closed: CancellationToken::new(),
            grants_from,
            tokens_locked: false.into(),
            config,
            member,
        });
        tokio::spawn(run(state.clone(), notifications));
        Ok(Self {
            locks: PostgresLocks(state.clone()),
            groups: PostgresGroups(state.clone()),
            elections: PostgresElections(state.clone()),
            state,
        })
    }
}

/// Hears what is sent, until the session ends.
async fn run(state: Arc<State>, mut notifications: Notifications) {
    loop {
        tokio::select! {
            Some(notification) = notifications.recv() => on_push(&state, notification.payload()),
            () = state.client.main.ended() => state.lease.lose(Loss::SessionEnded),
            _ = state.lease.lost() => return,
            () = state.closed.cancelled() => return,
        }
    }
}

fn on_push(state: &Arc<State>, message: &str) {
    if let Some(request) = message.strip_prefix(break_lock::BREAK) {
        break_lock::on_request(state, request);
    } else if message == state.keys().removal(state.client.main.key) {
        let state = state.clone();
        tokio::spawn(async move {
            if let Err(error) = heartbeat::check_memberships(&state).await {
                debug!(%error, "the next heartbeat will notice a removal");
            }
        });
    } else {
        state.channel.on_message(message);
    }
}

/// Releases what is left. The end of the connections does the rest.
async fn say_goodbye(state: &Arc<State>) -> Result<()> {
    // Their wait is over, and they cancel.
    state.in_flight.none().await;
    for grant in state.grants.values() {
        grant.lease.lose(Loss::GivenUp);
        PostgresHold { state: state.clone(), grant }.release().await?;
    }
    match group::leave_all(state, &state.client.main).await {
        // What the dead leave does not count.
        Err(error) if is_locked_out(&error) => Ok(()),
        left => left,
    }
}

/// Removes what a lost session has left of its memberships, before somebody notices.
async fn clean_up(state: &State) -> Result<()> {
    if state.memberships.is_empty() {
        return Ok(());
    }
    group::leave_all(state, &state.client.elsewhere().await?).await
}

#[async_trait]
impl Session for PostgresSession {
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
        let state = &self.state;
        if state.closed.is_cancelled() {
            return Ok(());
        }
        let said = goodbye(state.config.response_timeout, async {
            if !state.client.main.has_ended() {
                match say_goodbye(state).await {
                    // It ended meanwhile.
                    Err(error) if is_session_lost(&error) => {}
                    said => return said,
                }
            }
            clean_up(state).await
        })
        .await;
        state.closed.cancel();
        for grant in state.grants.values() {
            grant.connection(&state.client.main).close();
        }
        state.pool.clear();
        state.client.close();
        debug!(member = %state.member, "session closed");
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
