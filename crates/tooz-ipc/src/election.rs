//! Elections: those of the file driver, with our tokens.

use std::sync::Arc;

use tooz_core::{CampaignRequest, FencingToken, Hold, Lease, Release, Result, async_trait};

use crate::session::IpcSession;

/// A term. The file driver counts its tokens in the directory, which is gone with the next boot.
#[derive(Debug)]
struct Term {
    token: FencingToken,
    hold: Arc<dyn Hold>,
}

impl IpcSession {
    pub(crate) async fn stand(&self, request: CampaignRequest) -> Result<Option<Arc<dyn Hold>>> {
        let Some(hold) = self.file.campaign(request).await? else { return Ok(None) };
        Ok(Some(Arc::new(Term { token: self.place.token()?, hold })))
    }
}

#[async_trait]
impl Hold for Term {
    fn token(&self) -> FencingToken {
        self.token
    }

    fn lease(&self) -> &Lease {
        self.hold.lease()
    }

    async fn verify(&self) -> Result<bool> {
        self.hold.verify().await
    }

    async fn release(&self) -> Result<Release> {
        self.hold.release().await
    }
}
