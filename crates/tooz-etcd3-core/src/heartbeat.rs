//! Renewals, and a look at what is attached to the session's lease: what is no longer ours, and what
//! is left of requests that came to the server after we had given them up.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tokio::task::JoinSet;
use tooz_core::{GroupId, Hold, Loss, Moment, Result};
use tracing::debug;

use crate::hold::EtcdHold;
use crate::keys;
use crate::state::{Grant, Membership, State};
use crate::txn::{Range, Test, Txn};

/// One round trip: all requests are sent at once.
pub(crate) async fn renew(state: &Arc<State>) -> Result<()> {
    // Before the requests: what is granted meanwhile may not be attached yet.
    let (grants, memberships) = (state.grants.values(), state.memberships.entries());
    let (renewed, attached, renewals) = tokio::join!(
        renew_session(state),
        state.client.attached(state.id),
        renew_shared(state, &grants)
    );
    renewed?;
    for grant in &grants {
        match grant.readers_lease.and_then(|readers_lease| renewals.get(&readers_lease)) {
            Some(Some(sent)) => drop(grant.lease.renewed(*sent)),
            Some(None) => grant.lease.lose(Loss::Taken),
            None => {}
        }
    }
    match attached {
        Ok(Some(keys)) => {
            let keys: BTreeSet<_> = keys.into_iter().collect();
            let all_there = grants.iter().all(|grant| keys.contains(&grant.key()))
                && keys.len() == grants.len() + memberships.len() + 1;
            if !all_there {
                let state = state.clone();
                // Beside the renewal, which must not wait for it.
                tokio::spawn(async move { reconcile(&state, keys, grants, memberships).await });
            }
        }
        Ok(None) => return Err(state.session_lost()),
        // It proves nothing, and the next heartbeat asks again.
        Err(error) => debug!(%error, "the keys of the lease could not be read"),
    }
    Ok(())
}

/// Renews the session's lease, which counts at once, however long the rest takes.
async fn renew_session(state: &State) -> Result<()> {
    let sent = state.client.keep_alive(state.id).await?.ok_or_else(|| state.session_lost())?;
    state.lease.renewed(sent);
    Ok(())
}

/// Renews the leases of shared locks: when that was sent; `None` for those that have ended.
async fn renew_shared(state: &Arc<State>, grants: &[Arc<Grant>]) -> HashMap<i64, Option<Moment>> {
    let leases: BTreeSet<_> = grants.iter().filter_map(|grant| grant.readers_lease).collect();
    let mut renewals = JoinSet::new();
    for lease in leases {
        let state = state.clone();
        renewals.spawn(async move { (lease, state.client.keep_alive(lease).await) });
    }
    let mut renewed = HashMap::new();
    while let Some(renewal) = renewals.join_next().await {
        match renewal {
            Ok((lease, Ok(sent))) => drop(renewed.insert(lease, sent)),
            Ok((_, Err(error))) => debug!(%error, "a shared lock is not renewed yet"),
            Err(error) => debug!(%error, "a renewal ended"),
        }
    }
    renewed
}

/// Looks into the differences between what is ours and what is attached. The list of attached keys
/// may be older or newer than other requests, so each difference is checked by a transaction.
async fn reconcile(
    state: &Arc<State>,
    mut attached: BTreeSet<Vec<u8>>,
    grants: Vec<Arc<Grant>>,
    memberships: Vec<(GroupId, Membership)>,
) {
    for grant in grants {
        if attached.remove(&grant.key()) {
            continue;
        }
        let hold = EtcdHold { state: state.clone(), grant };
        if hold.verify().await.is_ok_and(|ours| !ours) {
            // Quietly if it was released meanwhile.
            hold.lease().lose(Loss::Taken);
        }
    }
    for (group, membership) in memberships {
        let key = state.keys().member(&group, &state.member);
        if attached.remove(&key) {
            continue;
        }
        let Ok([found]) = state.client.read([key]).await else { continue };
        if found.is_none_or(|found| found.create_revision != membership.revision) {
            state.membership_lost(&group, &membership);
        }
    }
    let session = state.keys().session(state.id);
    for key in attached.into_iter().filter(|key| !key.starts_with(&session)) {
        if let Err(error) = reap(state, key).await {
            debug!(%error, "the next heartbeat will remove a remnant");
        }
    }
}

/// Removes a key of ours if no operation knows of it.
async fn reap(state: &State, key: Vec<u8>) -> Result<()> {
    if state.keys().operation_of(&key).is_some_and(|operation| state.knows(operation)) {
        return Ok(());
    }
    let [Some(found)] = state.client.read([key]).await? else { return Ok(()) };
    let is_known = if let Some(operation) = state.keys().operation_of(&found.key) {
        state.knows(operation)
    } else if state.keys().is_member(&found.key) {
        let ours = |(group, _): &(_, _)| state.keys().member(group, &state.member) == found.key;
        !state.joins.is_none() || state.memberships.entries().iter().any(ours)
    } else {
        state.knows(&keys::operation_in(&found.value))
    };
    if is_known || found.lease != state.id {
        return Ok(());
    }
    debug!(key = %found.key.escape_ascii(), "removing the remnant of an abandoned request");
    let key = Range::key(found.key);
    let unchanged = key.clone().is(Test::ModifiedAt(found.mod_revision));
    state.client.txn(&Txn::when(vec![unchanged], vec![key.delete()])).await.map(drop)
}
