//! The queue of those who wait for a lock: a key each, in the order in which they were made.
//!
//! Each waits only for the one before it to go, and the first for the lock. The keys belong to the
//! waiters' sessions, so a waiter that dies leaves the queue. A marker tells newcomers that there is
//! a queue.

use tooz_core::{Error, OperationId, Result};
use tracing::debug;

use crate::keys::LockKeys;
use crate::poll::wait;
use crate::state::State;
use crate::transaction::{Op, Outcome};
use crate::watch::KeyWatch;

/// Adds an entry at the end of the queue; one that is there already stays.
pub(crate) async fn enter(state: &State, keys: &LockKeys, id: OperationId) -> Result<()> {
    let ops = [
        Op::set(&keys.marker, id.to_string().as_bytes()),
        Op::lock(&keys.queue_entry(id), state.member.as_bytes(), &state.presence.members),
    ];
    match state.transact(&ops).await?.0 {
        Outcome::Done(_) => Ok(()),
        Outcome::Refused(_) => Err(Error::unexpected_answer()),
    }
}

/// Waits until it is the first; `false` if it is not in the queue.
pub(crate) async fn first(state: &State, keys: &LockKeys, id: OperationId) -> Result<bool> {
    let ours = keys.queue_entry(id);
    loop {
        let mut queue = state.client.tree(&keys.queue).await?;
        queue.sort_unstable_by_key(|entry| entry.created);
        let Some(position) = queue.iter().position(|entry| entry.key == ours) else {
            return Ok(false);
        };
        let Some(before) = position.checked_sub(1).map(|before| &queue[before].key) else {
            return Ok(true);
        };
        let mut watch = KeyWatch::new(&state.poller, before);
        while watch.next(wait()).await?.is_some_and(|entry| entry.session.is_some()) {}
    }
}

/// Whether nobody waits.
pub(crate) async fn is_empty(state: &State, keys: &LockKeys) -> Result<bool> {
    Ok(state.client.tree(&keys.queue).await?.is_empty())
}

/// Removes the marker if nobody is in the queue any more.
pub(crate) async fn remove_marker(state: &State, keys: &LockKeys) {
    let removed: Result<()> = async {
        let ops = [Op::get(&keys.marker), Op::tree(&keys.queue)];
        let Outcome::Done(done) = state.client.read(&ops).await? else { return Ok(()) };
        let [marker] = &done.entries[..] else { return Ok(()) };
        // Whoever joins the queue meanwhile changes it.
        let ops = [Op::check_index(&marker.key, marker.changed), Op::delete(&marker.key)];
        state.client.transact(&ops).await.map(drop)
    }
    .await;
    if let Err(error) = removed {
        // It costs newcomers a request, and the next one that leaves the queue removes it.
        debug!(%error, "the marker of an empty queue could not be removed");
    }
}
