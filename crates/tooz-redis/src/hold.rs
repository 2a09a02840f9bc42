//! A lock or a term that is ours.

use std::fmt;
use std::sync::Arc;

use redis::Value;
use tooz_core::{Error, FencingToken, Hold, Lease, Release, Result, async_trait};

use crate::scripts::Script;
use crate::state::{Grant, State};

pub(crate) struct RedisHold {
    pub(crate) state: Arc<State>,
    pub(crate) grant: Arc<Grant>,
}

#[async_trait]
impl Hold for RedisHold {
    fn token(&self) -> FencingToken {
        self.grant.token
    }

    fn lease(&self) -> &Lease {
        &self.grant.lease
    }

    async fn verify(&self) -> Result<bool> {
        let request = self.state.grant_request(Script::Verify, &self.grant);
        match self.state.client.call(&request).await?.value {
            Value::Int(ours) => Ok(ours == 1),
            _ => Err(Error::unexpected_answer()),
        }
    }

    async fn release(&self) -> Result<Release> {
        let (state, grant) = (&self.state, &self.grant);
        state.grants.remove(&grant.id);
        let request = state.grant_request(Script::Release, grant);
        let answer = state.client.call(&request).await?;
        match answer.value {
            Value::Int(1) => Ok(Release::Released),
            // If a repeated request finds nothing, the first one released it.
            Value::Int(_) if answer.repeated => Ok(Release::Released),
            Value::Int(_) => Ok(Release::WasLost),
            _ => Err(Error::unexpected_answer()),
        }
    }
}

impl fmt::Debug for RedisHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisHold")
            .field("id", &self.grant.id)
            .field("token", &self.grant.token)
            .field("lease", &self.grant.lease)
            .finish_non_exhaustive()
    }
}
