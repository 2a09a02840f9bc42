//! Locks and terms: a key that the session locks, and a queue of those who wait for it.

use std::sync::Arc;
use std::time::Duration;

use tooz_core::kit::{cancel_until_gone, random_part};
use tooz_core::{Acquisition, Hold, LockName, Locks, Mode, Outcome, Result, async_trait};

use crate::hold::{ConsulHold, unlock};
use crate::keys::{LockKeys, lock_value};
use crate::poll::wait;
use crate::queue;
use crate::shared::{self, cohort_of};
use crate::state::{Grant, State};
use crate::transaction::{self, Op};
use crate::watch::KeyWatch;

/// How long to wait when a key is nobody's and cannot be had, because of the lock-delay.
const DELAYED: Duration = Duration::from_millis(100);

/// How often a waiter looks at those who share a lock: if they have all died, nobody tells.
const SHARERS: Duration = Duration::from_secs(1);

/// The locks of a session.
#[derive(Debug)]
pub(crate) struct ConsulLocks(pub(crate) Arc<State>);

#[async_trait]
impl Locks for ConsulLocks {
    async fn acquire(&self, acquisition: Acquisition<LockName>) -> Result<Option<Arc<dyn Hold>>> {
        let keys = self.0.keys().lock(&acquisition.target)?;
        acquire(&self.0, acquisition.with_target(keys)).await
    }

    async fn break_lock(&self, name: &LockName) -> Result<bool> {
        let (state, keys) = (&self.0, self.0.keys().lock(name)?);
        let mut again = false;
        loop {
            let Some(entry) = state.client.get(&keys.key).await? else { return Ok(again) };
            let Some(session) = &entry.session else { return Ok(again) };
            let mut ops = vec![
                Op::check_index(&keys.key, entry.changed),
                Op::unlock(&keys.key, session.as_bytes(), session),
            ];
            let cohort = cohort_of(&entry);
            if cohort.is_some() {
                ops.push(Op::delete_tree(&keys.readers));
            }
            let (outcome, repeated) = state.transact(&ops).await?;
            if let transaction::Outcome::Done(_) = outcome {
                if let Some(cohort) = cohort {
                    shared::end_cohort(state, cohort.clone());
                }
                for grant in state.grants.values().iter().filter(|g| g.keys.key == keys.key) {
                    state.lose(grant);
                }
                return Ok(true);
            }
            // What an attempt did whose reply was lost is undone now.
            again |= repeated;
        }
    }
}

/// One request if it is free; else an entry in the queue, and two requests when our turn comes.
pub(crate) async fn acquire(
    state: &Arc<State>,
    acquisition: Acquisition<LockKeys>,
) -> Result<Option<Arc<dyn Hold>>> {
    let local = state.local_lock(&acquisition.target.key);
    let local = match local.clone().try_lock_owned() {
        Ok(local) => local,
        Err(_) if acquisition.wait.is_over() => return Ok(None),
        Err(_) => tokio::select! {
            local = local.lock_owned() => local,
            () = acquisition.wait.over() => return Ok(None),
        },
    };
    let mut queued = false;
    match contend(state, &acquisition, &mut queued).await {
        Ok(Some(grant)) => {
            if grant.cohort.is_none() {
                grant.keep(local);
            }
            if queued {
                let (state, keys) = (state.clone(), acquisition.target);
                tokio::spawn(async move { queue::remove_marker(&state, &keys).await });
            }
            state.grants.insert(grant.id, grant.clone());
            Ok(Some(Arc::new(ConsulHold { state: state.clone(), grant })))
        }
        result => {
            let unknown = result.as_ref().is_err_and(|error| error.outcome() == Outcome::Unknown);
            if queued || unknown {
                // Nobody of this session contends for it before that is done.
                let state = state.clone();
                tokio::spawn(async move {
                    cancel_until_gone(&state.lease, || cancel(&state, &acquisition)).await;
                    drop(local);
                });
            }
            result.map(|_| None)
        }
    }
}

async fn contend(
    state: &Arc<State>,
    acquisition: &Acquisition<LockKeys>,
    queued: &mut bool,
) -> Result<Option<Arc<Grant>>> {
    let Acquisition { id, target: keys, wait: limit, .. } = acquisition;
    // Whoever does not wait does not enter the queue, and so need not respect it.
    match try_acquire(state, acquisition, false).await? {
        None if !limit.is_over() => {}
        found => return Ok(found),
    }
    loop {
        // Even if the request's fate is unknown: it is to be cancelled.
        *queued = true;
        queue::enter(state, keys, *id).await?;
        tokio::select! {
            first = queue::first(state, keys, *id) => if first? { break },
            () = limit.over() => return Ok(None),
        }
        // Somebody has wiped the queue.
    }
    let mut watch = KeyWatch::new(&state.poller, &keys.key);
    let mut is_shared = false;
    loop {
        let entry = tokio::select! {
            entry = watch.next(if is_shared { SHARERS } else { wait() }) => entry?,
            () = limit.over() => return Ok(None),
        };
        is_shared = entry.as_ref().is_some_and(|entry| cohort_of(entry).is_some());
        let is_free = entry.is_none_or(|entry| entry.session.is_none());
        if !is_free && !is_shared {
            continue;
        }
        if let Some(grant) = try_acquire(state, acquisition, true).await? {
            return Ok(Some(grant));
        }
        if is_free {
            tokio::select! {
                () = tokio::time::sleep(DELAYED + random_part(DELAYED)) => {
                    watch = KeyWatch::new(&state.poller, &keys.key);
                }
                () = limit.over() => return Ok(None),
            }
        }
    }
}

/// Tries once, as the first in the queue or past it. `None` if somebody has it, or waits for it.
async fn try_acquire(
    state: &Arc<State>,
    acquisition: &Acquisition<LockKeys>,
    is_first: bool,
) -> Result<Option<Arc<Grant>>> {
    let Acquisition { id, target: keys, mode, wait, .. } = acquisition;
    if *mode == Mode::Shared {
        return shared::acquire(state, acquisition, is_first).await;
    }
    let lock = Op::lock(&keys.key, &lock_value(*id, &state.member), &state.presence.locks);
    let (ops, locks) = if is_first {
        (vec![lock, Op::delete(&keys.queue_entry(*id))], 0)
    } else if wait.is_over() {
        (vec![lock], 0)
    } else {
        (vec![Op::check_absent(&keys.marker), lock], 1)
    };
    loop {
        // Once more does no harm: the same session gets it again, and nobody else of it contends.
        match state.transact(&ops).await?.0 {
            transaction::Outcome::Done(done) => {
                return Ok(Some(state.grant(acquisition, done.index(&keys.key), None)));
            }
            transaction::Outcome::Refused(refusal) => {
                if !refusal.has(locks) || !shared::reap(state, keys).await? {
                    return Ok(None);
                }
            }
        }
    }
}

/// Undoes an acquisition whose fate is unknown or that is in the queue.
async fn cancel(state: &Arc<State>, acquisition: &Acquisition<LockKeys>) -> Result<()> {
    let Acquisition { id, target: keys, mode, .. } = acquisition;
    state.transact(&[Op::delete(&keys.queue_entry(*id))]).await?;
    queue::remove_marker(state, keys).await;
    match mode {
        Mode::Shared => shared::release(state, keys, *id).await.map(drop),
        Mode::Exclusive => unlock(state, &state.exclusive_key(acquisition), None).await.map(drop),
    }
}
