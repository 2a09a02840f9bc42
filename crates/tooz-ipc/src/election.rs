//! Elections: those of the file driver, with our tokens.

use std::sync::Arc;

use tooz_core::{
    Acquisition, Elections, FencingToken, GroupId, Hold, LeaderFeed, Lease, MemberId, Release,
    Result, async_trait,
};

use crate::group::on_group;
use crate::state::State;

/// A term. The file driver counts its tokens in the directory, which is gone with the next boot.
#[derive(Debug)]
struct Term {
    token: FencingToken,
    hold: Arc<dyn Hold>,
}

/// The elections of a session.
#[derive(Debug)]
pub(crate) struct IpcElections(pub(crate) Arc<State>);

#[async_trait]
impl Elections for IpcElections {
    async fn campaign(&self, acquisition: Acquisition<GroupId>) -> Result<Option<Arc<dyn Hold>>> {
        let granted = self.0.file.require_elections()?.campaign(acquisition).await?;
        let Some(hold) = granted else { return Ok(None) };
        Ok(Some(Arc::new(Term { token: self.0.namespace.token()?, hold })))
    }

    async fn leader(&self, group: &GroupId) -> Result<Option<MemberId>> {
        on_group!(&self.0, group, self.0.file.require_elections()?.leader(group))
    }

    async fn watch(&self, group: &GroupId, feed: &LeaderFeed) -> Result<()> {
        self.0.file.require_elections()?.watch(group, feed).await
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
