//! The renewal of everything: one request for each key, as the API has none for several, and a
//! bounded number of them at a time.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tooz_core::{Error, ErrorKind, GroupId, Hold, Loss, Result};

use crate::group;
use crate::session::{Life, Membership};
use crate::store::{If, Refusal};

/// How many requests are under way at once: each has a connection for itself.
const AT_ONCE: usize = 16;

pub(crate) async fn renew(life: &Arc<Life>) -> Result<()> {
    let key = life.keys().session(life.id);
    let ttl = life.config.membership_timeout;
    let answer = life.store.refresh(&key, ttl, If::Present).await?;
    if answer.result.is_err() {
        return Err(life.forgotten());
    }
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut renewals = JoinSet::new();
    for hold in life.holds() {
        let (life, turns) = (life.clone(), turns.clone());
        renewals.spawn(async move {
            let _turn = turns.acquire().await;
            match hold.renew().await? {
                Some(sent) => drop(hold.lease().renewed(sent)),
                None => {
                    hold.lease().lose(Loss::Taken);
                    life.remove_hold(hold.id());
                }
            }
            Ok(())
        });
    }
    for (group, membership) in life.memberships() {
        let (life, turns) = (life.clone(), turns.clone());
        renewals.spawn(async move {
            let _turn = turns.acquire().await;
            renew_membership(&life, &group, &membership).await
        });
    }
    for (place, notify) in life.places() {
        let (life, turns) = (life.clone(), turns.clone());
        renewals.spawn(async move {
            let _turn = turns.acquire().await;
            let answer = life.store.refresh(&place, life.config.lock_timeout, If::Present).await?;
            if answer.result.is_err() {
                // Given the lock, or wiped away: its owner looks.
                notify.notify_one();
            }
            Ok(())
        });
    }
    let mut result: Result<()> = Ok(());
    while let Some(renewed) = renewals.join_next().await {
        let renewed = renewed.unwrap_or_else(|e| {
            Err(Error::new(ErrorKind::Internal, "a renewal panicked").caused_by(e))
        });
        result = result.and(renewed);
    }
    result?;
    // Only now: what the session's lease stands for is renewed as a whole.
    if life.lease.renewed(answer.sent) { Ok(()) } else { Err(life.forgotten()) }
}

async fn renew_membership(life: &Life, group: &GroupId, membership: &Membership) -> Result<()> {
    let (key, ttl) = (life.keys().member(group, &life.member), life.config.membership_timeout);
    loop {
        let answer = life.store.refresh(&key, ttl, membership.proof()).await?;
        match answer.result {
            Ok(event) => {
                membership.index.fetch_max(event.node.modified, Ordering::Relaxed);
                membership.lease.renewed(answer.sent);
                return Ok(());
            }
            // Changed since: by ourselves, if it still has our session's name.
            Err(Refusal::Differs) => match life.store.get(&key).await?.result {
                Ok(event) if group::is_of(life, &event.node) => {
                    membership.index.fetch_max(event.node.modified, Ordering::Relaxed);
                }
                _ => break,
            },
            Err(_) => break,
        }
    }
    membership.lease.lose(Loss::Taken);
    Ok(())
}
