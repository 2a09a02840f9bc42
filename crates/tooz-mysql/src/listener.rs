//! The session's second connection, by which the server wakes the session.
//!
//! It waits for the lock that the first holds as long as it lives: so it learns at once when the
//! first has ended. Whoever has something to say to the session ends that wait. When it ends itself,
//! the others are asked at once, for one reset often ends them all, and nobody reads them.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tooz_core::{Loss, Moment};
use tracing::debug;

use crate::connection::{Connection, number};
use crate::state::State;
use crate::{heartbeat, keys, queue};

/// How soon after a connection was opened another is tried.
const AGAIN: Duration = Duration::from_secs(1);

/// How soon the other connections are asked again when this one ended.
const CLOSELY: Duration = Duration::from_millis(2);

/// Listens until the session is over. Where it cannot, what it would hear is noticed later.
pub(crate) async fn run(state: Arc<State>) {
    tokio::select! {
        () = state.occupied.notified() => {}
        () = state.client.over() => return,
    }
    let mut last: Option<Moment> = None;
    loop {
        let opening = async {
            if let Some(last) = last {
                (last + AGAIN).wait().await;
            }
            last = Some(Moment::now());
            state.client.main.beside().await
        };
        let mut opening = pin!(opening);
        let opened = tokio::select! {
            opened = &mut opening => opened,
            () = ask_closely(&state) => opening.await,
        };
        match opened {
            Ok(connection) => listen_on(&state, &connection).await,
            Err(error) => debug!(%error, "there is no second connection"),
        }
        if !state.client.is_open() {
            return;
        }
    }
}

/// Asks the connections that hold something, as nobody listens: what ended this one may have ended
/// them, now or in a moment. First at once, then after twice the time each, until that is as long
/// as the session takes that asks anyway.
async fn ask_closely(state: &Arc<State>) {
    let mut pause = CLOSELY;
    while pause < state.config.poll_interval {
        heartbeat::touch(state).await;
        tokio::select! {
            () = tokio::time::sleep(pause) => pause *= 2,
            () = state.client.over() => return,
        }
    }
    state.client.over().await;
}

/// Until the session is over, or the connection.
async fn listen_on(state: &Arc<State>, connection: &Connection) {
    let (table, id) = (state.table("session"), state.session_sql());
    let tell = format!("UPDATE {table} SET listener={} WHERE id={id}", connection.number);
    if let Err(error) = state.client.change(&tell).await {
        debug!(%error, "others cannot know that the session listens");
    }
    let marker = keys::marker(state.client.main.marker);
    loop {
        let mut asked = pin!(connection.wait(queue::get_lock(&marker)));
        let answer = tokio::select! {
            answer = &mut asked => answer,
            // The lock is free soon, and with it the wait at its end.
            () = state.client.over() => {
                match tokio::time::timeout(state.config.response_timeout, asked).await {
                    Ok(answer) => answer,
                    Err(_) => return connection.abandon(),
                }
            }
        };
        match answer {
            Ok(rows) if number(&rows, 0) == Some(1) => {
                state.lease.lose(Loss::SessionEnded);
                return connection.close().await;
            }
            Err(_) if connection.is_dead() => return,
            _ => {}
        }
        if let Err(error) = heartbeat::check(state).await {
            debug!(%error, "it is not known whether anything was lost");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
