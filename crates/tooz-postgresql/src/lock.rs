//! Locks and terms: advisory locks of a session of the server.
//!
//! What is free is taken by the main connection, in one statement. What is not is waited for on a
//! connection of its own, which blocks in the server's queue and then holds what it was given until
//! the release. It is never moved to the main connection: between the two, somebody could take it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::types::Type;
use tooz_core::{
    Acquisition, Error, ErrorKind, FencingToken, GroupId, Hold, Lease, LockName, Locks, Loss, Mode,
    Moment, OperationId, Outcome, Release, Result, Waiting, async_trait,
};
use tracing::debug;

use crate::connection::{Connection, Parameter};
use crate::delay;
use crate::errors::{get, is_locked_out, odd_answer, timed_out};
use crate::keys::Key;
use crate::names::{InUse, OnMain};
use crate::pooler;
use crate::rows::Rows;
use crate::session::{Life, PostgresSession};

#[async_trait]
impl Locks for PostgresSession {
    async fn acquire(&self, acquisition: Acquisition<LockName>) -> Result<Option<Arc<dyn Hold>>> {
        let Acquisition { id, target, mode, wait: waiting, .. } = acquisition;
        let (key, term_in) = (self.0.keys().lock(&target), None);
        acquire(&self.0, Attempt { id, key, term_in, mode, waiting }).await
    }

    async fn break_lock(&self, name: &LockName) -> Result<bool> {
        crate::breaking::take_away(&self.0, self.0.keys().lock(name)).await
    }
}

/// One acquisition.
#[derive(Clone)]
pub(crate) struct Attempt {
    pub(crate) id: OperationId,
    pub(crate) key: Key,
    pub(crate) mode: Mode,
    pub(crate) waiting: Waiting,
    /// The group, if it is its leadership.
    pub(crate) term_in: Option<GroupId>,
}

/// The session that a hold lives in.
#[derive(Clone, Debug)]
enum Place {
    Main,
    Extra(Arc<Connection>),
}

/// One round trip if it is free; if not, the wait and one more.
pub(crate) async fn acquire(life: &Arc<Life>, attempt: Attempt) -> Result<Option<Arc<dyn Hold>>> {
    let _attempt = life.attempts();
    if !life.may_grant(&attempt.waiting).await {
        return Ok(None);
    }
    // Somebody may want to break it. Once for each session.
    life.listen().await?;
    let name = life.names.using(attempt.key);
    let hold = match attempt.on_main(life, &name).await? {
        Some(granted) => Some(granted),
        None if attempt.waiting.is_over() => None,
        None => attempt.in_queue(life, &name).await?,
    };
    let Some((token, lease, place)) = hold else { return Ok(None) };
    let hold = Arc::new(PostgresHold {
        life: life.clone(),
        attempt,
        token,
        lease,
        place,
        name,
        given: tokio::sync::Mutex::default(),
        asked: AtomicBool::new(false),
    });
    life.add_hold(&hold);
    match hold.outlasts_the_delay().await {
        Ok(true) => Ok(Some(hold)),
        Ok(false) => {
            hold.undo().await;
            Ok(None)
        }
        Err(error) => {
            hold.undo().await;
            Err(error)
        }
    }
}

/// The question whether a connection still leads to the same session.
pub(crate) const WHO: &str = "SELECT pg_backend_pid()";

/// How long a statement may take to end before it is asked to once more.
const AGAIN: Duration = Duration::from_millis(20);

/// The lock itself failed.
const NO_ROOM_FOR_LOCKS: &str = "53200";

const LEAD: &str = "WITH led AS (INSERT INTO tooz_leader (group_id, member_id, holder, token) \
                        VALUES ($1, $2, $3, $4) ON CONFLICT (group_id) DO UPDATE SET \
                        member_id = excluded.member_id, holder = excluded.holder, \
                        token = excluded.token RETURNING 1) \
                    SELECT pg_notify($5, $6), set_config('lock_timeout', $7, false) FROM led";

/// What was granted.
type Granted = (FencingToken, Lease, Place);

impl Attempt {
    /// Takes what is free.
    async fn on_main(&self, life: &Arc<Life>, name: &InUse) -> Result<Option<Granted>> {
        let mut on_main = name.on_main.lock().await;
        // Nobody passes those who wait here already; what waits at the server, the server sees to.
        let passes = name.has_waiters() && !self.waiting.is_over();
        if passes || !on_main.admits(self.mode) {
            return Ok(None);
        }
        let sent = Moment::now();
        let mut asking = self.ask(life.clone(), None, self.key.try_lock(self.mode));
        match tokio::time::timeout(life.config.response_timeout, &mut asking).await {
            Ok(answer) => {
                let answer = answer.unwrap_or_else(|_| Err(odd_answer()));
                if let Err(error) = &answer {
                    self.undo(life, *on_main, error).await;
                }
                let Some(token) = answer? else { return Ok(None) };
                on_main.add(self.mode);
                life.proven(sent);
                Ok(Some((token, life.lease.child(), Place::Main)))
            }
            Err(_) => {
                // It may be granted yet, and is given back then.
                on_main.add(self.mode);
                tokio::spawn(self.clone().withdraw(life.clone(), asking));
                Err(timed_out().outcome_is(Outcome::NotApplied))
            }
        }
    }

    async fn withdraw(self, life: Arc<Life>, asking: JoinHandle<Result<Option<FencingToken>>>) {
        let name = life.names.using(self.key);
        let answer = asking.await;
        let mut on_main = name.on_main.lock().await;
        on_main.remove();
        match answer {
            Ok(Ok(Some(_))) => self.unlock_or_end(&life).await,
            Ok(Err(error)) => self.undo(&life, *on_main, &error).await,
            _ => {}
        }
    }

    /// A statement that failed may have taken the lock before, which stays with the session.
    async fn undo(&self, life: &Life, on_main: OnMain, error: &Error) {
        match error.context("sqlstate") {
            None | Some(NO_ROOM_FOR_LOCKS) => {}
            // It is nobody else's here, and to give up what is not held does nothing.
            Some(_) if is_locked_out(error) && on_main == OnMain::Nothing => {
                self.unlock_or_end(life).await;
            }
            Some(_) => life.lease.lose(Loss::SessionEnded),
        }
    }

    async fn unlock_or_end(&self, life: &Life) {
        if let Err(error) = life.main.ask(&self.unlock(), &[]).await {
            debug!(%error, "what is left of an acquisition ends with the session");
            life.lease.lose(Loss::SessionEnded);
        }
    }

    /// Stands in the queue, first in that of the coordinator, then in the server's.
    async fn in_queue(&self, life: &Arc<Life>, name: &InUse) -> Result<Option<Granted>> {
        let _waits = name.waits();
        let ready = async {
            // It is never closed.
            let turn = name.turns.acquire().await.ok();
            let extra = life.extras.take(&life.main).await?;
            Ok::<_, Error>((turn, extra))
        };
        let (_turn, extra) = tokio::select! {
            ready = ready => ready?,
            () = self.waiting.over() => return Ok(None),
        };
        let mut asking = self.ask(life.clone(), Some(extra.clone()), self.key.lock(self.mode));
        let answer = tokio::select! {
            answer = &mut asking => answer,
            () = self.waiting.over() => match self.give_up(life, &extra, asking).await {
                // Granted all the same.
                Some(answer) => Ok(Ok(Some(answer))),
                None => return Ok(None),
            },
        };
        let Some(token) = answer.unwrap_or_else(|_| Err(odd_answer()))? else {
            return Err(odd_answer());
        };
        // Nobody knows how long the answer was under way. While it was, the server's patience with
        // a silent session ran.
        let sent = Moment::now();
        match self.term_beside(life) {
            // It waits for tables next, which are not waited for as long.
            None if !life.config.lock_delay.is_zero() => extra.wait_briefly(&life.config).await?,
            None => drop(extra.beat(WHO).await?),
            Some(group) => self.lead(life, &extra, group, token).await?,
        }
        let lease = Lease::timed(life.config.timeout, sent);
        lease.stands_with(extra.probe());
        let (ends, lost) = (extra.clone(), lease.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = ends.ended() => lost.lose(Loss::SessionEnded),
                _ = lost.lost() => {}
            }
        });
        Ok(Some((token, lease, Place::Extra(extra))))
    }

    /// Takes a waiter out of the queue; the token if it was granted before. The connection is not
    /// used again: what was cancelled and what was granted cannot always be told apart.
    async fn give_up(
        &self,
        life: &Life,
        extra: &Connection,
        mut asking: JoinHandle<Result<Option<FencingToken>>>,
    ) -> Option<FencingToken> {
        let parameters: [Parameter<'_>; 1] = [(&extra.process, Type::INT4)];
        let limit = life.config.response_timeout;
        let end = Moment::now() + limit;
        // Again and again: the server forgets to end what has not reached it yet.
        while !end.has_passed() {
            let cancelled = life.main.ask("SELECT pg_cancel_backend($1)", &parameters).await;
            if let Err(error) = &cancelled {
                debug!(%error, "a waiting session is left to notice that we are gone");
                break;
            }
            match tokio::time::timeout(AGAIN, &mut asking).await {
                Ok(Ok(Ok(token))) => return token,
                Ok(_) => break,
                Err(_) => {}
            }
        }
        asking.abort();
        extra.close();
        // It holds nothing any more once it has ended.
        drop(tokio::time::timeout(limit, extra.ended()).await);
        None
    }

    /// The statement that takes it, by a task: it goes on when nobody waits for it.
    fn ask(
        &self,
        life: Arc<Life>,
        extra: Option<Arc<Connection>>,
        lock: String,
    ) -> JoinHandle<Result<Option<FencingToken>>> {
        // Whoever waits in the queue locks no table meanwhile.
        let group = self.term_beside(&life).filter(|_| extra.is_none()).cloned();
        tokio::spawn(async move {
            let connection = extra.as_deref().unwrap_or(&life.main);
            let (process, key) = (connection.process, connection.key);
            let on_main = extra.is_none();
            let in_lane = on_main && (group.is_some() || life.tokens_are_locked());
            let _lane = if in_lane { connection.lane().await } else { None };
            // In this order: the token of who comes later is higher.
            let take = format!(
                "CASE WHEN pg_backend_pid() = $1 AND {lock}::text IN ('', 'true') \
                 THEN nextval('tooz_token') END"
            );
            let rows = match &group {
                None => {
                    let sql = format!("SELECT pg_backend_pid(), {take}");
                    let rows = connection.wait_for(&sql, &[(&process, Type::INT4)]).await;
                    if on_main {
                        life.set_tokens_locked(rows.as_ref().is_err_and(is_locked_out));
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
                    let (channel, change) = (life.keys().channel(), life.keys().change(group));
                    let parameters: [Parameter<'_>; 6] = [
                        (&process, Type::INT4),
                        (&group.as_bytes(), Type::BYTEA),
                        (&life.member.as_bytes(), Type::BYTEA),
                        (&key, Type::INT8),
                        (&channel, Type::TEXT),
                        (&change, Type::TEXT),
                    ];
                    connection.wait_for(&sql, &parameters).await?
                }
            };
            let row = rows.first().ok_or_else(odd_answer)?;
            if get::<i32>(row, 0)? != process {
                life.lease.lose(Loss::SessionEnded);
                return Err(pooler::refusal());
            }
            let token = get::<Option<i64>>(row, 1)?;
            Ok(token.map(|token| FencingToken(token.unsigned_abs())))
        })
    }

    /// The group whose leader is written as soon as it is granted; not if there may be a delay.
    fn term_beside(&self, life: &Life) -> Option<&GroupId> {
        self.term_in.as_ref().filter(|_| life.config.lock_delay.is_zero())
    }

    /// Writes who leads.
    async fn lead(
        &self,
        life: &Life,
        holder: &Connection,
        group: &GroupId,
        token: FencingToken,
    ) -> Result<()> {
        // A release is not to wait for the table.
        let briefly = format!("{}ms", life.config.lock_timeout().as_millis().max(1));
        let (channel, change) = (life.keys().channel(), life.keys().change(group));
        let parameters: [Parameter<'_>; 7] = [
            (&group.as_bytes(), Type::BYTEA),
            (&life.member.as_bytes(), Type::BYTEA),
            (&holder.key, Type::INT8),
            (&token.0.cast_signed(), Type::INT8),
            (&channel, Type::TEXT),
            (&change, Type::TEXT),
            (&briefly, Type::TEXT),
        ];
        holder.one(LEAD, &parameters).await.map(drop)
    }

    fn unlock(&self) -> String {
        format!("SELECT {}", self.key.unlock(self.mode))
    }
}

/// A lock or a term that is ours.
pub(crate) struct PostgresHold {
    life: Arc<Life>,
    attempt: Attempt,
    token: FencingToken,
    lease: Lease,
    place: Place,
    name: InUse,
    /// Whether it was given back. Locked while that is done.
    given: tokio::sync::Mutex<bool>,
    /// Whether the server was asked to take it back, and may have done so.
    asked: AtomicBool,
}

impl PostgresHold {
    pub(crate) fn id(&self) -> OperationId {
        self.attempt.id
    }

    pub(crate) fn key(&self) -> Key {
        self.attempt.key
    }

    fn connection(&self) -> &Connection {
        match &self.place {
            Place::Main => &self.life.main,
            Place::Extra(connection) => connection,
        }
    }

    /// The server's process that holds it.
    pub(crate) fn process(&self) -> i32 {
        self.connection().process
    }

    /// The connection that is to be renewed for it alone.
    pub(crate) fn extra(&self) -> Option<&Arc<Connection>> {
        match &self.place {
            Place::Main => None,
            Place::Extra(connection) => Some(connection),
        }
    }

    /// Ends it with its connection, at the end of the session.
    pub(crate) fn abandon(&self) {
        self.connection().close();
    }

    /// Whether it is granted: it is not if the waiting is over before the delay that the end of
    /// an earlier holder has left.
    async fn outlasts_the_delay(&self) -> Result<bool> {
        if self.life.config.lock_delay.is_zero() {
            return Ok(true);
        }
        let connection = self.connection();
        if !delay::outlast(&self.life, connection, self.key(), self.token, &self.attempt.waiting)
            .await?
        {
            return Ok(false);
        }
        if let Some(group) = &self.attempt.term_in {
            self.attempt.lead(&self.life, connection, group, self.token).await?;
        }
        Ok(true)
    }

    /// Gives back what nobody was told of.
    async fn undo(&self) {
        self.lease.lose(Loss::GivenUp);
        if let Err(error) = self.release().await {
            debug!(%error, "what is left of an acquisition ends with its session");
            match &self.place {
                Place::Main => self.life.lease.lose(Loss::SessionEnded),
                Place::Extra(connection) => connection.close(),
            }
        }
    }

    /// Whether it was ours.
    async fn unlock(&self) -> Result<bool> {
        let again = self.asked.swap(true, Relaxed);
        let (key, mode, connection) = (self.attempt.key, self.attempt.mode, self.connection());
        let row = match self.rows() {
            None => connection.one(&self.attempt.unlock(), &[]).await?,
            Some(rows) => match rows.remove(&self.life, connection, &key.unlock(mode)).await {
                // The lock must not wait for the table.
                Err(error) if is_locked_out(&error) => {
                    tokio::spawn(rows.remove_later(self.life.clone()));
                    connection.one(&self.attempt.unlock(), &[]).await?
                }
                row => row?,
            },
        };
        // What a repeated request finds undone was done by the first.
        Ok(get::<bool>(&row, 0)? || again)
    }

    /// What the tables say of it, if anything.
    fn rows(&self) -> Option<Rows> {
        let term_in = self.attempt.term_in.clone();
        let says = term_in.is_some() || !self.life.config.lock_delay.is_zero();
        says.then_some(Rows { term_in, token: self.token })
    }
}

#[async_trait]
impl Hold for PostgresHold {
    fn token(&self) -> FencingToken {
        self.token
    }

    fn lease(&self) -> &Lease {
        &self.lease
    }

    async fn verify(&self) -> Result<bool> {
        let mode = match self.attempt.mode {
            Mode::Exclusive => "ExclusiveLock",
            Mode::Shared => "ShareLock",
        };
        let sql = format!(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE {} AND pid = pg_backend_pid() \
             AND mode = '{mode}') AND pg_backend_pid() = $1",
            self.attempt.key.in_pg_locks()
        );
        let process = self.process();
        let rows = self.connection().read(&sql, &[(&process, Type::INT4)]).await?;
        get(rows.first().ok_or_else(odd_answer)?, 0)
    }

    async fn release(&self) -> Result<Release> {
        let mut given = self.given.lock().await;
        if *given {
            return Ok(Release::WasLost);
        }
        let released = match &self.place {
            Place::Main => {
                let mut on_main = self.name.on_main.lock().await;
                let released = self.unlock().await?;
                on_main.remove();
                released
            }
            Place::Extra(connection) => match self.unlock().await {
                Ok(released) => {
                    // One with rows waits for nothing any more, so it is of no use to a waiter.
                    if self.rows().is_none() {
                        self.life.extras.give_back(connection.clone());
                    } else {
                        connection.close();
                    }
                    released
                }
                // It was lost with its own session.
                Err(error) if error.kind() == ErrorKind::SessionLost => false,
                Err(error) => return Err(error),
            },
        };
        *given = true;
        self.life.remove_hold(self.id());
        Ok(if released { Release::Released } else { Release::WasLost })
    }
}

impl fmt::Debug for PostgresHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresHold")
            .field("id", &self.attempt.id)
            .field("token", &self.token)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}
