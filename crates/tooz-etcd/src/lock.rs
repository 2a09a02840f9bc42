//! Locks and terms: a key each, and a queue. See [`queue`](crate::queue).

use std::sync::Arc;

use tokio::sync::Notify;
use tooz_core::kit::cancel_until_gone;
use tooz_core::{
    Acquisition, Error, ErrorKind, Hold, Lease, LockName, Locks, Mode, Moment, Outcome, Result,
    async_trait,
};
use tracing::debug;

use crate::client::{If, Watched};
use crate::errors::{Refusal, unexpected};
use crate::hold::EtcdHold;
use crate::keys::{self, LockKeys, is_marker, marker, session_in};
use crate::queue;
use crate::shared;
use crate::state::{Grant, PAUSE, State};

/// The locks of a session.
#[derive(Debug)]
pub(crate) struct EtcdLocks(pub(crate) Arc<State>);

#[async_trait]
impl Locks for EtcdLocks {
    async fn acquire(&self, acquisition: Acquisition<LockName>) -> Result<Option<Arc<dyn Hold>>> {
        let keys = self.0.keys().lock(&acquisition.target);
        acquire(&self.0, acquisition.with_target(keys)).await
    }

    async fn break_lock(&self, name: &LockName) -> Result<bool> {
        let (state, keys) = (&self.0, self.0.keys().lock(name));
        keys::check(&keys.readers, &state.member, "name")?;
        let held = match state.client.get(&keys.key).await?.result {
            Ok(event) => event.node.value,
            Err(Refusal::Missing) => return Ok(false),
            Err(refusal) => return Err(unexpected("the lock's key", refusal)),
        };
        let is_shared = is_marker(&held);
        let owners = if is_shared { queue::readers(state, &keys).await? } else { vec![held] };
        state.client.delete(&keys.key, None).await?;
        if is_shared {
            state.client.delete_tree(&keys.readers).await?;
        }
        for session in owners.iter().filter_map(|owner| session_in(owner)) {
            state.wake(session).await;
        }
        Ok(true)
    }
}

/// What a waiter finds.
enum Look {
    Granted(Arc<Grant>),
    /// Nothing to do until something happens to this key after that index.
    Wait(String, u64),
    /// It has changed meanwhile.
    Again,
}

impl From<Option<Arc<Grant>>> for Look {
    fn from(grant: Option<Arc<Grant>>) -> Self {
        grant.map_or(Self::Again, Self::Granted)
    }
}

/// One round trip for a free exclusive lock, three for a shared one.
pub(crate) async fn acquire(
    state: &Arc<State>,
    acquisition: Acquisition<LockKeys>,
) -> Result<Option<Arc<dyn Hold>>> {
    let Acquisition { id, target: keys, .. } = &acquisition;
    keys::check(&keys.reader(*id), &state.member, "name")?;
    let mut queued = false;
    let result = contend(state, &acquisition, &mut queued).await;
    state.queue_entries.remove(&keys.queue_entry(*id));
    match &result {
        Ok(Some(grant)) => {
            state.grants.insert(*id, grant.clone());
            let (state, grant) = (state.clone(), grant.clone());
            return Ok(Some(Arc::new(EtcdHold { state, grant })));
        }
        Ok(None) if queued => {
            if cancel(state, &acquisition).await.is_err() {
                cancel_later(state, acquisition);
            }
        }
        Err(error) if queued || error.outcome() != Outcome::NotApplied => {
            cancel_later(state, acquisition);
        }
        Ok(None) | Err(_) => {}
    }
    result.map(|_| None)
}

async fn contend(
    state: &Arc<State>,
    acquisition: &Acquisition<LockKeys>,
    queued: &mut bool,
) -> Result<Option<Arc<Grant>>> {
    let Acquisition { id, target: keys, mode, wait, .. } = acquisition;
    match try_acquire(state, acquisition).await? {
        None if !wait.is_over() => {}
        found => return Ok(found),
    }
    let gone = Arc::new(Notify::new());
    *queued = true;
    queue::enter(state, keys, *id, *mode).await?;
    state.queue_entries.insert(keys.queue_entry(*id), gone.clone());
    let mut handed_over = false;
    loop {
        let found = match std::mem::take(&mut handed_over) {
            true => confirm(state, acquisition).await.map(Look::from),
            false => look(state, acquisition).await,
        };
        let watched = match found {
            Ok(Look::Granted(grant)) => return Ok(Some(grant)),
            Ok(Look::Again) => None,
            Ok(Look::Wait(key, since)) => Some((key, since)),
            // A short break does not cost the place in the queue.
            Err(error) if error.is_retryable() && state.lease.is_held() => {
                debug!(%error, "looking again");
                tokio::time::sleep(PAUSE).await;
                None
            }
            Err(error) => return Err(error),
        };
        let happened = async {
            let Some((key, since)) = watched else { return };
            match state.client.watch(&key, since, false).await {
                Ok(Watched::Event(event)) => {
                    let is_ours = event.node.value == state.owner(*id);
                    handed_over = *mode == Mode::Exclusive && is_ours;
                }
                Ok(Watched::Forgotten) => {}
                Err(error) => {
                    debug!(%error, "watching again");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        };
        tokio::select! {
            biased;
            () = wait.over() => return Ok(None),
            _ = state.lease.lost() => return Err(Error::new(
                ErrorKind::SessionLost,
                "the session ended during the wait for the lock",
            )),
            () = happened => {}
            () = gone.notified() => {}
        }
    }
}

/// Acquires it if it is free and nobody is passed by.
async fn try_acquire(
    state: &State,
    acquisition: &Acquisition<LockKeys>,
) -> Result<Option<Arc<Grant>>> {
    let keys = &acquisition.target;
    if acquisition.mode == Mode::Exclusive {
        return take(state, acquisition).await;
    }
    match state.client.get(&keys.key).await?.result {
        Err(Refusal::Missing) => shared::found(state, acquisition).await,
        Ok(event) if is_marker(&event.node.value) => {
            match queue::look(state, keys).await?.entries.is_empty() {
                true => shared::join(state, acquisition, event.node.value).await,
                false => Ok(None),
            }
        }
        Ok(_) => Ok(None),
        Err(refusal) => Err(unexpected("the lock's key", refusal)),
    }
}

async fn take(state: &State, acquisition: &Acquisition<LockKeys>) -> Result<Option<Arc<Grant>>> {
    let (sent, owner) = (Moment::now(), state.owner(acquisition.id));
    let created = queue::create(state, &acquisition.target, &owner).await?;
    Ok(created.map(|token| state.grant(acquisition, owner, token, sent)))
}

/// Makes sure that what was handed over is still there, and lives as long as from now on.
async fn confirm(state: &State, acquisition: &Acquisition<LockKeys>) -> Result<Option<Arc<Grant>>> {
    let (owner, ttl) = (state.owner(acquisition.id), state.config.lock_timeout);
    let answer = state.client.refresh(&acquisition.target.key, ttl, If::Value(&owner)).await?;
    let event = answer.result.ok();
    Ok(event.map(|event| state.grant(acquisition, owner, event.node.modified, answer.sent)))
}

async fn look(state: &Arc<State>, acquisition: &Acquisition<LockKeys>) -> Result<Look> {
    let Acquisition { id, target: keys, mode, .. } = acquisition;
    let (queue, own) = (queue::look(state, keys).await?, id.to_string());
    let position = queue.entries.iter().position(|entry| entry.id == own);
    if let Some(position @ 1..) = position {
        let before = &queue.entries[position - 1].id;
        return Ok(Look::Wait(format!("{}/{before}", keys.queue), queue.index));
    }
    let lock = state.client.get(&keys.key).await?;
    let grant = match lock.result {
        Ok(event) => {
            let value = event.node.value;
            if *mode == Mode::Exclusive && value == state.owner(*id) {
                return confirm(state, acquisition).await.map(Look::from);
            } else if *mode == Mode::Shared && is_marker(&value) {
                shared::join(state, acquisition, value).await?
            } else if position.is_some() {
                return Ok(Look::Wait(keys.key.clone(), lock.index));
            } else {
                // Neither in the queue nor the holder: the server forgot us.
                queue::enter(state, keys, *id, *mode).await?;
                return Ok(Look::Again);
            }
        }
        Err(Refusal::Missing) => match mode {
            Mode::Exclusive => take(state, acquisition).await?,
            Mode::Shared => shared::found(state, acquisition).await?,
        },
        Err(refusal) => return Err(unexpected("the lock's key", refusal)),
    };
    if grant.is_some() {
        // Nobody has handed the lock over and removed the entry, which the next one waits for.
        let (client, entry) = (state.client.clone(), keys.queue_entry(*id));
        tokio::spawn(async move { drop(client.delete(&entry, None).await) });
    }
    Ok(grant.into())
}

/// Undoes whatever the server may have of an acquisition.
async fn cancel(state: &State, acquisition: &Acquisition<LockKeys>) -> Result<()> {
    let Acquisition { id, target: keys, mode, .. } = acquisition;
    state.client.delete(&keys.queue_entry(*id), None).await?;
    // Handed over meanwhile?
    match mode {
        Mode::Exclusive => {
            let owner = state.owner(*id);
            if state.client.has(&keys.key, &owner).await? {
                queue::hand_over(state, keys, If::Value(&owner), Some(*id)).await?;
            }
        }
        Mode::Shared => {
            shared::release(state, keys, *id, &marker(&id.to_string())).await?;
        }
    }
    Ok(())
}

/// The same in the background, as long as the server may know of it.
fn cancel_later(state: &Arc<State>, acquisition: Acquisition<LockKeys>) {
    let (state, ttl) = (state.clone(), state.config.lock_timeout.0);
    tokio::spawn(async move {
        // What is left then expires, with the session or without it.
        let left = Lease::timed(ttl, Moment::now());
        cancel_until_gone(&left, || cancel(&state, &acquisition)).await;
    });
}
