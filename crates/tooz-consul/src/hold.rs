use std::sync::Arc;

use tooz_core::{FencingToken, Hold, Lease, Release, Result, async_trait};

use crate::presence;
use crate::shared;
use crate::state::{Grant, OwnedKey, State};
use crate::transaction::{Op, Outcome};

/// A lock or a term that is ours.
#[derive(Debug)]
pub(crate) struct ConsulHold {
    pub(crate) state: Arc<State>,
    pub(crate) grant: Arc<Grant>,
}

#[async_trait]
impl Hold for ConsulHold {
    fn token(&self) -> FencingToken {
        self.grant.token
    }

    fn lease(&self) -> &Lease {
        &self.grant.lease
    }

    async fn verify(&self) -> Result<bool> {
        let (client, owned) = (&self.state.client, &self.grant.owned);
        if let Some(cohort) = &self.grant.cohort
            && !presence::renew(client, cohort).await?
        {
            return Ok(false);
        }
        Ok(owned.is_ours(client.get(&owned.key).await?.as_ref()))
    }

    async fn release(&self) -> Result<Release> {
        let Self { state, grant } = self;
        let released = match grant.cohort {
            None => unlock(state, &grant.owned, Some(grant.token.0)).await?,
            Some(_) => shared::release(state, &grant.keys, grant.id).await?,
        };
        state.remove(grant);
        Ok(if released { Release::Released } else { Release::WasLost })
    }
}

/// Unlocks a key that is still ours; whether it was. `changed` is the index of its last change, if
/// that is known.
pub(crate) async fn unlock(
    state: &State,
    owned: &OwnedKey,
    mut changed: Option<u64>,
) -> Result<bool> {
    let OwnedKey { key, session, .. } = owned;
    let mut again = false;
    loop {
        let index = match changed.take() {
            Some(index) => index,
            None => match state.client.get(key).await? {
                Some(entry) if owned.is_ours(Some(&entry)) => entry.changed,
                // By an attempt whose reply was lost.
                _ => return Ok(again),
            },
        };
        let ops = [Op::check_index(key, index), Op::unlock(key, session.as_bytes(), session)];
        match state.transact(&ops).await? {
            (Outcome::Done(_), _) => return Ok(true),
            (Outcome::Refused(_), repeated) => again |= repeated,
        }
    }
}
