//! Shared locks, which the server does not have.
//!
//! A shared holder has a named lock of its own, which a row lists; both end with its session. It
//! registers first and looks for an exclusive holder then; an exclusive holder has the named lock
//! first and looks for registered ones then. So at least one of two sees the other.

use std::sync::Arc;

use std::time::Duration;

use tooz_core::{Result, Waiting};

use crate::errors::{odd_answer, session_over};
use crate::hold::Granted;
use crate::link::{Link, bytes, number, unsigned};
use crate::lock::{Attempt, next_token, no_verdict, settle};
use crate::names;
use crate::session::Life;
use crate::wait;

/// How soon it is tried again to register.
const AGAIN: Duration = Duration::from_millis(5);

/// One round trip: registers, and withdraws if somebody has the lock for himself.
pub(crate) async fn attempt(life: &Arc<Life>, attempt: &Attempt) -> Result<Option<Granted>> {
    let name = attempt.prize.sql();
    register(life, attempt, &format!("COALESCE(IS_FREE_LOCK({name}),0)")).await
}

/// The same, with the named lock on a connection of ours: nobody else can have it. `None` when the
/// waiting ended.
pub(crate) async fn register_behind(
    life: &Arc<Life>,
    attempt: &Attempt,
) -> Result<Option<Granted>> {
    loop {
        if let Some(granted) = register(life, attempt, "1").await? {
            return Ok(Some(granted));
        }
        // An exclusive holder that waited for us has not let go of our own lock yet.
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            () = attempt.waiting.over() => return Ok(None),
            () = life.over() => return Err(session_over()),
        }
    }
}

async fn register(life: &Arc<Life>, attempt: &Attempt, condition: &str) -> Result<Option<Granted>> {
    let (own, id) = (names::reader(attempt.id), names::literal(attempt.id.as_bytes()));
    let reader = life.table("reader");
    // Our own lock is not free if an exclusive holder waited for it, which is what it does with every
    // holder that it finds registered: when we registered before, and withdrew for a conflict.
    let sql = format!(
        "SET @own=GET_LOCK({own},0);\
         INSERT INTO {reader}(operation,name,connection) VALUES({id},{name},CONNECTION_ID()) \
         ON DUPLICATE KEY UPDATE connection=CONNECTION_ID();\
         SET @free=@own AND {condition};{token};\
         DELETE FROM {reader} WHERE operation={id} AND NOT @free;\
         DO IF(@free,0,RELEASE_LOCK({own}));\
         SELECT CAST(@own AS SIGNED),CAST(@free AS SIGNED),LAST_INSERT_ID()",
        name = attempt.prize.sql(),
        token = next_token(life, attempt, "@free"),
    );
    // A row without its lock counts for nothing, and the next exclusive holder clears it away.
    let rows = settle(life, attempt, &sql, &own).await?.rows;
    match (number(&rows, 0), number(&rows, 1), unsigned(&rows, 2)) {
        (Some(0 | 1), Some(0), _) => Ok(None),
        (Some(1), Some(_), Some(token)) => {
            let lease = life.lease.child();
            Ok(Some(Granted { token, lease, link: life.main.clone() }))
        }
        (None, ..) => Err(no_verdict()),
        _ => Err(odd_answer()),
    }
}

/// Waits on `link` until a shared holder is gone, who frees its own lock then. Whether the waiting
/// went on.
pub(crate) async fn outwait(
    life: &Arc<Life>,
    attempt: &Attempt,
    link: &Link,
    waiting: &Waiting,
) -> Result<bool> {
    let (reader, name) = (life.table("reader"), attempt.prize.sql());
    let lives = names::lives("r", "operation", "connection");
    let ask = format!("SELECT operation,CAST({lives} AS SIGNED) FROM {reader} WHERE name={name}");
    let rows = link.ask(ask).await?;
    for row in &rows {
        let Some(operation) = bytes(row, 0) else { return Err(odd_answer()) };
        let own = names::reader_of(&operation);
        if !wait::for_name(life, link, &own, waiting).await? {
            return Ok(false);
        }
        // Nobody registers while the lock is ours: with its lock free, the row is of no use.
        let id = names::literal(&operation);
        let sql = format!("DELETE FROM {reader} WHERE operation={id};DO RELEASE_LOCK({own})");
        link.change(&sql).await?;
    }
    Ok(true)
}
