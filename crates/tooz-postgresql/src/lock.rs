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
    Error, ErrorKind, FencingToken, GroupId, Hold, Lease, Loss, Mode, Moment, OperationId, Outcome,
    Release, Result, Waiting, async_trait,
};
use tracing::debug;

use crate::connection::{Connection, Parameter};
use crate::errors::{get, odd_answer, timed_out};
use crate::keys::Key;
use crate::names::InUse;
use crate::pooler;
use crate::session::Life;

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
    // Somebody may want to break it. Once for each session.
    life.listen().await?;
    let name = life.names.using(attempt.key);
    let hold = match attempt.on_main(life, &name).await? {
        Some(granted) => Some(granted),
        None if attempt.waiting.is_over() => None,
        None => attempt.in_queue(life, &name).await?,
    };
    Ok(hold.map(|(token, lease, place)| {
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
        hold as Arc<dyn Hold>
    }))
}

/// A statement that fails after it took the lock leaves it with the session, which nobody would
/// know of.
fn may_hold(life: &Life, error: &Error) {
    let failed = error.context("sqlstate");
    if failed.is_some_and(|sqlstate| sqlstate != NO_ROOM_FOR_LOCKS) {
        life.lease.lose(Loss::SessionEnded);
    }
}

/// How long a statement may take to end before it is asked to once more.
const AGAIN: Duration = Duration::from_millis(20);

/// The lock itself failed.
const NO_ROOM_FOR_LOCKS: &str = "53200";

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
                let Some(token) = answer.inspect_err(|error| may_hold(life, error))? else {
                    return Ok(None);
                };
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
        let granted = asking.await.is_ok_and(|answer| answer.is_ok_and(|token| token.is_some()));
        let mut on_main = name.on_main.lock().await;
        if granted && let Err(error) = life.main.ask(&self.unlock(), &[]).await {
            debug!(%error, "what is left of an acquisition ends with the session");
            return life.lease.lose(Loss::SessionEnded);
        }
        on_main.remove();
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
        extra.one("SELECT pg_backend_pid()", &[]).await?;
        let lease = Lease::timed(life.config.timeout, sent);
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
        let group = self.term_in.clone();
        tokio::spawn(async move {
            let connection = extra.as_deref().unwrap_or(&life.main);
            let (process, key) = (connection.process, connection.key);
            // In this order: the token of who comes later is higher.
            let take = format!(
                "CASE WHEN pg_backend_pid() = $1 AND {lock}::text IN ('', 'true') \
                 THEN nextval('tooz_token') END"
            );
            let rows = match &group {
                None => {
                    let sql = format!("SELECT pg_backend_pid(), {take}");
                    connection.wait_for(&sql, &[(&process, Type::INT4)]).await?
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

    /// Whether it was ours.
    async fn unlock(&self) -> Result<bool> {
        let again = self.asked.swap(true, Relaxed);
        let unlock = self.attempt.unlock();
        let row = match &self.attempt.term_in {
            None => self.connection().one(&unlock, &[]).await?,
            Some(group) => {
                let sql = format!(
                    "WITH gone AS (DELETE FROM tooz_leader WHERE group_id = $1 AND token = $2 \
                        RETURNING 1), \
                     told AS (SELECT count(pg_notify($3, $4)) FROM gone) \
                     {unlock} FROM told"
                );
                let keys = self.life.keys();
                let (channel, change) = (keys.channel(), keys.change(group));
                let token = self.token.0.cast_signed();
                let parameters: [Parameter<'_>; 4] = [
                    (&group.as_bytes(), Type::BYTEA),
                    (&token, Type::INT8),
                    (&channel, Type::TEXT),
                    (&change, Type::TEXT),
                ];
                self.connection().one(&sql, &parameters).await?
            }
        };
        // What a repeated request finds undone was done by the first.
        Ok(get::<bool>(&row, 0)? || again)
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
                    self.life.extras.give_back(connection.clone());
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
