//! Who waits for a lock: keys in a directory, in the order of their creation, and how a lock goes
//! from one to the next.
//!
//! The holder hands the lock over by writing the name of the first in the queue into its key, so
//! that it is never free while somebody waits, and then removes that one's entry. The first
//! watches the lock's key, every other one the entry before its own: a hand-over wakes two.

use tooz_core::{Mode, OperationId, Result};

use crate::client::If;
use crate::errors::{Refusal, unexpected};
use crate::keys::{LockKeys, marker};
use crate::state::State;

/// An entry of a queue.
#[derive(Clone, Debug)]
pub(crate) struct QueueEntry {
    /// The operation that waits.
    pub(crate) id: String,
    mode: Mode,
    owner: String,
    created: u64,
}

/// A queue as it was at an index of the store.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) entries: Vec<QueueEntry>,
    pub(crate) index: u64,
}

/// Adds an entry at the end of the queue; one that is there already stays.
pub(crate) async fn enter(
    state: &State,
    keys: &LockKeys,
    id: OperationId,
    mode: Mode,
) -> Result<()> {
    let letter = if mode == Mode::Shared { 's' } else { 'x' };
    let value = format!("{letter}:{}", state.owner(id));
    let ttl = Some(state.config.lock_timeout);
    let answer = state.client.put(&keys.queue_entry(id), &value, ttl, Some(If::Absent)).await?;
    match answer.result {
        Ok(_) | Err(Refusal::Exists) => Ok(()),
        Err(refusal) => Err(unexpected("an entry in a lock's queue", refusal)),
    }
}

pub(crate) async fn look(state: &State, keys: &LockKeys) -> Result<Queue> {
    let answer = state.client.get(&keys.queue).await?;
    let nodes = match answer.result {
        Ok(event) => {
            if event.node.nodes.is_empty() {
                // The last one has left, and the directory shall not stay.
                let (client, queue) = (state.client.clone(), keys.queue.clone());
                tokio::spawn(async move { drop(client.delete_empty(&queue).await) });
            }
            event.node.nodes
        }
        Err(Refusal::Missing) => Vec::new(),
        Err(refusal) => return Err(unexpected("a lock's queue", refusal)),
    };
    let mut entries: Vec<_> = nodes
        .into_iter()
        .filter_map(|node| {
            let (mode, owner) = node.value.split_once(':')?;
            let mode = if mode == "s" { Mode::Shared } else { Mode::Exclusive };
            let (_, id) = node.key.rsplit_once('/')?;
            let (id, owner) = (id.to_owned(), owner.to_owned());
            Some(QueueEntry { id, mode, owner, created: node.created })
        })
        .collect();
    entries.sort_unstable_by_key(|entry| entry.created);
    Ok(Queue { entries, index: answer.index })
}

/// Creates a lock's key; its index if it did.
pub(crate) async fn create(state: &State, keys: &LockKeys, value: &str) -> Result<Option<u64>> {
    let ttl = Some(state.config.lock_timeout);
    let answer = state.client.put(&keys.key, value, ttl, Some(If::Absent)).await?;
    match answer.result {
        Ok(event) => Ok(Some(event.node.modified)),
        // A lost reply to the same request before may have been that it was done.
        Err(Refusal::Exists) if answer.again => {
            let event = state.client.get(&keys.key).await?.result.ok();
            let ours = event.filter(|event| event.node.value == value);
            Ok(ours.map(|event| event.node.modified))
        }
        Err(Refusal::Exists) => Ok(None),
        Err(refusal) => Err(unexpected("the lock's key", refusal)),
    }
}

/// Gives the lock to the first in the queue but `own`, or frees it. `false` if its key is not what
/// `proof` says: then nothing was changed.
pub(crate) async fn hand_over(
    state: &State,
    keys: &LockKeys,
    proof: If<'_>,
    own: Option<OperationId>,
) -> Result<bool> {
    let (client, queue) = (&state.client, look(state, keys).await?);
    let own = own.map(|own| own.to_string());
    let is_own = |entry: &&QueueEntry| own.as_ref() == Some(&entry.id);
    if let Some(entry) = queue.entries.iter().find(is_own) {
        client.delete(&format!("{}/{}", keys.queue, entry.id), None).await?;
    }
    let Some(next) = queue.entries.iter().find(|entry| !is_own(entry)) else {
        let freed = client.delete(&keys.key, Some(proof)).await?;
        return Ok(freed.result.is_ok() || freed.again);
    };
    let granted = match next.mode {
        Mode::Exclusive => next.owner.clone(),
        Mode::Shared => marker(&next.id),
    };
    let ttl = Some(state.config.lock_timeout);
    let given = client.put(&keys.key, &granted, ttl, Some(proof)).await?;
    if given.result.is_err() && !(given.again && client.has(&keys.key, &granted).await?) {
        return Ok(false);
    }
    let removed = client.delete(&format!("{}/{}", keys.queue, next.id), None).await?;
    if removed.result.is_err() && !removed.again {
        // It has given up meanwhile, perhaps before it could see that the lock is its.
        match next.mode {
            Mode::Shared => Box::pin(free_if_unread(state, keys, &granted)).await?,
            Mode::Exclusive => Box::pin(hand_over(state, keys, If::Value(&granted), None)).await?,
        };
    }
    Ok(true)
}

/// Hands a shared lock over if nobody reads it any more. Whether it was still shared by that name.
pub(crate) async fn free_if_unread(state: &State, keys: &LockKeys, marker: &str) -> Result<bool> {
    loop {
        let index = match state.client.get(&keys.key).await?.result {
            Ok(event) if event.node.value == marker => event.node.modified,
            _ => return Ok(false),
        };
        // Read after the index: a reader that comes later changes the index first.
        if !readers(state, keys).await?.is_empty() {
            return Ok(true);
        }
        if hand_over(state, keys, If::Index(index), None).await? {
            drop(state.client.delete_empty(&keys.readers).await);
            return Ok(true);
        }
    }
}

/// Those who read a shared lock.
pub(crate) async fn readers(state: &State, keys: &LockKeys) -> Result<Vec<String>> {
    match state.client.get(&keys.readers).await?.result {
        Ok(event) => Ok(event.node.nodes.into_iter().map(|node| node.value).collect()),
        Err(Refusal::Missing) => Ok(Vec::new()),
        Err(refusal) => Err(unexpected("a lock's readers", refusal)),
    }
}
