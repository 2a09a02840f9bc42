use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tooz_core::kit::{InFlight, Table, locked};
use tooz_core::{
    Characteristics, Elections, Groups, Lease, Locks, Loss, MemberId, Moment, Result, Session,
    async_trait,
};
use tracing::debug;

use crate::client::Client;
use crate::config::Config;
use crate::connection::bytes;
use crate::election::MySqlElections;
use crate::group::MySqlGroups;
use crate::hold::MySqlHold;
use crate::local::LocalLocks;
use crate::lock::MySqlLocks;
use crate::pool::Pool;
use crate::state::State;
use crate::{deployment, heartbeat, keys, listener, schema};

/// A session: as long as its main connection lives and is heard of at the server.
#[derive(Debug)]
pub(crate) struct MySqlSession {
    state: Arc<State>,
    locks: MySqlLocks,
    groups: MySqlGroups,
    elections: MySqlElections,
}

impl MySqlSession {
    pub(crate) async fn open(config: Arc<Config>, member: MemberId) -> Result<Self> {
        keys::check_member(&member)?;
        let (main, characteristics) = deployment::open(&config).await?;
        let grants_from = match schema::ensure(&main, &config).await {
            Ok(grants_from) => grants_from,
            Err(error) => {
                main.close().await;
                return Err(error);
            }
        };
        let lease = Lease::timed(config.timeout, Moment::now());
        let state = Arc::new(State {
            client: Client::new(config.clone(), lease.clone(), main),
            pool: Arc::new(Pool::new(config.timeout)),
            local: LocalLocks::default(),
            grants: Table::default(),
            memberships: Table::default(),
            in_flight: InFlight::default(),
            occupied: Notify::new(),
            listening: Mutex::default(),
            grants_from,
            characteristics,
            config,
            member,
            lease,
        });
        if let Err(error) = introduce(&state).await {
            state.client.main.close().await;
            return Err(error);
        }
        tokio::spawn(run(state.clone()));
        *locked(&state.listening) = Some(tokio::spawn(listener::run(state.clone())));
        Ok(Self {
            locks: MySqlLocks(state.clone()),
            groups: MySqlGroups(state.clone()),
            elections: MySqlElections(state.clone()),
            state,
        })
    }
}

/// Makes the session known, and reaps some that are over.
async fn introduce(state: &State) -> Result<()> {
    let (table, lives) = (state.table("session"), keys::lives("s", "id", "connection"));
    let (main, id, member) = (&state.client.main, state.session_sql(), state.member_sql());
    let sql = format!(
        "INSERT INTO {table}(id,connection,member_id) VALUES({id},{number},{member});\
         SELECT id FROM {table} WHERE NOT {lives} LIMIT 10",
        number = main.number,
    );
    let over = main.change(&sql).await?;
    let over: Vec<_> = over.iter().filter_map(|row| Some(keys::literal(&bytes(row, 0)?))).collect();
    if !over.is_empty() {
        let sql = format!("DELETE FROM {table} WHERE id IN ({})", over.join(","));
        main.change(&sql).await?;
    }
    Ok(())
}

/// Notices what the server does not push: that a connection has ended which waited for a lock. The
/// rest as well, should the [`listener`] not be there.
async fn run(state: Arc<State>) {
    let client = &state.client;
    // Until then, a table that is locked is left alone: to look keeps others waiting.
    let mut locked_until = Moment::now();
    loop {
        tokio::select! {
            () = client.closed.cancelled() => return,
            _ = state.lease.lost() => break,
            () = client.main.died() => break,
            () = tokio::time::sleep(state.config.poll_interval) => {}
        }
        if state.grants.is_empty() && state.memberships.is_empty() {
            continue;
        }
        if !locked_until.has_passed() {
            heartbeat::touch(&state).await;
        } else if let Err(error) = heartbeat::check(&state).await {
            debug!(%error, "it is not known whether locks were broken");
            locked_until = Moment::now() + state.config.heartbeat_interval();
        }
    }
    state.lease.lose(Loss::SessionEnded);
    debug!(member = %state.member, "session lost");
    // Connections of their own hold locks at the server for longer.
    let loss = state.lease.loss().unwrap_or(Loss::SessionEnded);
    for grant in state.grants.values() {
        MySqlHold { state: state.clone(), grant }.end(loss);
    }
    client.main.abandon();
}

/// Releases what is left. Whoever is woken by the last of it finds it all gone.
async fn say_goodbye(state: &Arc<State>) {
    // They cancel.
    state.in_flight.none().await;
    let grants = state.grants.values();
    let holds = grants.into_iter().map(|grant| MySqlHold { state: state.clone(), grant });
    let holds: Vec<_> = holds.collect();
    let main = &state.client.main;
    let sql = format!(
        "DELETE FROM {member} WHERE session={id};DELETE FROM {reader} WHERE connection={number};\
         DELETE FROM {session} WHERE id={id}",
        member = state.table("member"),
        reader = state.table("reader"),
        session = state.table("session"),
        id = state.session_sql(),
        number = main.number,
    );
    if let Err(error) = main.change(&sql).await {
        debug!(%error, "rows of the session are left, but have no effect");
    }
    for hold in &holds {
        if let Err(error) = hold.grant.connection.change(&hold.free()).await {
            debug!(%error, "not released: the end of the connection does it");
        }
    }
    for hold in holds {
        hold.grant.lease.lose(Loss::GivenUp);
        if state.is_own(&hold.grant.connection) {
            hold.grant.connection.close().await;
        }
        hold.finish_and_close();
    }
    state.pool.clear().await;
    main.close().await;
    // It wakes when the main connection is gone.
    let listening = locked(&state.listening).take();
    if let Some(listening) = listening {
        let _ = listening.await;
    }
}

#[async_trait]
impl Session for MySqlSession {
    fn lease(&self) -> &Lease {
        &self.state.lease
    }

    fn characteristics(&self) -> Characteristics {
        self.state.characteristics
    }

    fn heartbeat_interval(&self) -> Option<Duration> {
        Some(self.state.config.heartbeat_interval())
    }

    async fn heartbeat(&self) -> Result<()> {
        heartbeat::renew(&self.state).await
    }

    async fn close(&self) -> Result<()> {
        let state = &self.state;
        if !state.client.is_open() {
            return Ok(());
        }
        state.client.closed.cancel();
        let limit = state.config.response_timeout * 2;
        if tokio::time::timeout(limit, say_goodbye(state)).await.is_err() {
            state.client.main.abandon();
        }
        state.lease.lose(Loss::GivenUp);
        Ok(())
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
