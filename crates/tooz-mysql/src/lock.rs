//! Acquiring: an attempt on the session's connection, and a wait on one of its own.

use std::sync::Arc;

use tooz_core::{Error, ErrorKind, Hold, Mode, Moment, OperationId, Outcome, Result, Waiting};

use crate::errors::{odd_answer, session_over};
use crate::hold::{Granted, MySqlHold, Turn};
use crate::link::{Link, Rows, number, unsigned};
use crate::names::{self, Prize};
use crate::session::Life;
use crate::{shared, wait};

/// An acquisition of a lock or of a term.
pub(crate) struct Attempt {
    pub(crate) id: OperationId,
    pub(crate) prize: Prize,
    pub(crate) mode: Mode,
    pub(crate) waiting: Waiting,
}

pub(crate) async fn acquire(life: &Arc<Life>, attempt: Attempt) -> Result<Option<Arc<dyn Hold>>> {
    let _counted = life.enter()?;
    let Some(turn) = turn(life, &attempt).await? else { return Ok(None) };
    let granted = match attempt.mode {
        Mode::Exclusive => attempt_exclusive(life, &attempt).await?,
        Mode::Shared => shared::attempt(life, &attempt).await?,
    };
    let granted = match granted {
        None if !attempt.waiting.is_over() => wait::acquire(life, &attempt).await?,
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

/// One round trip: the named lock unless somebody has it, and the token unless it is shared.
async fn attempt_exclusive(life: &Arc<Life>, attempt: &Attempt) -> Result<Option<Granted>> {
    let name = attempt.prize.sql();
    let undo = format!("DO RELEASE_LOCK({name})");
    let claim = claim(life, attempt, &format!("DO IF(@readers,RELEASE_LOCK({name}),0);"));
    let rows = settle(life, &format!("SET @got=GET_LOCK({name},0);{claim}"), &undo).await?;
    match number(&rows, 0) {
        Some(0) => Ok(None),
        Some(_) => match claimed(&rows)? {
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

/// In SQL: with the named lock got (`@got`), a token unless there are shared holders (`@readers`);
/// `then` is done before that is told.
fn claim(life: &Life, attempt: &Attempt, then: &str) -> String {
    let name = attempt.prize.sql();
    format!(
        "SET @readers=IF(@got,(SELECT COUNT(*) FROM {reader} WHERE name={name} AND {lives}),0);\
         {then}{token};\
         SELECT CAST(@got AS SIGNED),CAST(@readers AS SIGNED),LAST_INSERT_ID()",
        reader = life.table("reader"),
        lives = names::lives("r", "operation", "connection"),
        token = next_token(life, attempt, "@got AND NOT @readers"),
    )
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

/// The outcome of a claim.
fn claimed(rows: &Rows) -> Result<Claim> {
    match (number(rows, 1), unsigned(rows, 2)) {
        (Some(0), Some(token)) => Ok(Claim::Token(token)),
        (Some(_), _) => Ok(Claim::Readers),
        _ => Err(odd_answer()),
    }
}

/// The same for a connection that waited for the named lock and has it. It keeps it if there are
/// shared holders, so that no more of them get in.
pub(crate) async fn claim_waited(
    life: &Life,
    attempt: &Attempt,
    link: &Link,
) -> Result<(Claim, Moment)> {
    let got = format!("SET @got=IS_USED_LOCK({})<=>CONNECTION_ID()", attempt.prize.sql());
    let sql = format!("{got};{}", claim(life, attempt, ""));
    let sent = Moment::now();
    let rows = link.change(&sql).await?;
    if number(&rows, 0) != Some(1) {
        return Err(session_over());
    }
    Ok((claimed(&rows)?, sent))
}

/// Statements on the session's connection that may have got something when they fail: `undo` gives
/// it back.
pub(crate) async fn settle(life: &Life, sql: &str, undo: &str) -> Result<Rows> {
    loop {
        let failure = match life.main.ask(sql.to_owned()).await {
            Ok(rows) => return Ok(rows),
            Err(failure) => failure,
        };
        if !life.main.is_dead() && life.main.ask(undo.to_owned()).await.is_err() {
            // With the connection, the server gives back all.
            life.main.cut().await;
        }
        if life.main.is_dead() || !failure.is_conflict() {
            return Err(life.failed(failure));
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
