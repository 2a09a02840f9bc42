//! Who waits for a lock: keys in a directory, in the order of their creation, and how a lock goes
//! from one to the next.
//!
//! The holder hands the lock over by writing the name of the first in the queue into its key, so
//! that it is never free while somebody waits, and then removes that one's place. The first
//! watches the lock's key, every other one the place before its own: a hand-over wakes two.

use tooz_core::{Mode, OperationId, Result};

use crate::keys::Prize;
use crate::session::{Life, unexpected};
use crate::shared::{self, marker};
use crate::store::{If, Refusal};

/// A place in a queue.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The operation that waits.
    pub(crate) id: String,
    mode: Mode,
    claim: String,
    created: u64,
}

/// A queue as it was at an index of the store.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) places: Vec<Place>,
    pub(crate) index: u64,
}

impl Place {
    /// What the lock's key says when the lock is its.
    fn granted(&self) -> String {
        match self.mode {
            Mode::Exclusive => self.claim.clone(),
            Mode::Shared => marker(&self.id),
        }
    }

    fn key(&self, prize: &Prize) -> String {
        format!("{}/{}", prize.queue, self.id)
    }
}

/// The value of a place.
pub(crate) fn entry(mode: Mode, claim: &str) -> String {
    let mode = if mode == Mode::Shared { 's' } else { 'x' };
    format!("{mode}:{claim}")
}

pub(crate) async fn look(life: &Life, prize: &Prize) -> Result<Queue> {
    let answer = life.store.get(&prize.queue).await?;
    let nodes = match answer.result {
        Ok(event) => {
            if event.node.nodes.is_empty() {
                // The last one has left: nor shall the directory stay.
                let (store, queue) = (life.store.clone(), prize.queue.clone());
                tokio::spawn(async move { drop(store.delete_empty(&queue).await) });
            }
            event.node.nodes
        }
        Err(Refusal::Missing) => Vec::new(),
        Err(refusal) => return Err(unexpected("a lock's queue", refusal)),
    };
    let mut places: Vec<_> = nodes
        .into_iter()
        .filter_map(|node| {
            let (mode, claim) = node.value.split_once(':')?;
            let mode = if mode == "s" { Mode::Shared } else { Mode::Exclusive };
            let (_, id) = node.key.rsplit_once('/')?;
            let (id, claim) = (id.to_owned(), claim.to_owned());
            Some(Place { id, mode, claim, created: node.created })
        })
        .collect();
    places.sort_unstable_by_key(|place| place.created);
    Ok(Queue { places, index: answer.index })
}

/// Gives the lock to the first in the queue but `own`, or frees it. `false` if its key is not what
/// `proof` says: then nothing was changed.
pub(crate) async fn pass_on(
    life: &Life,
    prize: &Prize,
    proof: If<'_>,
    own: OperationId,
) -> Result<bool> {
    let queue = look(life, prize).await?;
    let own = own.to_string();
    if queue.places.iter().any(|place| place.id == own) {
        life.store.delete(&format!("{}/{own}", prize.queue), None).await?;
    }
    let Some(next) = queue.places.iter().find(|place| place.id != own) else {
        let freed = life.store.delete(&prize.key, Some(proof)).await?;
        return Ok(freed.result.is_ok() || freed.again);
    };
    let granted = next.granted();
    let ttl = Some(life.config.lock_timeout);
    let given = life.store.put(&prize.key, &granted, ttl, Some(proof)).await?;
    if given.result.is_err() {
        let done = given.again && holds(life, prize, &granted).await?;
        if !done {
            return Ok(false);
        }
    }
    let removed = life.store.delete(&next.key(prize), None).await?;
    if removed.result.is_err() && !removed.again {
        // It has given up meanwhile, perhaps before it could see that the lock is its.
        Box::pin(take_back(life, prize, next, &granted)).await?;
    }
    Ok(true)
}

async fn take_back(life: &Life, prize: &Prize, next: &Place, granted: &str) -> Result<()> {
    match next.mode {
        Mode::Shared => shared::free_if_unread(life, prize, granted).await.map(drop),
        Mode::Exclusive => {
            let nobody = OperationId::random();
            pass_on(life, prize, If::Value(granted), nobody).await.map(drop)
        }
    }
}

/// Whether the lock's key has that value.
pub(crate) async fn holds(life: &Life, prize: &Prize, value: &str) -> Result<bool> {
    let answer = life.store.get(&prize.key).await?;
    Ok(answer.result.is_ok_and(|event| event.node.value == value))
}
