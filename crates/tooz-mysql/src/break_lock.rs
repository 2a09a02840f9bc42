//! Taking a lock away. The server lets only its holder free a named lock, so the holder is told by a
//! row that it looks for; one that does not look loses its connection.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tooz_core::{Error, ErrorKind, Moment, Outcome, Result};

use crate::errors::{self, odd_answer};
use crate::link::{bytes, unsigned_in};
use crate::listen;
use crate::names::{self, Prize};
use crate::session::Life;

/// How often it is looked whether the holders are gone.
const LOOK: Duration = Duration::from_millis(10);

/// A holder: its connection, and its acquisition unless it is one of another kind.
pub(crate) type Holder = (u64, Option<Vec<u8>>);

pub(crate) async fn break_lock(life: &Arc<Life>, prize: &Prize) -> Result<bool> {
    let first = holders(life, prize).await?;
    if first.is_empty() {
        return Ok(false);
    }
    let (table, start) = (life.table("broken"), Moment::now());
    let result = outlast(life, prize, &first, start).await;
    let told: Vec<_> =
        first.iter().filter_map(|(_, id)| Some(names::literal(id.as_deref()?))).collect();
    if !told.is_empty() {
        let forget = format!("DELETE FROM {table} WHERE operation IN ({})", told.join(","));
        life.change(&forget).await?;
    }
    result.map(|()| true)
}

/// Waits until those holders are gone, and ends those that do not hear.
async fn outlast(
    life: &Arc<Life>,
    prize: &Prize,
    first: &BTreeSet<Holder>,
    start: Moment,
) -> Result<()> {
    // They look as often as we do, or so we hope.
    let patience = life.config.poll_interval * 3 + Duration::from_millis(250);
    let (mut ended, mut told) = (false, start);
    listen::tell(life, prize, first).await?;
    loop {
        let now = holders(life, prize).await?;
        let left: Vec<_> = now.intersection(first).collect();
        if left.is_empty() {
            return Ok(());
        }
        if start.elapsed() < patience {
            // The word may have come while the holder was not listening.
            if told.elapsed() > LOOK * 3 {
                listen::tell(life, prize, first).await?;
                told = Moment::now();
            }
        } else if !ended {
            ended = true;
            for (connection, _) in left {
                match life.main.ask(format!("KILL {connection}")).await {
                    Err(failure) if failure.is(errors::NO_SUCH_THREAD) => {}
                    Err(failure) if failure.is_denied() => {
                        return Err(not_ours().caused_by(failure));
                    }
                    result => drop(result?),
                }
            }
        }
        if start.elapsed() > patience + life.config.response_timeout {
            let message = "the holder's connection does not end";
            return Err(Error::new(ErrorKind::TimedOut, message).outcome_is(Outcome::Unknown));
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn not_ours() -> Error {
    let message = "the holder does not give the lock up, and this user may not end its connection: it \
                   is another user's, which takes the privilege CONNECTION_ADMIN";
    Error::new(ErrorKind::Authentication, message)
}

async fn holders(life: &Life, prize: &Prize) -> Result<BTreeSet<Holder>> {
    let (name, token, reader) = (prize.sql(), life.table("token"), life.table("reader"));
    let lives = names::lives("r", "operation", "connection");
    let rows = life
        .ask(format!(
            "SELECT CAST(IS_USED_LOCK({name}) AS UNSIGNED),(SELECT operation FROM {token} \
             WHERE name={name} AND connection=IS_USED_LOCK({name}));\
             SELECT connection,operation FROM {reader} WHERE name={name} AND {lives}"
        ))
        .await?;
    let mut holders = BTreeSet::new();
    for (index, row) in rows.iter().enumerate() {
        match (unsigned_in(row, 0), index) {
            (Some(connection), _) => drop(holders.insert((connection, bytes(row, 1)))),
            (None, 0) => {}
            (None, _) => return Err(odd_answer()),
        }
    }
    Ok(holders)
}
