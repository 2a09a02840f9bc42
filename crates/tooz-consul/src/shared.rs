//! Shared locks, which peers of another kind respect.
//!
//! The lock's key belongs to a session of its own, the cohort's, which all who share the lock keep
//! alive. Each of them has a key among the readers besides, which belongs to its own session. Every
//! one that comes or goes changes the lock's key, so that the last one knows that it is.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::future::join_all;
use tooz_core::{ErrorKind, FencingToken, Hold, Loss, OperationId, Result};
use tracing::debug;

use crate::keys::Prize;
use crate::lock::{Attempt, ConsulHold, Kind, Step};
use crate::presence;
use crate::queue;
use crate::session::{Life, lock};
use crate::transaction::{Entry, Op, Outcome};

/// What the value of a key that is shared begins with.
const COHORT: &[u8] = b"shared:";

/// One of those who share a lock.
pub(crate) struct Share {
    pub(crate) cohort: String,
}

pub(crate) fn is_cohort(value: &[u8]) -> bool {
    value.starts_with(COHORT)
}

pub(crate) fn is_shared(entry: &Entry) -> bool {
    entry.session.is_some() && is_cohort(&entry.value)
}

/// A new value of a key that is shared: servers take no notice of one that is as it was.
fn change(id: OperationId) -> Vec<u8> {
    [COHORT, id.to_string().as_bytes()].concat()
}

/// Joins those who share it, or is the first of them: two requests, or three.
pub(crate) async fn take(life: &Arc<Life>, attempt: &Attempt, first: bool) -> Result<Step> {
    let prize = &attempt.prize;
    let mut respects_queue = !first;
    loop {
        let state = life.api().get(&prize.key).await?;
        let (cohort, is_new) = match &state {
            Some(Entry { session: Some(cohort), value, .. }) if is_cohort(value) => {
                match presence::renew(life.api(), cohort).await {
                    // The last of them just went.
                    Err(error) if error.kind() == ErrorKind::SessionLost => continue,
                    renewed => renewed?,
                }
                (cohort.clone(), false)
            }
            Some(Entry { session: Some(_), .. }) => return Ok(Step::Taken),
            _ => (presence::create_cohort(&life.config).await?, true),
        };
        let mut ops = Vec::new();
        if is_new {
            ops.push(Op::lock(&prize.key, &change(attempt.id), &cohort));
        } else {
            ops.push(Op::check_session(&prize.key, &cohort));
            // The change tells whoever goes that somebody came.
            ops.push(Op::set(&prize.key, &change(attempt.id)));
        }
        ops.push(Op::lock(&prize.share(attempt.id), b"", &life.presence.members));
        if first {
            ops.push(Op::delete(&prize.place(attempt.id)));
        }
        let marker = ops.len();
        if respects_queue {
            ops.push(Op::check_absent(&prize.marker));
        }
        let taken = life.transact(&ops).await;
        if let Ok((Outcome::Done(done), _)) = &taken {
            let token = FencingToken(done.index(&prize.key));
            let kind = Kind::Shared(Share { cohort });
            return Ok(Step::Granted(ConsulHold::new(life, attempt, token, kind)));
        }
        if is_new {
            disband(life, cohort);
        }
        let Outcome::Refused(refusal) = taken?.0 else { continue };
        if refusal.has(marker) {
            if !attempt.waiting.is_over() || !queue::is_empty(life, prize).await? {
                return Ok(Step::Queued);
            }
            // A marker that somebody left.
            respects_queue = false;
        } else if is_new && !refusal.has(0) {
            return Ok(Step::Taken);
        } else if is_new && life.api().get(&prize.key).await?.is_none_or(|e| e.session.is_none()) {
            // Nobody's, and not to be had: the lock-delay.
            return Ok(Step::Taken);
        }
    }
}

/// Leaves those who share it, and frees it as the last of them; whether it was one of them.
pub(crate) async fn leave(life: &Arc<Life>, prize: &Prize, id: OperationId) -> Result<bool> {
    let share = prize.share(id);
    let (mut again, mut freed) = (false, None);
    loop {
        // In one look: what comes and goes after it changes the lock's key.
        let state = life.api().read(&[Op::get(&prize.key), Op::tree(&prize.readers)]).await?;
        let Outcome::Done(done) = state else { return Ok(again) };
        let is_ours = |entry: &Entry| entry.key == share && entry.is_of(&life.presence.members);
        let (Some(lock), true) = (done.entry(&prize.key), done.entries.iter().any(is_ours)) else {
            // By an attempt whose reply was lost, or with its session, perhaps as the last.
            match freed.take().filter(|_| again) {
                Some(cohort) => disband(life, cohort),
                None => drop(clear_dead(life, prize).await?),
            }
            return Ok(again);
        };
        let Some(cohort) = lock.session.clone().filter(|_| is_cohort(&lock.value)) else {
            return Ok(again);
        };
        let is_last = done.entries.len() == 2;
        let ops = [
            Op::check_index(&prize.key, lock.changed),
            Op::delete(&share),
            match is_last {
                true => Op::unlock(&prize.key, cohort.as_bytes(), &cohort),
                false => Op::set(&prize.key, &change(OperationId::random())),
            },
        ];
        let (outcome, repeated) = life.transact(&ops).await?;
        if let Outcome::Done(_) = outcome {
            if is_last {
                disband(life, cohort);
            }
            return Ok(true);
        }
        // What an attempt did whose reply was lost is found undone.
        again |= repeated;
        freed = is_last.then_some(cohort);
    }
}

/// Frees a lock whose sharers have all died; whether it did.
pub(crate) async fn clear_dead(life: &Arc<Life>, prize: &Prize) -> Result<bool> {
    let state = life.api().read(&[Op::get(&prize.key), Op::tree(&prize.readers)]).await?;
    let Outcome::Done(done) = state else { return Ok(false) };
    let [lock] = &done.entries[..] else { return Ok(false) };
    let Some(cohort) = lock.session.clone().filter(|_| is_cohort(&lock.value)) else {
        return Ok(false);
    };
    let ops = [
        Op::check_index(&lock.key, lock.changed),
        Op::unlock(&lock.key, cohort.as_bytes(), &cohort),
    ];
    let cleared = matches!(life.transact(&ops).await?.0, Outcome::Done(_));
    if cleared {
        disband(life, cohort);
    }
    Ok(cleared)
}

/// Ends a cohort's session, which has nothing any more.
pub(crate) fn disband(life: &Arc<Life>, cohort: String) {
    let mut disbanding = lock(&life.disbanding);
    // Those that have ended.
    while disbanding.try_join_next().is_some() {}
    let life = life.clone();
    disbanding.spawn(async move {
        if let Err(error) = presence::destroy(life.api(), &cohort).await {
            debug!(%error, "a session is left to expire");
        }
    });
}

/// Renews the cohorts of all shared locks held. What is lost is told through its lease.
pub(crate) async fn renew_all(life: &Life) -> Result<()> {
    let holds = life.holds();
    let cohorts: HashSet<_> = holds.iter().filter_map(|hold| hold.cohort()).collect();
    let renewals =
        cohorts.into_iter().map(async |cohort| match presence::renew(&life.heart, cohort).await {
            Err(error) if error.kind() == ErrorKind::SessionLost => {
                for hold in holds.iter().filter(|hold| hold.cohort() == Some(cohort)) {
                    hold.lease().lose(Loss::Taken);
                    hold.is_gone();
                }
                Ok(())
            }
            renewed => renewed,
        });
    join_all(renewals).await.into_iter().collect()
}
