//! Shared locks, which peers of another kind respect.
//!
//! The lock's key belongs to a session of its own, the cohort's, which all who share the lock keep
//! alive. Each of them has a key among the readers besides, which belongs to its own session. Every
//! one that comes or goes changes the lock's key, so that the last one knows that it is.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::future::join_all;
use tooz_core::{Acquisition, OperationId, Result};
use tracing::debug;

use crate::keys::LockKeys;
use crate::presence;
use crate::queue;
use crate::state::{Grant, State};
use crate::transaction::{Entry, Op, Outcome};

/// What the value of a key that is shared begins with.
const COHORT: &[u8] = b"shared:";

/// The session of those who share a key.
pub(crate) fn cohort_of(entry: &Entry) -> Option<&String> {
    entry.session.as_ref().filter(|_| entry.value.starts_with(COHORT))
}

/// A new value of a key that is shared: servers take no notice of one that is as it was.
fn change(id: OperationId) -> Vec<u8> {
    [COHORT, id.to_string().as_bytes()].concat()
}

/// Joins those who share it, or is the first of them: two requests, or three. `None` if somebody has
/// it, or waits for it.
pub(crate) async fn acquire(
    state: &Arc<State>,
    acquisition: &Acquisition<LockKeys>,
    is_first: bool,
) -> Result<Option<Arc<Grant>>> {
    let Acquisition { id, target: keys, wait, .. } = acquisition;
    let mut respects_queue = !is_first;
    loop {
        let entry = state.client.get(&keys.key).await?;
        let (cohort, is_new) = match &entry {
            Some(entry) if entry.session.is_some() => {
                let Some(cohort) = cohort_of(entry) else { return Ok(None) };
                if !presence::renew(&state.client, cohort).await? {
                    // The last of them just went.
                    continue;
                }
                (cohort.clone(), false)
            }
            _ => (presence::create_cohort(&state.client, &state.config).await?, true),
        };
        let mut ops = Vec::new();
        if is_new {
            ops.push(Op::lock(&keys.key, &change(*id), &cohort));
        } else {
            ops.push(Op::check_session(&keys.key, &cohort));
            // The change tells whoever goes that somebody came.
            ops.push(Op::set(&keys.key, &change(*id)));
        }
        ops.push(Op::lock(&keys.reader(*id), b"", &state.presence.members));
        if is_first {
            ops.push(Op::delete(&keys.queue_entry(*id)));
        }
        let marker = ops.len();
        if respects_queue {
            ops.push(Op::check_absent(&keys.marker));
        }
        let outcome = state.transact(&ops).await;
        if let Ok((Outcome::Done(done), _)) = &outcome {
            return Ok(Some(state.grant(acquisition, done.index(&keys.key), Some(cohort))));
        }
        if is_new {
            end_cohort(state, cohort);
        }
        let Outcome::Refused(refusal) = outcome?.0 else { continue };
        if refusal.has(marker) {
            if !wait.is_over() || !queue::is_empty(state, keys).await? {
                return Ok(None);
            }
            // A marker that somebody left.
            respects_queue = false;
        } else if is_new && !refusal.has(0) {
            return Ok(None);
        } else if is_new && state.client.get(&keys.key).await?.is_none_or(|e| e.session.is_none()) {
            // Nobody's, and not to be had: the lock-delay.
            return Ok(None);
        }
    }
}

/// Leaves those who share it, and frees it as the last of them; whether it was one of them.
pub(crate) async fn release(state: &Arc<State>, keys: &LockKeys, id: OperationId) -> Result<bool> {
    let reader = keys.reader(id);
    let (mut again, mut freed) = (false, None);
    loop {
        // In one look: what comes and goes after it changes the lock's key.
        let found = state.client.read(&[Op::get(&keys.key), Op::tree(&keys.readers)]).await?;
        let Outcome::Done(done) = found else { return Ok(again) };
        let is_ours = |entry: &Entry| entry.key == reader && entry.is_of(&state.presence.members);
        let (Some(lock), true) = (done.entry(&keys.key), done.entries.iter().any(is_ours)) else {
            // By an attempt whose reply was lost, or with its session, perhaps as the last.
            match freed.take().filter(|_| again) {
                Some(cohort) => end_cohort(state, cohort),
                None => drop(reap(state, keys).await?),
            }
            return Ok(again);
        };
        let Some(cohort) = cohort_of(lock).cloned() else { return Ok(again) };
        let is_last = done.entries.len() == 2;
        let ops = [
            Op::check_index(&keys.key, lock.changed),
            Op::delete(&reader),
            match is_last {
                true => Op::unlock(&keys.key, cohort.as_bytes(), &cohort),
                false => Op::set(&keys.key, &change(OperationId::random())),
            },
        ];
        let (outcome, repeated) = state.transact(&ops).await?;
        if let Outcome::Done(_) = outcome {
            if is_last {
                end_cohort(state, cohort);
            }
            return Ok(true);
        }
        // What an attempt did whose reply was lost is found undone.
        again |= repeated;
        freed = is_last.then_some(cohort);
    }
}

/// Frees a lock whose readers have all died; whether it did.
pub(crate) async fn reap(state: &Arc<State>, keys: &LockKeys) -> Result<bool> {
    let found = state.client.read(&[Op::get(&keys.key), Op::tree(&keys.readers)]).await?;
    let Outcome::Done(done) = found else { return Ok(false) };
    let [lock] = &done.entries[..] else { return Ok(false) };
    let Some(cohort) = cohort_of(lock) else { return Ok(false) };
    let ops = [
        Op::check_index(&lock.key, lock.changed),
        Op::unlock(&lock.key, cohort.as_bytes(), cohort),
    ];
    let is_freed = matches!(state.transact(&ops).await?.0, Outcome::Done(_));
    if is_freed {
        end_cohort(state, cohort.clone());
    }
    Ok(is_freed)
}

/// Ends a cohort's session, which has nothing any more.
pub(crate) fn end_cohort(state: &State, cohort: String) {
    let (client, underway) = (state.client.clone(), state.in_flight.begin());
    tokio::spawn(async move {
        if let Err(error) = presence::destroy(&client, &cohort).await {
            debug!(%error, "a session is left to expire");
        }
        drop(underway);
    });
}

/// Renews the cohorts of shared locks. A lost one is reported through its lease.
pub(crate) async fn renew_cohorts(state: &State, grants: &[Arc<Grant>]) -> Result<()> {
    let cohorts: HashSet<_> = grants.iter().filter_map(|grant| grant.cohort.as_ref()).collect();
    let renewals = cohorts.into_iter().map(async |cohort| {
        if !presence::renew(&state.heartbeats, cohort).await? {
            for grant in grants.iter().filter(|grant| grant.cohort.as_ref() == Some(cohort)) {
                state.lose(grant);
            }
        }
        Ok(())
    });
    join_all(renewals).await.into_iter().collect()
}
