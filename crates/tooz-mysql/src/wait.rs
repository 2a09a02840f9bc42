//! Waiting: on a connection of its own, where the server has the queue and wakes who is next.

use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tooz_core::{Error, ErrorKind, Lease, Mode, Result, Waiting};

use crate::errors::{self, Failure, session_over};
use crate::extras::Extras;
use crate::hold::Granted;
use crate::link::{Link, Rows, number};
use crate::lock::{Attempt, Claim, claim_waited};
use crate::session::Life;
use crate::shared;

/// How long the server lets wait: longer than anybody does. A negative number, which means for
/// ever to MySQL, is refused by MariaDB.
const FOREVER: u32 = 31_536_000;

/// How often a wait is ended again that did not notice: it may not have begun when it was told.
const AGAIN: Duration = Duration::from_millis(50);

/// Waits until it is granted; `None` when the waiting ended. A lock that was waited for keeps the
/// connection that waited, for the server gives it to none other.
pub(crate) async fn acquire(life: &Arc<Life>, attempt: &Attempt) -> Result<Option<Granted>> {
    let link = Extras::take(life).await?;
    let result = acquire_on(life, attempt, &link).await;
    match &result {
        Ok(Some(granted)) if granted.link.number == link.number => {}
        _ if link.is_dead() => life.abandon(&link),
        _ => link.close().await,
    }
    result
}

async fn acquire_on(life: &Arc<Life>, attempt: &Attempt, link: &Link) -> Result<Option<Granted>> {
    let name = attempt.prize.sql();
    if !for_name(life, link, &name, &attempt.waiting).await? {
        return Ok(None);
    }
    if attempt.mode == Mode::Shared {
        // Registered before the named lock is free again.
        return shared::register_behind(life, attempt).await;
    }
    loop {
        match granted_on(life, attempt, link).await {
            Ok(ControlFlow::Break(granted)) => return Ok(granted),
            Ok(ControlFlow::Continue(())) => {}
            // A table is locked; the named lock is ours meanwhile.
            Err(error) if is_busy(&error, link) && !attempt.waiting.is_over() => {}
            Err(error) => return Err(error),
        }
    }
}

/// With the named lock: what is granted, or a wait until one more shared holder is gone.
async fn granted_on(
    life: &Arc<Life>,
    attempt: &Attempt,
    link: &Link,
) -> Result<ControlFlow<Option<Granted>>> {
    let (claim, sent) = claim_waited(life, attempt, link).await?;
    if let Claim::Token(token) = claim {
        let lease = Lease::timed(life.config.timeout, sent);
        return Ok(ControlFlow::Break(Some(Granted { token, lease, link: link.clone() })));
    }
    Ok(match shared::outwait(life, attempt, link, &attempt.waiting).await? {
        true => ControlFlow::Continue(()),
        false => ControlFlow::Break(None),
    })
}

/// See [`Failure::is_busy`].
fn is_busy(error: &Error, link: &Link) -> bool {
    error.kind() == ErrorKind::TimedOut && !link.is_dead()
}

/// In SQL: waits for a named lock as long as it takes.
pub(crate) fn waiting_for(name: &str) -> String {
    format!("SELECT CAST(GET_LOCK({name},{FOREVER}) AS SIGNED)")
}

/// Waits for a named lock. Whether the connection has it; if not, it may have got it at the last
/// moment, so it is to be closed.
pub(crate) async fn for_name(
    life: &Arc<Life>,
    link: &Link,
    name: &str,
    waiting: &Waiting,
) -> Result<bool> {
    loop {
        let mut asked = pin!(link.wait(waiting_for(name)));
        let answer = tokio::select! {
            biased;
            answer = &mut asked => Some(answer),
            () = waiting.over() => None,
            () = life.over() => None,
        };
        if let Some(answer) = answer {
            if got(answer)? {
                return Ok(true);
            }
            // Somebody else ended the statement, or a year is over. If it is for want of memory, it
            // is not to be asked for in a tight loop.
            tokio::time::sleep(AGAIN).await;
            continue;
        }
        withdraw(life, link, asked).await;
        return if life.lease.is_held() { Ok(false) } else { Err(session_over()) };
    }
}

/// Ends the wait at the server and reads its answer, whatever that is.
async fn withdraw(
    life: &Arc<Life>,
    link: &Link,
    mut asked: impl Future<Output = Result<Rows, Failure>> + Unpin,
) {
    let limit = tokio::time::sleep(life.config.response_timeout);
    let mut limit = pin!(limit);
    loop {
        let killed = life.main.urge(format!("KILL QUERY {}", link.number));
        let killed = tokio::time::timeout(life.config.response_timeout, killed).await;
        if killed.map_or(true, |killed| killed.is_err_and(|e| e.is_fatal())) {
            break;
        }
        tokio::select! {
            _ = &mut asked => return,
            () = &mut limit => break,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
    // There is no polite way left.
    life.abandon(link);
}

/// Whether GET_LOCK got it; an end of the statement by somebody else is no error.
fn got(answer: Result<Rows, Failure>) -> Result<bool> {
    match answer {
        // NULL as well: MariaDB says so of a statement that was ended.
        Ok(rows) => Ok(number(&rows, 0) == Some(1)),
        Err(failure) if failure.is(errors::INTERRUPTED) => Ok(false),
        Err(failure) => Err(failure.into()),
    }
}
