//! Breaking a lock.
//!
//! The server lets only a session itself free its lock. So the holder is asked to, in the channel
//! and by its process, since all hear it, and one that hears it late may hold the lock by then. A
//! coordinator that lives does it at once. A holder that does not answer, such as a peer of another
//! kind, loses its session.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::types::Type;
use tooz_core::{Error, ErrorKind, Hold, Loss, Moment, Result};
use tracing::{debug, warn};

use crate::channel::Listener;
use crate::errors::get;
use crate::hold::PostgresHold;
use crate::keys::Key;
use crate::state::State;

/// What the request to release begins with; the key, an id and the holding process follow.
pub(crate) const BREAK: &str = "break ";

/// How long a holder may take to answer.
pub(crate) const ANSWER: Duration = Duration::from_secs(1);

/// How often to look at a holder that does not answer.
const LOOK: Duration = Duration::from_millis(50);

/// What a holder answers with.
pub(crate) fn answer(id: &str, process: i32) -> String {
    format!("broken {id} {process}")
}

/// The processes that hold it.
pub(crate) async fn holders(state: &State, key: Key) -> Result<BTreeSet<i32>> {
    let sql = format!("SELECT pid FROM pg_locks WHERE {}", key.in_pg_locks());
    state.client.main.read(&sql, &[]).await?.iter().map(|row| get(row, 0)).collect()
}

/// Waits until a holder no longer holds, and ends its session if it has not answered by `end`.
pub(crate) async fn outlast(
    state: &State,
    key: Key,
    holder: i32,
    mut answer: Listener,
    end: Moment,
) -> Result<()> {
    loop {
        tokio::select! {
            () = answer.heard() => return Ok(()),
            () = tokio::time::sleep(LOOK) => {
                if !holders(state, key).await?.contains(&holder) {
                    return Ok(());
                }
                if end.has_passed() {
                    return end_session(state, key, holder).await;
                }
            }
        }
    }
}

async fn end_session(state: &State, key: Key, holder: i32) -> Result<()> {
    warn!(process = holder, "a holder does not react: its session is ended");
    let end = "SELECT pg_terminate_backend($1)";
    state.client.main.ask(end, &[(&holder, Type::INT4)]).await?;
    let end = Moment::now() + state.config.response_timeout;
    while holders(state, key).await?.contains(&holder) {
        if end.has_passed() {
            return Err(Error::new(ErrorKind::TimedOut, "the holder's session did not end"));
        }
        tokio::time::sleep(LOOK / 10).await;
    }
    Ok(())
}

/// Releases what somebody wants to break, and answers.
pub(crate) fn on_request(state: &Arc<State>, request: &str) {
    let mut parts = request.split(' ');
    let (Some(key), Some(id), Some(process)) = (parts.next(), parts.next(), parts.next()) else {
        return;
    };
    for grant in state.grants.values() {
        let holder = grant.connection(&state.client.main).process;
        if grant.keys.key.id() != key || holder.to_string() != process {
            continue;
        }
        grant.lease.lose(Loss::Taken);
        let (hold, answer) = (PostgresHold { state: state.clone(), grant }, answer(id, holder));
        tokio::spawn(async move {
            let released = hold.release().await;
            let state = &hold.state;
            if let Err(error) = released.and(state.channel.send(&state.client.main, &answer).await)
            {
                debug!(%error, "could not release a broken lock: whoever broke it will end our session");
            }
        });
    }
}
