//! The session's second connection, by which the server wakes it.
//!
//! It waits for the lock that the first holds as long as it lives: so it is told at once when the
//! first has ended. Whoever has something to say to the session ends that wait. When it ends itself,
//! the others are asked at once, for one reset often ends them all, and nobody reads them.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tooz_core::{Loss, Moment, Result};
use tracing::debug;

use crate::break_lock::Holder;
use crate::link::{Link, number, unsigned_in};
use crate::names::{self, Prize};
use crate::session::Life;
use crate::wait;

/// How soon after a connection was opened another is tried.
const AGAIN: Duration = Duration::from_secs(1);

/// How soon the other connections are asked again when this one ended.
const CLOSELY: Duration = Duration::from_millis(2);

/// Listens until the session is over. Where it cannot, what it would hear is noticed later.
pub(crate) async fn listen(life: Arc<Life>) {
    tokio::select! {
        () = life.occupied() => {}
        () = life.over() => return,
    }
    let mut last: Option<Moment> = None;
    loop {
        let opening = async {
            if let Some(last) = last {
                (last + AGAIN).wait().await;
            }
            last = Some(Moment::now());
            life.another_link().await
        };
        let mut opening = pin!(opening);
        let opened = tokio::select! {
            opened = &mut opening => opened,
            () = ask_closely(&life) => opening.await,
        };
        match opened {
            Ok(link) => hear(&life, &link).await,
            Err(error) => debug!(%error, "no second connection"),
        }
        if !life.is_open() {
            return;
        }
    }
}

/// Asks the connections that hold something, as nobody listens: what ended this one may have ended
/// them, now or in a moment. First at once, then after twice the time each, until that is as long
/// as others take who ask.
async fn ask_closely(life: &Life) {
    let mut pause = CLOSELY;
    while pause < life.config.poll_interval {
        life.touch().await;
        tokio::select! {
            () = tokio::time::sleep(pause) => pause *= 2,
            () = life.over() => return,
        }
    }
    life.over().await;
}

/// Until the session is over, or the connection.
async fn hear(life: &Arc<Life>, link: &Link) {
    let (table, id) = (life.table("session"), names::literal(life.main.marker.as_bytes()));
    let tell = format!("UPDATE {table} SET listener={} WHERE id={id}", link.number);
    if let Err(error) = life.change(&tell).await {
        debug!(%error, "others do not know that the session listens");
    }
    let marker = names::marker(life.main.marker);
    loop {
        let mut asked = pin!(link.wait(wait::waiting_for(&marker)));
        let answer = tokio::select! {
            answer = &mut asked => answer,
            // The lock is free soon, and with it the wait at its end.
            () = life.over() => match tokio::time::timeout(life.config.response_timeout, asked).await {
                Ok(answer) => answer,
                Err(_) => return life.abandon(link),
            }
        };
        match answer {
            Ok(rows) if number(&rows, 0) == Some(1) => {
                life.lease.lose(Loss::SessionEnded);
                return link.close().await;
            }
            Err(_) if link.is_dead() => return,
            _ => {}
        }
        if let Err(error) = life.hear_of_taken().await {
            debug!(%error, "not heard what there is to hear");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Writes down for the holders of the prize that it was broken, and wakes their sessions.
pub(crate) async fn tell(life: &Life, prize: &Prize, holders: &BTreeSet<Holder>) -> Result<()> {
    let broken = life.table("broken");
    let (session, token, reader) =
        (life.table("session"), life.table("token"), life.table("reader"));
    let rows: Vec<_> = holders
        .iter()
        .filter_map(|(connection, id)| {
            Some(format!("({},{connection})", names::literal(id.as_deref()?)))
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    // A lock that was waited for is on a connection of its own, so its holder is found by name.
    let sql = format!(
        "INSERT IGNORE INTO {broken}(operation,connection) VALUES{rows};\
         SELECT s.listener FROM {session} s WHERE s.listener IS NOT NULL AND {lives} \
         AND (s.member_id IN (SELECT member_id FROM {token} WHERE name={name}) \
         OR s.connection IN (SELECT connection FROM {reader} WHERE name={name}))",
        name = prize.sql(),
        rows = rows.join(","),
        lives = names::lives("s", "s.id", "s.connection"),
    );
    for listener in life.change(&sql).await?.iter().filter_map(|row| unsigned_in(row, 0)) {
        wake(life, listener).await;
    }
    Ok(())
}

/// Ends the wait of a session's listener, so that the session looks at what it has lost.
pub(crate) async fn wake(life: &Life, listener: u64) {
    // It may have ended, or be another user's, whose sessions look by themselves.
    let _ = life.main.urge(format!("KILL QUERY {listener}")).await;
}
