//! The renewal of everything, and what the server says was lost.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use tokio::task::JoinSet;
use tooz_core::{GroupId, Loss, Moment, Result};
use tracing::debug;

use crate::connection::{Connection, bytes, number, unsigned_in};
use crate::errors::{Failure, session_over};
use crate::hold::MySqlHold;
use crate::keys;
use crate::state::State;

/// One round trip on each connection that holds something.
pub(crate) async fn renew(state: &Arc<State>) -> Result<()> {
    let mut renewals = JoinSet::new();
    for hold in waited_for(state) {
        renewals.spawn(async move {
            let sent = Moment::now();
            match is_alive(&hold.grant.connection).await {
                Ok(true) => drop(hold.grant.lease.renewed(sent)),
                Ok(false) => hold.end(Loss::SessionEnded),
                Err(_) if hold.grant.connection.is_dead() => hold.end(Loss::SessionEnded),
                // Until its deadline.
                Err(error) => debug!(%error, "a lock was not renewed"),
            }
        });
    }
    let (sent, main) = (Moment::now(), &state.client.main);
    // One statement that is slow may be before it, until that is ended.
    let limit = state.config.response_timeout * 3 / 2;
    let alive = tokio::time::timeout(limit, is_alive(main)).await;
    renewals.join_all().await;
    match alive.unwrap_or(Err(Failure::Silence)) {
        Ok(true) if state.lease.renewed(sent) => Ok(()),
        Ok(_) => {
            state.lease.lose(Loss::SessionEnded);
            Err(session_over())
        }
        Err(failure) => Err(state.client.failed(failure)),
    }
}

/// Whether the server knows the connection as the one that it was.
async fn is_alive(connection: &Connection) -> Result<bool, Failure> {
    let marker = keys::marker(connection.marker);
    let ask = format!("SELECT CAST(IS_USED_LOCK({marker})<=>{} AS SIGNED)", connection.number);
    Ok(number(&connection.urge(ask).await?, 0) == Some(1))
}

/// The holds that have a connection of their own.
fn waited_for(state: &Arc<State>) -> impl Iterator<Item = MySqlHold> + use<> {
    let state = state.clone();
    let grants = state.grants.values().into_iter();
    grants
        .map(move |grant| MySqlHold { state: state.clone(), grant })
        .filter(|hold| hold.state.is_own(&hold.grant.connection))
}

/// Asks each connection that holds something whether it is there, and no table.
pub(crate) async fn touch(state: &Arc<State>) {
    let own = touch_own(state);
    if let Err(failure) = state.client.main.urge("DO 0".to_owned()).await {
        // What fails has lost its lease.
        drop(state.client.failed(failure));
    }
    own.join_all().await;
}

/// The same of the connections that hold one lock each.
fn touch_own(state: &Arc<State>) -> JoinSet<()> {
    let touch = |hold: MySqlHold| async move {
        // Any answer will do.
        let _ = hold.grant.connection.urge("DO 0".to_owned()).await;
        if hold.grant.connection.is_dead() {
            hold.end(Loss::SessionEnded);
        }
    };
    waited_for(state).map(touch).collect()
}

/// Asks for locks that were broken and memberships that were ended, and gives them up; asks each
/// connection on the way.
pub(crate) async fn check(state: &Arc<State>) -> Result<()> {
    let grants = state.grants.values();
    let mut connections = vec![state.client.main.number.to_string()];
    let own = grants.iter().filter(|grant| state.is_own(&grant.connection));
    connections.extend(own.map(|grant| grant.connection.number.to_string()));
    let asked = touch_own(state);
    // A membership that is being joined is not in the table before it has its row, and one that is
    // being left is taken from the table before its row goes.
    let memberships = state.memberships.entries();
    let mut sql = format!(
        "SELECT 0,operation FROM {} WHERE connection IN ({})",
        state.table("broken"),
        connections.join(","),
    );
    if !memberships.is_empty() {
        let groups = memberships.iter().map(|(group, _)| keys::literal(group.as_bytes()));
        // Writing to a string does not fail.
        let _ = write!(
            sql,
            ";SELECT 1,group_id FROM {} WHERE group_id IN ({}) AND id={} AND session={}",
            state.table("member"),
            groups.collect::<Vec<_>>().join(","),
            state.member_sql(),
            state.session_sql(),
        );
    }
    let (rows, _) = tokio::join!(state.client.ask(sql), asked.join_all());
    let mut there = BTreeSet::new();
    for row in &rows? {
        let (Some(kind), Some(id)) = (unsigned_in(row, 0), bytes(row, 1)) else { continue };
        if kind == 1 {
            there.insert(GroupId::from(id));
        } else if let Some(grant) = grants.iter().find(|grant| grant.id.as_bytes()[..] == id[..]) {
            on_broken(MySqlHold { state: state.clone(), grant: grant.clone() }).await?;
        }
    }
    for (group, lease) in memberships.into_iter().filter(|(group, _)| !there.contains(group)) {
        if state.memberships.contains(&group) {
            lease.lose(Loss::Taken);
            // It may have been joined again meanwhile.
            state.memberships.remove_if(&group, |lease| !lease.is_held());
        }
    }
    Ok(())
}

/// Frees what somebody wants to break.
async fn on_broken(hold: MySqlHold) -> Result<()> {
    if !hold.grant.lease.is_held() {
        return Ok(());
    }
    hold.grant.lease.lose(Loss::Taken);
    hold.grant.connection.change(&hold.free()).await?;
    hold.finish_and_close();
    Ok(())
}
