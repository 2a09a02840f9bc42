//! Taking a lock away from whoever holds it.
//!
//! The server lets nobody but a session itself give up its lock. So the holder is asked to, in the
//! channel and by its process, since all hear it, and who hears it late may hold the lock by then.
//! A coordinator that lives does it at once. Who does not answer, such as a peer of
//! another kind, loses its session.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::types::Type;
use tooz_core::{Error, ErrorKind, Hold, Loss, Moment, OperationId, Result};
use tracing::{debug, warn};

use crate::errors::get;
use crate::keys::Key;
use crate::lock::PostgresHold;
use crate::session::Life;

/// What the request to give way begins with; the key, an id and the holding process follow.
pub(crate) const BREAK: &str = "break ";

/// How long a holder may take to answer.
const ANSWER: Duration = Duration::from_secs(1);

/// How often a holder is looked at that does not answer.
const LOOK: Duration = Duration::from_millis(50);

pub(crate) async fn take_away(life: &Arc<Life>, key: Key) -> Result<bool> {
    life.listen().await?;
    let holders = holders(life, key).await?;
    if holders.is_empty() {
        return Ok(false);
    }
    let id = OperationId::random();
    let answers: Vec<_> = holders
        .iter()
        .map(|holder| (*holder, life.listeners.listen(answer(&id.to_string(), *holder))))
        .collect();
    for holder in &holders {
        life.say(&format!("{BREAK}{} {id} {holder}", key.id())).await?;
    }
    let end = Moment::now() + ANSWER;
    for (holder, mut answer) in answers {
        loop {
            tokio::select! {
                () = answer.heard() => break,
                () = tokio::time::sleep(LOOK) => {
                    if !self::holders(life, key).await?.contains(&holder) {
                        break;
                    }
                    if end.has_passed() {
                        end_session(life, key, holder).await?;
                        break;
                    }
                }
            }
        }
    }
    Ok(true)
}

/// Gives up what somebody wants to break, and says so.
pub(crate) fn give_way(life: &Arc<Life>, request: &str) {
    let mut parts = request.split(' ');
    let (Some(key), Some(id), Some(process)) = (parts.next(), parts.next(), parts.next()) else {
        return;
    };
    let is_meant =
        |hold: &Arc<PostgresHold>| hold.key().id() == key && hold.process().to_string() == process;
    for hold in life.holds().into_iter().filter(is_meant) {
        hold.lease().lose(Loss::Taken);
        let (life, answer) = (life.clone(), answer(id, hold.process()));
        tokio::spawn(async move {
            let released = hold.release().await;
            if let Err(error) = released.and(life.say(&answer).await) {
                debug!(%error, "a broken lock is left to who broke it");
            }
        });
    }
}

fn answer(id: &str, process: i32) -> String {
    format!("broken {id} {process}")
}

/// The processes that hold it.
async fn holders(life: &Life, key: Key) -> Result<BTreeSet<i32>> {
    let sql = format!("SELECT pid FROM pg_locks WHERE {}", key.in_pg_locks());
    life.main.read(&sql, &[]).await?.iter().map(|row| get(row, 0)).collect()
}

async fn end_session(life: &Life, key: Key, holder: i32) -> Result<()> {
    warn!(process = holder, "a holder does not give way: its session is ended");
    life.main.ask("SELECT pg_terminate_backend($1)", &[(&holder, Type::INT4)]).await?;
    let end = Moment::now() + life.config.response_timeout;
    while holders(life, key).await?.contains(&holder) {
        if end.has_passed() {
            return Err(Error::new(ErrorKind::TimedOut, "the holder's session does not end"));
        }
        tokio::time::sleep(LOOK / 10).await;
    }
    Ok(())
}
