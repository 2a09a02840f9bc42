use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tooz_core::{
    CampaignRequest, Capabilities, Characteristics, Error, ErrorKind, GroupFeed, GroupId, Hold,
    JoinRequest, LeaderFeed, Lease, LockName, LockRequest, Member, MemberId, Mode, Outcome, Result,
    Session, async_trait,
};

use crate::config::Config;
use crate::life::Life;
use crate::lock::{self, Attempt, Kind};
use crate::{election, group, heartbeat, watch};

/// A session: as long as its item is renewed, over any number of connections.
#[derive(Debug)]
pub(crate) struct MemcachedSession(Arc<Life>);

impl MemcachedSession {
    pub(crate) async fn open(config: Arc<Config>, member: MemberId) -> Result<Self> {
        Life::open(config, member).await.map(Self)
    }
}

#[async_trait]
impl Session for MemcachedSession {
    fn lease(&self) -> &Lease {
        &self.0.lease
    }

    fn characteristics(&self) -> Characteristics {
        crate::DRIVER.characteristics
    }

    fn heartbeat_interval(&self) -> Option<Duration> {
        Some(self.0.config.heartbeat_interval())
    }

    async fn heartbeat(&self) -> Result<()> {
        heartbeat::renew(&self.0).await
    }

    async fn close(&self) -> Result<()> {
        let limit = self.0.config.response_timeout * 2;
        self.0.close(limit).await.unwrap_or_else(|| {
            Err(Error::new(ErrorKind::TimedOut, "the server did not answer the goodbye")
                .outcome_is(Outcome::Unknown))
        })
    }

    async fn acquire(&self, request: LockRequest) -> Result<Option<Arc<dyn Hold>>> {
        let LockRequest { id, name, mode, waiting, .. } = request;
        let prize = self.0.keys().lock(&name)?;
        lock::acquire(&self.0, Attempt { id, prize, kind: Kind::Lock, mode, waiting }).await
    }

    async fn break_lock(&self, name: &LockName) -> Result<bool> {
        lock::take_away(&self.0, &self.0.keys().lock(name)?).await
    }

    async fn create_group(&self, group: &GroupId) -> Result<()> {
        group::create(&self.0, group).await
    }

    async fn delete_group(&self, group: &GroupId) -> Result<()> {
        group::delete(&self.0, group).await
    }

    async fn groups(&self) -> Result<BTreeSet<GroupId>> {
        group::all(&self.0).await
    }

    async fn join_group(&self, request: JoinRequest) -> Result<Lease> {
        group::join(&self.0, request).await
    }

    async fn leave_group(&self, group: &GroupId) -> Result<()> {
        group::leave(&self.0, group).await
    }

    async fn update_capabilities(
        &self,
        group: &GroupId,
        capabilities: &Capabilities,
    ) -> Result<()> {
        group::update(&self.0, group, capabilities).await
    }

    async fn members(&self, group: &GroupId) -> Result<BTreeSet<MemberId>> {
        Ok(group::members(&self.0, group).await?.into_iter().map(|member| member.id).collect())
    }

    async fn members_with_capabilities(&self, group: &GroupId) -> Result<Vec<Member>> {
        group::members(&self.0, group).await
    }

    async fn remove_member(&self, group: &GroupId, member: &MemberId) -> Result<()> {
        group::remove(&self.0, group, member).await
    }

    async fn member(&self, group: &GroupId, member: &MemberId) -> Result<Member> {
        group::member(&self.0, group, member).await
    }

    async fn watch_group(&self, group: &GroupId, feed: &GroupFeed) -> Result<()> {
        watch::group(&self.0, group, feed).await
    }

    async fn campaign(&self, request: CampaignRequest) -> Result<Option<Arc<dyn Hold>>> {
        let CampaignRequest { id, group, waiting, .. } = request;
        let prize = self.0.keys().leader(&group)?;
        let (kind, mode) = (Kind::Term, Mode::Exclusive);
        lock::acquire(&self.0, Attempt { id, prize, kind, mode, waiting }).await
    }

    async fn leader(&self, group: &GroupId) -> Result<Option<MemberId>> {
        election::leader(&self.0, group).await
    }

    async fn watch_leader(&self, group: &GroupId, feed: &LeaderFeed) -> Result<()> {
        watch::leader(&self.0, group, feed).await
    }
}
