//! Locks and terms: advisory locks of a session of the server.
//!
//! What is free is taken by the main connection, in one statement. What is not is waited for on a
//! connection of its own, which blocks in the server's queue and then holds what it was given until
//! the release. It is never moved to the main connection: between the two, somebody could take it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::types::Type;
use tooz_core::{
    Acquisition, Error, FencingToken, GroupId, Hold, Lease, LockName, Locks, Loss, Moment,
    OperationId, Outcome, Result, async_trait,
};
use tracing::debug;

use crate::connection::{Connection, Parameter};
use crate::errors::{get, is_locked_out, timed_out};
use crate::hold::PostgresHold;
use crate::keys::LockKeys;
use crate::local::{InUse, OnMain};
use crate::state::{Grant, State};
use crate::{break_lock, delay, deployment};

/// The locks of a session.
#[derive(Debug)]
pub(crate) struct PostgresLocks(pub(crate) Arc<State>);

#[async_trait]
impl Locks for PostgresLocks {
    async fn acquire(&self, acquisition: Acquisition<LockName>) -> Result<Option<Arc<dyn Hold>>> {
        let keys = self.0.keys().lock(&acquisition.target);
        self.acquire_keys(acquisition.with_target(keys)).await
    }

    async fn break_lock(&self, name: &LockName) -> Result<bool> {
        let state = &self.0;
        let key = state.keys().lock(name).key;
        state.listen().await?;
        let holders = break_lock::holders(state, key).await?;
        if holders.is_empty() {
            return Ok(false);
        }
        let id = OperationId::random().to_string();
        let answers: Vec<_> = holders
            .iter()
            .map(|holder| state.channel.listener(break_lock::answer(&id, *holder)))
            .collect();
        for holder in &holders {
            let request = format!("{}{} {id} {holder}", break_lock::BREAK, key.id());
            state.channel.send(&state.client.main, &request).await?;
        }
        let end = Moment::now() + break_lock::ANSWER;
        for (holder, answer) in holders.into_iter().zip(answers) {
            break_lock::outlast(state, key, holder, answer, end).await?;
        }
        Ok(true)
    }
}

/// How long a statement may take to end before it is cancelled once more.
const AGAIN: Duration = Duration::from_millis(20);

/// The lock itself failed.
const NO_ROOM_FOR_LOCKS: &str = "53200";

const LEAD: &str = "WITH led AS (INSERT INTO tooz_leader (group_id, member_id, holder, token) \
                        VALUES ($1, $2, $3, $4) ON CONFLICT (group_id) DO UPDATE SET \
                        member_id = excluded.member_id, holder = excluded.holder, \
                        token = excluded.token RETURNING 1) \
                    SELECT pg_notify($5, $6), set_config('lock_timeout', $7, false) FROM led";

/// What was granted, and the connection that holds nothing else, if it is not the main one.
type Granted = (FencingToken, Lease, Option<Arc<Connection>>);

/// The token, if the lock was granted. The statement continues when nobody waits for the answer.
type Answer = JoinHandle<Result<Option<FencingToken>>>;

impl PostgresLocks {
    /// One round trip if it is free; if not, the wait and one more.
    pub(crate) async fn acquire_keys(
        &self,
        acquisition: Acquisition<LockKeys>,
    ) -> Result<Option<Arc<dyn Hold>>> {
        let state = &self.0;
        let _underway = state.in_flight.begin();
        if !state.may_grant(&acquisition.wait).await {
            return Ok(None);
        }
        // Somebody may want to break it. Once for each session.
        state.listen().await?;
        let local = state.local.using(acquisition.target.key);
        let granted = match self.take_on_main(&acquisition, &local).await? {
            Some(granted) => Some(granted),
            None if acquisition.wait.is_over() => None,
            None => self.take_in_queue(&acquisition, &local).await?,
        };
        let Some((token, lease, own)) = granted else { return Ok(None) };
        let Acquisition { id, target: keys, mode, wait, .. } = acquisition;
        let grant = Arc::new(Grant {
            id,
            keys,
            mode,
            token,
            lease,
            own,
            local,
            released: tokio::sync::Mutex::default(),
            release_sent: false.into(),
        });
        state.grants.insert(id, grant.clone());
        let hold = PostgresHold { state: state.clone(), grant };
        if !state.config.lock_delay.is_zero() {
            let outlasts = async {
                let connection = hold.connection();
                let LockKeys { key, term_in } = &hold.grant.keys;
                let outlasts = delay::outlast(state, connection, *key, token, &wait).await?;
                if let Some(group) = term_in.as_ref().filter(|_| outlasts) {
                    self.lead(connection, group, token).await?;
                }
                Ok(outlasts)
            };
            match outlasts.await {
                Ok(true) => {}
                refused => {
                    hold.cancel().await;
                    return refused.map(|_| None);
                }
            }
        }
        Ok(Some(Arc::new(hold)))
    }

    /// Takes what is free.
    async fn take_on_main(
        &self,
        acquisition: &Acquisition<LockKeys>,
        local: &InUse,
    ) -> Result<Option<Granted>> {
        let state = &self.0;
        let mut on_main = local.on_main.lock().await;
        // Nobody passes those who wait here already; what waits at the server, the server sees to.
        let passes = !local.waiting.is_none() && !acquisition.wait.is_over();
        if passes || !on_main.admits(acquisition.mode) {
            return Ok(None);
        }
        let sent = Moment::now();
        let LockKeys { key, .. } = acquisition.target;
        let unlock = format!("SELECT {}", key.unlock(acquisition.mode));
        let mut answer = self.ask(&acquisition.target, None, key.try_lock(acquisition.mode));
        match tokio::time::timeout(state.config.response_timeout, &mut answer).await {
            Ok(answer) => {
                let answer = answer.unwrap_or_else(|_| Err(Error::unexpected_answer()));
                if let Err(error) = &answer {
                    cancel_failed(state, *on_main, error, &unlock).await;
                }
                let Some(token) = answer? else { return Ok(None) };
                on_main.add(acquisition.mode);
                state.proven(sent);
                Ok(Some((token, state.lease.child(), None)))
            }
            Err(_) => {
                // It may be granted yet, and is released then.
                on_main.add(acquisition.mode);
                let (state, local) = (state.clone(), state.local.using(key));
                tokio::spawn(async move { cancel_late(&state, &local, answer, &unlock).await });
                Err(timed_out().outcome_is(Outcome::NotApplied))
            }
        }
    }

    /// Waits in the queue, first in that of the coordinator, then in the server's.
    async fn take_in_queue(
        &self,
        acquisition: &Acquisition<LockKeys>,
        local: &InUse,
    ) -> Result<Option<Granted>> {
        let state = &self.0;
        let _waits = local.waiting.begin();
        let ready = async {
            // It is never closed.
            let turn = local.turns.acquire().await.ok();
            let own = state.pool.take(&state.client).await?;
            Ok::<_, Error>((turn, own))
        };
        let (_turn, own) = tokio::select! {
            ready = ready => ready?,
            () = acquisition.wait.over() => return Ok(None),
        };
        let keys = &acquisition.target;
        let mut answer = self.ask(keys, Some(own.clone()), keys.key.lock(acquisition.mode));
        let answer = tokio::select! {
            answer = &mut answer => answer,
            () = acquisition.wait.over() => match cancel_wait(state, &own, answer).await {
                // Granted before the cancel came.
                Some(token) => Ok(Ok(Some(token))),
                None => return Ok(None),
            },
        };
        let Some(token) = answer.unwrap_or_else(|_| Err(Error::unexpected_answer()))? else {
            return Err(Error::unexpected_answer());
        };
        // Nobody knows how long the answer was under way, and all the while the server's time limit
        // for a silent session ran.
        let sent = Moment::now();
        match term_beside(state, keys) {
            // It waits for tables next, which are not waited for as long.
            None if !state.config.lock_delay.is_zero() => own.wait_briefly(&state.config).await?,
            None => drop(own.process_now().await?),
            Some(group) => self.lead(&own, group, token).await?,
        }
        let lease = state.lease.timed_child(state.config.timeout, sent);
        lease.stands_with(own.probe());
        let (ends, lost) = (own.clone(), lease.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = ends.ended() => lost.lose(Loss::SessionEnded),
                _ = lost.lost() => {}
            }
        });
        Ok(Some((token, lease, Some(own))))
    }

    /// The statement that takes it: on its own connection in the queue, on the main one otherwise.
    fn ask(&self, keys: &LockKeys, own: Option<Arc<Connection>>, lock: String) -> Answer {
        let state = self.0.clone();
        // Whoever waits in the queue locks no table meanwhile.
        let group = term_beside(&state, keys).filter(|_| own.is_none()).cloned();
        tokio::spawn(async move {
            let connection = own.as_deref().unwrap_or(&state.client.main);
            let (process, key) = (connection.process, connection.key);
            let on_main = own.is_none();
            let in_lane = on_main && (group.is_some() || state.tokens_locked.load(Relaxed));
            let _lane = if in_lane { connection.lane().await } else { None };
            // In this order: the token of a later acquisition is higher.
            let take = format!(
                "CASE WHEN pg_backend_pid() = $1 AND {lock}::text IN ('', 'true') \
                 THEN nextval('tooz_token') END"
            );
            let rows = match &group {
                None => {
                    let sql = format!("SELECT pg_backend_pid(), {take}");
                    let rows = connection.wait_for(&sql, &[(&process, Type::INT4)]).await;
                    if on_main {
                        let locked = rows.as_ref().is_err_and(is_locked_out);
                        state.tokens_locked.store(locked, Relaxed);
                    }
                    rows?
                }
                Some(group) => {
                    let sql = format!(
                        "WITH won AS MATERIALIZED (SELECT {take} AS token), \
                         led AS (INSERT INTO tooz_leader (group_id, member_id, holder, token) \
                            SELECT $2, $3, $4, token FROM won WHERE token IS NOT NULL \
                            ON CONFLICT (group_id) DO UPDATE SET member_id = excluded.member_id, \
                            holder = excluded.holder, token = excluded.token RETURNING 1), \
                         told AS (SELECT pg_notify($5, $6) FROM led) \
                         SELECT pg_backend_pid(), token, (SELECT count(*) FROM told) FROM won"
                    );
                    let (channel, change) = (state.keys().channel(), state.keys().change(group));
                    let parameters: [Parameter<'_>; 6] = [
                        (&process, Type::INT4),
                        (&group.as_bytes(), Type::BYTEA),
                        (&state.member.as_bytes(), Type::BYTEA),
                        (&key, Type::INT8),
                        (&channel, Type::TEXT),
                        (&change, Type::TEXT),
                    ];
                    connection.wait_for(&sql, &parameters).await?
                }
            };
            let row = rows.first().ok_or_else(Error::unexpected_answer)?;
            if get::<i32>(row, 0)? != process {
                state.lease.lose(Loss::SessionEnded);
                return Err(deployment::refusal());
            }
            let token = get::<Option<i64>>(row, 1)?;
            Ok(token.map(|token| FencingToken(token.unsigned_abs())))
        })
    }

    /// Writes who leads.
    async fn lead(&self, holder: &Connection, group: &GroupId, token: FencingToken) -> Result<()> {
        let state = &self.0;
        // A release is not to wait for the table.
        let briefly = format!("{}ms", state.config.lock_timeout().as_millis().max(1));
        let (channel, change) = (state.keys().channel(), state.keys().change(group));
        let parameters: [Parameter<'_>; 7] = [
            (&group.as_bytes(), Type::BYTEA),
            (&state.member.as_bytes(), Type::BYTEA),
            (&holder.key, Type::INT8),
            (&token.0.cast_signed(), Type::INT8),
            (&channel, Type::TEXT),
            (&change, Type::TEXT),
            (&briefly, Type::TEXT),
        ];
        holder.one(LEAD, &parameters).await.map(drop)
    }
}

/// The group whose leader is written as soon as it is granted; not if there may be a delay.
fn term_beside<'a>(state: &State, keys: &'a LockKeys) -> Option<&'a GroupId> {
    keys.term_in.as_ref().filter(|_| state.config.lock_delay.is_zero())
}

/// Releases what is granted after its acquisition ended for want of an answer.
async fn cancel_late(state: &State, local: &InUse, answer: Answer, unlock: &str) {
    let answer = answer.await;
    let mut on_main = local.on_main.lock().await;
    on_main.remove();
    match answer {
        Ok(Ok(Some(_))) => unlock_or_end(state, unlock).await,
        Ok(Err(error)) => cancel_failed(state, *on_main, &error, unlock).await,
        _ => {}
    }
}

/// A statement that failed may have taken the lock before, which stays with the session.
async fn cancel_failed(state: &State, on_main: OnMain, error: &Error, unlock: &str) {
    match error.context("sqlstate") {
        None | Some(NO_ROOM_FOR_LOCKS) => {}
        // Nobody else here has it, and to unlock what is not held does nothing.
        Some(_) if is_locked_out(error) && on_main == OnMain::Nothing => {
            unlock_or_end(state, unlock).await;
        }
        Some(_) => state.lease.lose(Loss::SessionEnded),
    }
}

async fn unlock_or_end(state: &State, unlock: &str) {
    if let Err(error) = state.client.main.ask(unlock, &[]).await {
        debug!(%error, "remnants of an acquisition end with the session");
        state.lease.lose(Loss::SessionEnded);
    }
}

/// Takes a waiter out of the queue; the token if it was granted before. The connection is not used
/// again: what was cancelled and what was granted cannot always be told apart.
async fn cancel_wait(state: &State, own: &Connection, mut answer: Answer) -> Option<FencingToken> {
    let limit = state.config.response_timeout;
    let end = Moment::now() + limit;
    // Again and again: the server forgets to end what has not reached it yet.
    while !end.has_passed() {
        let cancel = "SELECT pg_cancel_backend($1)";
        if let Err(error) = state.client.main.ask(cancel, &[(&own.process, Type::INT4)]).await {
            debug!(%error, "a waiting session will notice by itself that we are gone");
            break;
        }
        match tokio::time::timeout(AGAIN, &mut answer).await {
            Ok(Ok(Ok(token))) => return token,
            Ok(_) => break,
            Err(_) => {}
        }
    }
    answer.abort();
    own.close();
    // It holds nothing once it has ended.
    drop(tokio::time::timeout(limit, own.ended()).await);
    None
}
