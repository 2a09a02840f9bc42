//! Shared locks: the lock's key says `shared:…`, which excludes everybody else, peers of the
//! original too. Each reader has a key of its own and renews both, so that the lock lives as long
//! as any reader does; the last one to leave hands it over.

use std::sync::Arc;

use tooz_core::{Acquisition, Moment, OperationId, Result};

use crate::client::If;
use crate::errors::unexpected;
use crate::keys::{LockKeys, marker};
use crate::queue::{create, free_if_unread};
use crate::state::{Grant, State};

/// Becomes a reader of a lock that is free.
pub(crate) async fn found(
    state: &State,
    acquisition: &Acquisition<LockKeys>,
) -> Result<Option<Arc<Grant>>> {
    let marker = marker(&acquisition.id.to_string());
    let sent = read(state, acquisition).await?;
    match create(state, &acquisition.target, &marker).await? {
        Some(token) => Ok(Some(state.grant(acquisition, marker, token, sent))),
        None => leave_unread(state, acquisition).await,
    }
}

/// Becomes a reader of a lock that is shared.
pub(crate) async fn join(
    state: &State,
    acquisition: &Acquisition<LockKeys>,
    marker: String,
) -> Result<Option<Arc<Grant>>> {
    let sent = read(state, acquisition).await?;
    // Changes the key's index: whoever is about to free it looks at the readers again.
    let ttl = state.config.lock_timeout;
    let joined = state.client.refresh(&acquisition.target.key, ttl, If::Value(&marker)).await?;
    match joined.result {
        Ok(event) => Ok(Some(state.grant(acquisition, marker, event.node.modified, sent))),
        Err(_) => leave_unread(state, acquisition).await,
    }
}

/// Writes the reader's key; when that was sent.
async fn read(state: &State, acquisition: &Acquisition<LockKeys>) -> Result<Moment> {
    let (key, value) = (acquisition.target.reader(acquisition.id), state.owner(acquisition.id));
    let answer = state.client.put(&key, &value, Some(state.config.lock_timeout), None).await?;
    answer.result.map_err(|refusal| unexpected("a reader's key", refusal))?;
    Ok(answer.sent)
}

async fn leave_unread(
    state: &State,
    acquisition: &Acquisition<LockKeys>,
) -> Result<Option<Arc<Grant>>> {
    state.client.delete(&acquisition.target.reader(acquisition.id), None).await?;
    Ok(None)
}

/// Is no reader any more; whether it was one.
pub(crate) async fn release(
    state: &State,
    keys: &LockKeys,
    id: OperationId,
    marker: &str,
) -> Result<bool> {
    // Looked at before: once our key is gone, another one that leaves may hand the lock over.
    let shared = state.client.has(&keys.key, marker).await?;
    let left = state.client.delete(&keys.reader(id), None).await?;
    free_if_unread(state, keys, marker).await?;
    Ok(shared && (left.result.is_ok() || left.again))
}
