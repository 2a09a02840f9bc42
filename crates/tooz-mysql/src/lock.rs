//! Acquiring: an attempt on the main connection, and a wait on one of its own.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use tooz_core::{
    Acquisition, Error, ErrorKind, FencingToken, Hold, LockName, Locks, Mode, Moment, Result,
    async_trait,
};

use crate::connection::{Connection, Reply, number};
use crate::errors::{no_verdict, session_over};
use crate::hold::MySqlHold;
use crate::keys::{self, LockKeys};
use crate::state::{Grant, Granted, State};
use crate::{break_lock, delay, queue, shared};

/// The locks of a session.
#[derive(Debug)]
pub(crate) struct MySqlLocks(pub(crate) Arc<State>);

#[async_trait]
impl Locks for MySqlLocks {
    async fn acquire(&self, acquisition: Acquisition<LockName>) -> Result<Option<Arc<dyn Hold>>> {
        let keys = self.0.config.keys.lock(&acquisition.target)?;
        self.acquire_keys(acquisition.with_target(keys)).await
    }

    async fn break_lock(&self, name: &LockName) -> Result<bool> {
        let state = &self.0;
        let keys = state.config.keys.lock(name)?;
        // The session does not close before the rows by which the holders are told are gone.
        let _underway = state.begin()?;
        let holders = break_lock::holders(state, &keys).await?;
        if holders.is_empty() {
            return Ok(false);
        }
        let outlasted = break_lock::outlast(state, &keys, &holders).await;
        let told: Vec<_> =
            holders.iter().filter_map(|(_, id)| Some(keys::literal(id.as_deref()?))).collect();
        if !told.is_empty() {
            let (table, told) = (state.table("broken"), told.join(","));
            let forget = format!("DELETE FROM {table} WHERE operation IN ({told})");
            state.client.change(&forget).await?;
        }
        outlasted.map(|()| true)
    }
}

impl MySqlLocks {
    pub(crate) async fn acquire_keys(
        &self,
        acquisition: Acquisition<LockKeys>,
    ) -> Result<Option<Arc<dyn Hold>>> {
        let state = &self.0;
        let _underway = state.begin()?;
        if let Some(until) = state.grants_from.filter(|until| !until.has_passed()) {
            tokio::select! {
                () = until.wait() => {}
                () = acquisition.wait.over() => return Ok(None),
                () = state.client.over() => return Err(session_over()),
            }
        }
        let turn = tokio::select! {
            biased; // The first attempt is made even if the wait is over already.
            turn = state.local.turn(&acquisition.target, acquisition.mode) => turn,
            () = acquisition.wait.over() => return Ok(None),
            () = state.client.over() => return Err(session_over()),
        };
        let granted = match acquisition.mode {
            Mode::Exclusive => self.take_exclusive(&acquisition).await?,
            Mode::Shared => shared::register(state, &acquisition).await?,
        };
        let granted = match granted {
            None if !acquisition.wait.is_over() => self.take_in_queue(&acquisition).await?,
            granted => granted,
        };
        let granted = match granted {
            Some(granted) if !state.config.lock_delay.is_zero() => {
                delay::outlast(state, &acquisition, granted).await?
            }
            granted => granted,
        };
        let Some(Granted { token, lease, connection }) = granted else { return Ok(None) };
        let Acquisition { id, target: keys, mode, .. } = acquisition;
        let turn = Mutex::new(Some(turn));
        let grant = Arc::new(Grant { id, keys, mode, token, lease, connection, turn });
        state.grants.insert(id, grant.clone());
        state.occupied.notify_one();
        let hold = MySqlHold { state: state.clone(), grant };
        // The session may have been lost meanwhile, and nobody else ends what this holds alone.
        if let Some(loss) = state.lease.loss() {
            hold.end(loss);
        }
        Ok(Some(Arc::new(hold)))
    }

    /// One round trip: the named lock, unless somebody has it or there are shared holders, and the
    /// token.
    async fn take_exclusive(&self, acquisition: &Acquisition<LockKeys>) -> Result<Option<Granted>> {
        let name = acquisition.target.sql();
        let sql = format!(
            "SELECT CAST(GET_LOCK({name},0) AS SIGNED);{token};\
             DO IF(ROW_COUNT(),0,RELEASE_LOCK({name}))",
            token = self.token_unless_shared(acquisition),
        );
        let reply = self.0.client.take(&name, &sql, &acquisition.wait).await?;
        match number(&reply.rows, 0) {
            Some(0) => Ok(None),
            Some(_) => Ok(token(&reply)?.map(|token| self.0.granted_on_main(token))),
            None => Err(no_verdict()),
        }
    }

    /// In SQL: a token if the connection has the named lock, unless there are shared holders. A
    /// statement of its own, which sees what was there when the lock was got.
    fn token_unless_shared(&self, acquisition: &Acquisition<LockKeys>) -> String {
        let name = acquisition.target.sql();
        let condition = format!(
            "IS_USED_LOCK({name})<=>CONNECTION_ID() AND \
             NOT EXISTS(SELECT 1 FROM {reader} WHERE name={name} AND {lives})",
            reader = self.0.table("reader"),
            lives = keys::lives("r", "operation", "connection"),
        );
        self.0.next_token(acquisition, &condition)
    }

    /// Waits on a connection of its own, where the server has the queue and wakes the next; `None`
    /// when the wait ended. A lock that was waited for keeps the connection that waited, for the
    /// server gives it to none other.
    async fn take_in_queue(&self, acquisition: &Acquisition<LockKeys>) -> Result<Option<Granted>> {
        let connection = self.0.pool.take(&self.0.client).await?;
        let result = self.take_on(acquisition, &connection).await;
        match &result {
            Ok(Some(granted)) if granted.connection.number == connection.number => {}
            _ if connection.is_dead() => connection.abandon(),
            _ => connection.close().await,
        }
        result
    }

    async fn take_on(
        &self,
        acquisition: &Acquisition<LockKeys>,
        connection: &Connection,
    ) -> Result<Option<Granted>> {
        let state = &self.0;
        let name = acquisition.target.sql();
        if !queue::wait_for(state, connection, &name, &acquisition.wait).await? {
            return Ok(None);
        }
        if acquisition.mode == Mode::Shared {
            // Registered before the named lock is free again.
            return shared::register_behind(state, acquisition).await;
        }
        loop {
            match self.take_waited(acquisition, connection).await {
                Ok(ControlFlow::Break(granted)) => return Ok(granted),
                Ok(ControlFlow::Continue(())) => {}
                // A table is locked; the named lock is ours meanwhile.
                Err(error)
                    if error.kind() == ErrorKind::TimedOut
                        && !connection.is_dead()
                        && !acquisition.wait.is_over() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// On a connection that waited for the named lock and has it: what is granted, or a wait until
    /// the shared holders are gone. It keeps the named lock meanwhile, so that no further ones get in.
    async fn take_waited(
        &self,
        acquisition: &Acquisition<LockKeys>,
        connection: &Connection,
    ) -> Result<ControlFlow<Option<Granted>>> {
        let state = &self.0;
        let sql = format!(
            "SELECT CAST(IS_USED_LOCK({name})<=>CONNECTION_ID() AS SIGNED);{token}",
            name = acquisition.target.sql(),
            token = self.token_unless_shared(acquisition),
        );
        let sent = Moment::now();
        let reply = connection.change_and_reply(&sql).await?;
        if number(&reply.rows, 0) != Some(1) {
            return Err(session_over());
        }
        if let Some(token) = token(&reply)? {
            let lease = state.lease.timed_child(state.config.timeout, sent);
            let connection = connection.clone();
            return Ok(ControlFlow::Break(Some(Granted { token, lease, connection })));
        }
        Ok(match shared::outwait(state, acquisition, connection).await? {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(None),
        })
    }
}

/// The token that the second of the statements drew; `None` if shared holders are left. On the main
/// connection the named lock is free again then.
fn token(reply: &Reply) -> Result<Option<FencingToken>> {
    let drawn = reply.results.get(1).ok_or_else(Error::unexpected_answer)?;
    Ok((drawn.rows_affected() > 0).then(|| FencingToken(drawn.last_insert_id())))
}
