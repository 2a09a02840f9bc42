use std::sync::Arc;

use tooz_core::{FencingToken, Hold, Lease, Mode, Release, Result, async_trait};

use crate::client::If;
use crate::queue::hand_over;
use crate::shared;
use crate::state::{Grant, State};

/// A lock or a term that is ours.
#[derive(Debug)]
pub(crate) struct EtcdHold {
    pub(crate) state: Arc<State>,
    pub(crate) grant: Arc<Grant>,
}

#[async_trait]
impl Hold for EtcdHold {
    fn token(&self) -> FencingToken {
        self.grant.token
    }

    fn lease(&self) -> &Lease {
        &self.grant.lease
    }

    async fn verify(&self) -> Result<bool> {
        let (client, Grant { id, keys, mode, value, .. }) = (&self.state.client, &*self.grant);
        if *mode == Mode::Shared && client.get(&keys.reader(*id)).await?.result.is_err() {
            return Ok(false);
        }
        client.has(&keys.key, value).await
    }

    async fn release(&self) -> Result<Release> {
        let Self { state, grant } = self;
        let Grant { id, keys, value, .. } = &**grant;
        state.grants.remove(id);
        let released = match grant.mode {
            Mode::Exclusive => hand_over(state, keys, If::Value(value), Some(*id)).await,
            Mode::Shared => shared::release(state, keys, *id, value).await,
        };
        Ok(if released? { Release::Released } else { Release::WasLost })
    }
}
