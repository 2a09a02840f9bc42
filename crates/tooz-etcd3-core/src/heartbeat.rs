//! Renewals, and a look at what is attached to the session's lease: what was taken away, and what is
//! left of requests that came to the server after we had given them up.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::task::JoinSet;
use tooz_core::{Hold, Loss, Moment, Result};
use tracing::debug;

use crate::hold::EtcdHold;
use crate::keys;
use crate::session::{Life, Membership};
use crate::transport::{Range, Test, Txn};

/// One round trip: all requests are sent at once.
pub(crate) async fn renew(life: &Arc<Life>) -> Result<()> {
    // Before the requests: what is granted meanwhile may not be attached yet.
    let (holds, memberships) = (life.holds(), life.memberships());
    let (renewed, attached, common) =
        tokio::join!(renew_own(life), life.client.attached(life.id), renew_common(life, &holds));
    let renewed = renewed?;
    for hold in &holds {
        match hold.common_lease().and_then(|common_lease| common.get(&common_lease)) {
            Some(Some(sent)) => drop(hold.lease().renewed(renewed.min(*sent))),
            Some(None) => hold.lease().lose(Loss::Taken),
            None => {}
        }
    }
    match attached {
        Ok(Some(keys)) => {
            let keys: BTreeSet<_> = keys.into_iter().collect();
            let all_there = holds.iter().all(|hold| keys.contains(&hold.key()))
                && keys.len() == holds.len() + memberships.len() + 1;
            if !all_there {
                let life = life.clone();
                // Beside the renewal, which must not wait for it.
                tokio::spawn(async move { compare(&life, keys, &holds, &memberships).await });
            }
        }
        Ok(None) => return Err(life.forgotten()),
        // It proves nothing, and the next heartbeat asks again.
        Err(error) => debug!(%error, "what is attached to the lease is not known"),
    }
    Ok(())
}

/// Renews the session's lease, which counts at once, however long the rest takes; when that was sent.
async fn renew_own(life: &Life) -> Result<Moment> {
    let renewed = life.client.keep_alive(life.id).await?;
    if renewed.value == 0 {
        return Err(life.forgotten());
    }
    life.lease.renewed(renewed.sent);
    Ok(renewed.sent)
}

/// Renews the leases of shared locks: when that was sent; `None` for those that have ended.
async fn renew_common(life: &Arc<Life>, holds: &[Arc<EtcdHold>]) -> HashMap<i64, Option<Moment>> {
    let leases: BTreeSet<_> = holds.iter().filter_map(|hold| hold.common_lease()).collect();
    let mut renewals = JoinSet::new();
    for lease in leases {
        let life = life.clone();
        renewals.spawn(async move { (lease, life.client.keep_alive(lease).await) });
    }
    let mut renewed = HashMap::new();
    while let Some(renewal) = renewals.join_next().await {
        match renewal {
            Ok((lease, Ok(answer))) => {
                renewed.insert(lease, (answer.value > 0).then_some(answer.sent));
            }
            Ok((_, Err(error))) => debug!(%error, "a shared lock is not renewed yet"),
            Err(error) => debug!(%error, "a renewal ended"),
        }
    }
    renewed
}

/// Looks into the differences between what is ours and what is attached. The list of attached keys
/// may be older or newer than other requests, so each difference is checked by a transaction.
async fn compare(
    life: &Life,
    mut attached: BTreeSet<Vec<u8>>,
    holds: &[Arc<EtcdHold>],
    memberships: &[(tooz_core::GroupId, Membership)],
) {
    for hold in holds {
        if !attached.remove(&hold.key()) && hold.verify().await.is_ok_and(|ours| !ours) {
            // Quietly if it was given back meanwhile.
            hold.lease().lose(Loss::Taken);
        }
    }
    for (group, membership) in memberships {
        let key = life.keys().member(group, &life.member);
        if attached.remove(&key) {
            continue;
        }
        let read = Txn::read(vec![Range::key(key).get()]);
        let Ok(mut answer) = life.client.txn(&read).await else { continue };
        let is_there = answer.value.first(0).map(|found| found.create_revision);
        if is_there != Some(membership.revision) {
            life.lost_membership(group, membership);
        }
    }
    let session = life.keys().session(life.id);
    for key in attached.into_iter().filter(|key| !key.starts_with(&session)) {
        if let Err(error) = remove_remnant(life, key).await {
            debug!(%error, "a remnant is left to the next heartbeat");
        }
    }
}

/// Removes a key of ours that no operation knows of.
async fn remove_remnant(life: &Life, key: Vec<u8>) -> Result<()> {
    if life.keys().operation_of(&key).is_some_and(|operation| life.knows(operation)) {
        return Ok(());
    }
    let range = Range::key(key);
    let read = Txn::read(vec![range.clone().get()]);
    let Some(found) = life.client.txn(&read).await?.value.first(0) else { return Ok(()) };
    let is_known = if let Some(operation) = life.keys().operation_of(&found.key) {
        life.knows(operation)
    } else if life.keys().is_member(&found.key) {
        let ours = |(group, _): &(_, _)| life.keys().member(group, &life.member) == found.key;
        life.joining.load(Ordering::SeqCst) > 0 || life.memberships().iter().any(ours)
    } else {
        life.knows(&keys::operation_in(&found.value))
    };
    if is_known || found.lease != life.id {
        return Ok(());
    }
    debug!(key = %found.key.escape_ascii(), "removing what is left of an abandoned request");
    let when = vec![range.clone().is(Test::ModifiedAt(found.mod_revision))];
    life.client.txn(&Txn { when, then: vec![range.delete()], or: Vec::new() }).await.map(drop)
}
