//! The renewal of everything: the check, the sessions, and a look at all that is held, in requests
//! that are sent together.

use tooz_core::{Loss, Moment, Result};

use crate::shared;
use crate::state::{OwnedKey, State};

pub(crate) async fn renew(state: &State) -> Result<()> {
    let (grants, mut memberships) = (state.grants.values(), Vec::new());
    for (group, lease) in state.memberships.entries() {
        let key = state.keys().member(&group, &state.member)?;
        let session = state.presence.members.clone();
        memberships.push((OwnedKey { key, session, value: None }, lease));
    }
    let owned = grants.iter().map(|grant| &grant.owned);
    let owned = owned.chain(memberships.iter().map(|(owned, _)| owned));
    let keys: Vec<_> = owned.map(|owned| owned.key.as_str()).collect();

    let sent = Moment::now();
    let (renewed, cohorts, found) = tokio::join!(
        state.presence.renew(&state.heartbeats),
        shared::renew_cohorts(state, &grants),
        state.heartbeats.get_each(&keys),
    );
    if let Ok(false) = renewed {
        return Err(state.session_lost());
    }
    // What is gone is reported even if the rest failed.
    let found = found?;
    let is_gone = |owned: &OwnedKey| !owned.is_ours(found.get(&owned.key));
    for grant in grants.iter().filter(|grant| is_gone(&grant.owned)) {
        state.lose(grant);
    }
    for (_, lease) in memberships.iter().filter(|(owned, _)| is_gone(owned)) {
        lease.lose(Loss::Taken);
    }
    state.memberships.retain(|_, lease| lease.is_held());
    renewed?;
    cohorts?;
    state.lease.renewed(sent);
    Ok(())
}
