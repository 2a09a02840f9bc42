//! The server's queue for a named lock, in which a connection of our own waits.

use std::pin::pin;
use std::time::Duration;

use tooz_core::{Result, WaitLimit};

use crate::connection::{Connection, Rows, number};
use crate::errors::{self, Failure, session_over};
use crate::state::State;

/// How long the server lets wait: longer than anybody does. A negative number, which means for
/// ever to MySQL, is refused by MariaDB.
const FOREVER: u32 = 31_536_000;

/// How often we end a wait again that did not notice: it may not have begun when it was told.
const AGAIN: Duration = Duration::from_millis(50);

/// In SQL: waits for a named lock as long as it takes.
pub(crate) fn get_lock(name: &str) -> String {
    format!("SELECT CAST(GET_LOCK({name},{FOREVER}) AS SIGNED)")
}

/// Waits for a named lock. Whether the connection has it; if not, it may have got it at the last
/// moment, so it is to be closed.
pub(crate) async fn wait_for(
    state: &State,
    connection: &Connection,
    name: &str,
    wait: &WaitLimit,
) -> Result<bool> {
    loop {
        let mut asked = pin!(connection.wait(get_lock(name)));
        let answer = tokio::select! {
            biased;
            answer = &mut asked => Some(answer),
            () = wait.over() => None,
            () = state.client.over() => None,
        };
        let Some(answer) = answer else {
            cancel(state, connection, asked).await;
            return if state.lease.is_held() { Ok(false) } else { Err(session_over()) };
        };
        match answer {
            Ok(rows) if number(&rows, 0) == Some(1) => return Ok(true),
            // Somebody else ended the statement, or a year is over. MariaDB says NULL of a statement
            // that was ended. If it is for want of memory, it is not to be asked for in a tight loop.
            Ok(_) => {}
            Err(failure) if failure.is(errors::INTERRUPTED) => {}
            Err(failure) => return Err(failure.into()),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Ends the wait at the server and reads its answer, whatever that is.
async fn cancel(
    state: &State,
    connection: &Connection,
    mut asked: impl Future<Output = Result<Rows, Failure>> + Unpin,
) {
    let response_timeout = state.config.response_timeout;
    let mut limit = pin!(tokio::time::sleep(response_timeout));
    loop {
        let killed = state.client.main.urge(format!("KILL QUERY {}", connection.number));
        let killed = tokio::time::timeout(response_timeout, killed).await;
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
    connection.abandon();
}
