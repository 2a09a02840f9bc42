//! Shared locks: the lock's key says `shared:…`, which excludes everybody else, peers of the
//! original too. Each reader has a key of its own and renews both, so that the lock lives as long
//! as any reader does; the last one to leave passes it on.

use std::sync::Arc;

use tooz_core::{Moment, OperationId, Result};

use crate::keys::Prize;
use crate::lock::{Attempt, EtcdHold};
use crate::queue;
use crate::session::{Life, unexpected};
use crate::store::{If, Refusal};

const SHARED: &str = "shared:";

/// What the lock's key says while it is shared; each time by another name, so that who was lost
/// in an earlier one does not take itself for a reader of this.
pub(crate) fn marker(founder: &str) -> String {
    format!("{SHARED}{founder}")
}

pub(crate) fn is_marker(value: &str) -> bool {
    value.starts_with(SHARED)
}

/// Becomes a reader of a lock that is free.
pub(crate) async fn found(life: &Arc<Life>, attempt: &Attempt) -> Result<Option<EtcdHold>> {
    let marker = marker(&attempt.id.to_string());
    let reader = read(life, attempt).await?;
    match attempt.create(life, &marker).await? {
        Some(token) => Ok(Some(attempt.hold(life, marker, token, reader))),
        None => leave_unread(life, attempt).await,
    }
}

/// Becomes a reader of a lock that is shared.
pub(crate) async fn join(
    life: &Arc<Life>,
    attempt: &Attempt,
    marker: String,
) -> Result<Option<EtcdHold>> {
    let reader = read(life, attempt).await?;
    // Changes the key's index: whoever is about to free it looks at the readers again.
    let ttl = life.config.lock_timeout;
    let joined = life.store.refresh(&attempt.prize.key, ttl, If::Value(&marker)).await?;
    match joined.result {
        Ok(event) => Ok(Some(attempt.hold(life, marker, event.node.modified, reader))),
        Err(_) => leave_unread(life, attempt).await,
    }
}

/// Writes the reader's key; when that was sent.
async fn read(life: &Life, attempt: &Attempt) -> Result<Moment> {
    let key = attempt.prize.reader(attempt.id);
    let ttl = Some(life.config.lock_timeout);
    let answer = life.store.put(&key, &life.claim(attempt.id), ttl, None).await?;
    answer.result.map_err(|refusal| unexpected("a reader's key", refusal))?;
    Ok(answer.sent)
}

async fn leave_unread(life: &Life, attempt: &Attempt) -> Result<Option<EtcdHold>> {
    life.store.delete(&attempt.prize.reader(attempt.id), None).await?;
    Ok(None)
}

/// Is no reader any more; whether it was one.
pub(crate) async fn leave(
    life: &Life,
    prize: &Prize,
    id: OperationId,
    marker: &str,
) -> Result<bool> {
    // Looked at before: once our key is gone, another one that leaves may pass the lock on.
    let shared = queue::holds(life, prize, marker).await?;
    let left = life.store.delete(&prize.reader(id), None).await?;
    free_if_unread(life, prize, marker).await?;
    Ok(shared && (left.result.is_ok() || left.again))
}

/// Passes the lock on if nobody reads it any more. Whether it was still shared by that name.
pub(crate) async fn free_if_unread(life: &Life, prize: &Prize, marker: &str) -> Result<bool> {
    loop {
        let answer = life.store.get(&prize.key).await?;
        let index = match answer.result {
            Ok(event) if event.node.value == marker => event.node.modified,
            _ => return Ok(false),
        };
        // Read after the index: a reader that comes later changes the index first.
        if !readers(life, prize).await?.is_empty() {
            return Ok(true);
        }
        let nobody = OperationId::random();
        if queue::pass_on(life, prize, If::Index(index), nobody).await? {
            drop(life.store.delete_empty(&prize.readers).await);
            return Ok(true);
        }
    }
}

/// The claims of those who read.
pub(crate) async fn readers(life: &Life, prize: &Prize) -> Result<Vec<String>> {
    match life.store.get(&prize.readers).await?.result {
        Ok(event) => Ok(event.node.nodes.into_iter().map(|node| node.value).collect()),
        Err(Refusal::Missing) => Ok(Vec::new()),
        Err(refusal) => Err(unexpected("a lock's readers", refusal)),
    }
}
