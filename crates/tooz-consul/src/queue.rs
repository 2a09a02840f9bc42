//! The queue of those who wait for a lock: a key each, in the order in which they were made.
//!
//! Each waits for the one before alone to go, and the first for the lock. The keys belong to the
//! waiters' sessions, so who dies leaves the queue. A marker tells newcomers that there is a queue.

use std::sync::Arc;

use tooz_core::{OperationId, Result};
use tracing::debug;

use crate::api::odd_answer;
use crate::keys::Prize;
use crate::poll::{self, KeyWatch};
use crate::session::Life;
use crate::transaction::{Op, Outcome};

/// Stands in the queue, last; where it stands already, it stays.
pub(crate) async fn enlist(life: &Life, prize: &Prize, id: OperationId) -> Result<()> {
    let ops = [
        Op::set(&prize.marker, id.to_string().as_bytes()),
        Op::lock(&prize.place(id), life.member.as_bytes(), &life.presence.members),
    ];
    match life.transact(&ops).await?.0 {
        Outcome::Done(_) => Ok(()),
        Outcome::Refused(_) => Err(odd_answer()),
    }
}

/// Waits until it is the first; `false` if it is not in the queue.
pub(crate) async fn first(life: &Life, prize: &Prize, id: OperationId) -> Result<bool> {
    let ours = prize.place(id);
    loop {
        let mut queue = life.api().tree(&prize.queue).await?;
        queue.sort_unstable_by_key(|place| place.created);
        let Some(position) = queue.iter().position(|place| place.key == ours) else {
            return Ok(false);
        };
        let Some(before) = position.checked_sub(1).map(|before| &queue[before].key) else {
            return Ok(true);
        };
        let mut watch = KeyWatch::new(life.api(), before);
        while watch.next(poll::wait()).await?.is_some_and(|place| place.session.is_some()) {}
    }
}

/// Whether nobody waits.
pub(crate) async fn is_empty(life: &Life, prize: &Prize) -> Result<bool> {
    Ok(life.api().tree(&prize.queue).await?.is_empty())
}

/// Removes the marker if nobody is in the queue any more.
pub(crate) async fn tidy(life: Arc<Life>, prize: Prize) {
    let tidied = async {
        let ops = [Op::get(&prize.marker), Op::tree(&prize.queue)];
        let Outcome::Done(done) = life.api().read(&ops).await? else { return Ok(()) };
        let [marker] = &done.entries[..] else { return Ok(()) };
        // Who joins the queue meanwhile changes it.
        let ops = [Op::check_index(&marker.key, marker.changed), Op::delete(&marker.key)];
        life.api().transact(&ops).await.map(drop)
    };
    let tidied: Result<()> = tidied.await;
    if let Err(error) = tidied {
        // It costs newcomers a request, and the next who leaves the queue removes it.
        debug!(%error, "the marker of an empty queue is left");
    }
}
