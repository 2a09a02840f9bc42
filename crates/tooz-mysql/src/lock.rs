//! Acquiring: an attempt on the session's connection, and a wait on one of its own.

use std::sync::Arc;

use tooz_core::{
    Acquisition, Error, ErrorKind, Hold, LockName, Locks, Mode, Moment, OperationId, Outcome,
    Result, Waiting, async_trait,
};

use crate::errors::{self, odd_answer, session_over};
use crate::hold::{Granted, MySqlHold, Turn};
use crate::link::{Link, Reply, number};
use crate::names::{self, Prize};
use crate::session::{Life, MySqlSession};
use crate::{delay, shared, wait};

#[async_trait]
impl Locks for MySqlSession {
    async fn acquire(&self, acquisition: Acquisition<LockName>) -> Result<Option<Arc<dyn Hold>>> {
        let Acquisition { id, target, mode, wait: waiting, .. } = acquisition;
        let prize = self.0.config.names.lock(&target)?;
        acquire(&self.0, Attempt { id, prize, mode, waiting }).await
    }

    async fn break_lock(&self, name: &LockName) -> Result<bool> {
        crate::break_lock::break_lock(&self.0, &self.0.config.names.lock(name)?).await
    }
}

/// An acquisition of a lock or of a term.
pub(crate) struct Attempt {
    pub(crate) id: OperationId,
    pub(crate) prize: Prize,
    pub(crate) mode: Mode,
    pub(crate) waiting: Waiting,
}

pub(crate) async fn acquire(life: &Arc<Life>, attempt: Attempt) -> Result<Option<Arc<dyn Hold>>> {
    let _counted = life.enter()?;
    if let Some(until) = life.granting_from.filter(|until| !until.has_passed()) {
        tokio::select! {
            () = until.wait() => {}
            () = attempt.waiting.over() => return Ok(None),
            () = life.over() => return Err(session_over()),
        }
    }
    let Some(turn) = turn(life, &attempt).await? else { return Ok(None) };
    let granted = match attempt.mode {
        Mode::Exclusive => attempt_exclusive(life, &attempt).await?,
        Mode::Shared => shared::attempt(life, &attempt).await?,
    };
    let granted = match granted {
        None if !attempt.waiting.is_over() => wait::acquire(life, &attempt).await?,
        granted => granted,
    };
    let granted = match granted {
        Some(granted) if !life.config.lock_delay.is_zero() => {
            delay::outlast(life, &attempt, granted).await?
        }
        granted => granted,
    };
    let Some(granted) = granted else { return Ok(None) };
    let Attempt { id, prize, mode, .. } = attempt;
    Ok(Some(MySqlHold::new(life, (id, prize, mode), granted, turn)))
}

/// Our own acquisitions queue here, in the order of their arrival; `None` when the waiting ended.
async fn turn(life: &Arc<Life>, attempt: &Attempt) -> Result<Option<Turn>> {
    let queue = life.queue(&attempt.prize);
    let turn = async {
        match attempt.mode {
            Mode::Exclusive => Turn::Exclusive { _guard: queue.write_owned().await },
            Mode::Shared => Turn::Shared { _guard: queue.read_owned().await },
        }
    };
    tokio::select! {
        biased; // The first attempt is made even if the waiting is over already.
        turn = turn => Ok(Some(turn)),
        () = attempt.waiting.over() => Ok(None),
        () = life.over() => Err(session_over()),
    }
}

/// One round trip: the named lock, unless somebody has it or there are shared holders, and the
/// token.
async fn attempt_exclusive(life: &Arc<Life>, attempt: &Attempt) -> Result<Option<Granted>> {
    let name = attempt.prize.sql();
    let sql = format!(
        "SELECT CAST(GET_LOCK({name},0) AS SIGNED);{claim};DO IF(ROW_COUNT(),0,RELEASE_LOCK({name}))",
        claim = claim(life, attempt),
    );
    let reply = settle(life, attempt, &sql, &name).await?;
    match number(&reply.rows, 0) {
        Some(0) => Ok(None),
        Some(_) => match claimed(&reply)? {
            Claim::Token(token) => {
                let lease = life.lease.child();
                Ok(Some(Granted { token, lease, link: life.main.clone() }))
            }
            Claim::Readers => Ok(None),
        },
        None => Err(no_verdict()),
    }
}

/// What the holder of a named lock found.
pub(crate) enum Claim {
    /// It is ours, with this token.
    Token(u64),
    /// Shared holders are left. On the session's connection the named lock is free again.
    Readers,
}

/// In SQL: a token if the connection has the named lock, unless there are shared holders. A
/// statement of its own, which sees what was there when the lock was got.
fn claim(life: &Life, attempt: &Attempt) -> String {
    let name = attempt.prize.sql();
    let condition = format!(
        "IS_USED_LOCK({name})<=>CONNECTION_ID() AND \
         NOT EXISTS(SELECT 1 FROM {reader} WHERE name={name} AND {lives})",
        reader = life.table("reader"),
        lives = names::lives("r", "operation", "connection"),
    );
    next_token(life, attempt, &condition)
}

/// In SQL: draws the next token if the condition holds, for `LAST_INSERT_ID()`.
pub(crate) fn next_token(life: &Life, attempt: &Attempt, condition: &str) -> String {
    let (id, member) = (names::literal(attempt.id.as_bytes()), life.member_sql());
    format!(
        "INSERT INTO {table}(name,token,connection,operation,member_id) \
         SELECT {name},LAST_INSERT_ID(1),CONNECTION_ID(),{id},{member} FROM DUAL WHERE {condition} \
         ON DUPLICATE KEY UPDATE token=LAST_INSERT_ID({table}.token+1),\
         connection=CONNECTION_ID(),operation={id},member_id={member}",
        table = life.table("token"),
        name = attempt.prize.sql(),
    )
}

/// The outcome of a claim, the second of the statements.
fn claimed(reply: &Reply) -> Result<Claim> {
    let claim = reply.results.get(1).ok_or_else(odd_answer)?;
    Ok(match claim.rows_affected() {
        0 => Claim::Readers,
        _ => Claim::Token(claim.last_insert_id()),
    })
}

/// The same for a connection that waited for the named lock and has it. It keeps it if there are
/// shared holders, so that no more of them get in.
pub(crate) async fn claim_waited(
    life: &Life,
    attempt: &Attempt,
    link: &Link,
) -> Result<(Claim, Moment)> {
    let sql = format!(
        "SELECT CAST(IS_USED_LOCK({name})<=>CONNECTION_ID() AS SIGNED);{claim}",
        name = attempt.prize.sql(),
        claim = claim(life, attempt),
    );
    let sent = Moment::now();
    let reply = link.change_and_reply(&sql).await?;
    if number(&reply.rows, 0) != Some(1) {
        return Err(session_over());
    }
    Ok((claimed(&reply)?, sent))
}

/// Statements on the session's connection that may have got the named lock `got` when they fail: it
/// is given back. They are repeated while others are in their way, as long as the waiting goes on.
pub(crate) async fn settle(life: &Life, attempt: &Attempt, sql: &str, got: &str) -> Result<Reply> {
    loop {
        let failure = match life.main.reply(sql.to_owned()).await {
            Ok(reply) => return Ok(reply),
            Err(failure) => failure,
        };
        free(life, got).await;
        let again = failure.is_conflict() || (failure.is_busy() && !attempt.waiting.is_over());
        if life.main.is_dead() || !again {
            return Err(life.failed(failure));
        }
    }
}

/// Gives back a named lock of the session's connection, of which it is not known whether we have it.
pub(crate) async fn free(life: &Life, name: &str) {
    while !life.main.is_dead() {
        match life.main.urge(format!("DO RELEASE_LOCK({name})")).await {
            // Somebody else ended the statement.
            Err(failure) if failure.is(errors::INTERRUPTED) || failure.is_busy() => {}
            Ok(_) => return,
            // With the connection, the server gives back all.
            Err(_) => life.main.cut().await,
        }
    }
}

/// NULL from GET_LOCK: neither had nor busy.
pub(crate) fn no_verdict() -> Error {
    Error::new(
        ErrorKind::Backend,
        "the server could not decide about the lock: it is short of memory, \
               or the statement was killed",
    )
    .outcome_is(Outcome::NotApplied)
    .retryable(true)
}
