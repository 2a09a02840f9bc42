use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tooz_core::{
    CampaignRequest, Capabilities, Characteristics, ErrorKind, GroupFeed, GroupId, Hold,
    JoinRequest, LeaderFeed, Lease, LockName, LockRequest, Loss, Member, MemberId, Mode, Moment,
    OperationId, Outcome, Result, Session, async_trait,
};

use crate::lock::{self, Attempt};
use crate::store::{Prize, SessionId, Store};
use crate::world::World;
use crate::{election, group};

/// A session with a world: everything in it lives as long as it is renewed.
#[derive(Debug)]
pub(crate) struct MemorySession {
    pub(crate) world: World,
    pub(crate) id: SessionId,
    pub(crate) member: MemberId,
    ttl: Duration,
    lease: Lease,
}

impl MemorySession {
    pub(crate) async fn open(world: World, member: MemberId, ttl: Duration) -> Result<Arc<Self>> {
        let id = OperationId::random();
        let lease = Lease::timed(ttl, Moment::now());
        let record = (member.clone(), lease.clone());
        let opened = world.request(ttl, |store| {
            let (member, lease) = record;
            store.open_session(id, member, ttl, lease);
            Ok(())
        });
        if let Err(error) = opened.await {
            // It may have been opened: nobody knows of it, so it must not wait for its expiry.
            world.end_session(id);
            return Err(error);
        }
        tokio::spawn(expire_in_time(world.clone(), id));
        Ok(Arc::new(Self { world, id, member, ttl, lease }))
    }

    /// Who asks: another session of the same member is somebody else.
    pub(crate) fn us(&self) -> (SessionId, &MemberId) {
        (self.id, &self.member)
    }

    /// One request to the world, repeated while it is unknown whether it was carried out. `serve`
    /// is told whether it may have been carried out before.
    pub(crate) async fn request<T>(
        &self,
        serve: impl Fn(&mut Store, bool) -> Result<T>,
    ) -> Result<T> {
        let mut again = false;
        loop {
            let answer = self.world.request(self.ttl, |store| {
                store.check(self.id)?;
                serve(store, again)
            });
            match answer.await {
                Err(error) if error.kind() == ErrorKind::SessionLost => {
                    self.lease.lose(Loss::SessionEnded);
                    return Err(error);
                }
                Err(error) if error.outcome() == Outcome::Unknown && self.lease.is_held() => {
                    again = true;
                }
                answer => return answer,
            }
        }
    }
}

/// The server's own clock for one session.
async fn expire_in_time(world: World, id: SessionId) {
    while let Some(expires) = world.change(|store| store.expires(id)) {
        expires.wait().await;
        world.expire_due();
    }
}

#[async_trait]
impl Session for MemorySession {
    fn lease(&self) -> &Lease {
        &self.lease
    }

    fn characteristics(&self) -> Characteristics {
        crate::DRIVER.characteristics
    }

    fn heartbeat_interval(&self) -> Option<Duration> {
        Some(self.ttl / 3)
    }

    async fn heartbeat(&self) -> Result<()> {
        let sent = Moment::now();
        self.request(|store, _| store.renew(self.id, self.ttl)).await?;
        self.lease.renewed(sent);
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        let closed = self.request(|store, _| {
            store.end_session(self.id);
            Ok(())
        });
        match closed.await {
            Err(error) if error.kind() == ErrorKind::SessionLost => Ok(()),
            closed => closed,
        }
    }

    async fn acquire(&self, request: LockRequest) -> Result<Option<Arc<dyn Hold>>> {
        let LockRequest { id, name, mode, waiting, .. } = request;
        lock::acquire(self, Attempt { id, prize: Prize::Lock(name), mode, waiting }).await
    }

    async fn break_lock(&self, name: &LockName) -> Result<bool> {
        lock::take_away(self, name).await
    }

    async fn create_group(&self, group: &GroupId) -> Result<()> {
        group::create(self, group).await
    }

    async fn delete_group(&self, group: &GroupId) -> Result<()> {
        group::delete(self, group).await
    }

    async fn groups(&self) -> Result<BTreeSet<GroupId>> {
        self.request(|store, _| Ok(store.groups().cloned().collect())).await
    }

    async fn join_group(&self, request: JoinRequest) -> Result<Lease> {
        self.world.answers_joins(&request.group).await;
        let lease = self.lease.child();
        group::join(self, request, &lease).await?;
        Ok(lease)
    }

    async fn leave_group(&self, group: &GroupId) -> Result<()> {
        group::leave(self, group).await
    }

    async fn update_capabilities(
        &self,
        group: &GroupId,
        capabilities: &Capabilities,
    ) -> Result<()> {
        self.request(|store, _| store.update(group, self.us(), capabilities.clone())).await
    }

    async fn members(&self, group: &GroupId) -> Result<BTreeSet<MemberId>> {
        self.request(|store, _| Ok(store.members(group)?.map(|m| m.id.clone()).collect())).await
    }

    async fn members_with_capabilities(&self, group: &GroupId) -> Result<Vec<Member>> {
        self.request(|store, _| Ok(store.members(group)?.cloned().collect())).await
    }

    async fn remove_member(&self, group: &GroupId, member: &MemberId) -> Result<()> {
        group::remove(self, group, member).await
    }

    async fn member(&self, group: &GroupId, member: &MemberId) -> Result<Member> {
        group::member(self, group, member).await
    }

    async fn watch_group(&self, group: &GroupId, feed: &GroupFeed) -> Result<()> {
        group::watch(self, group, feed).await
    }

    async fn campaign(&self, request: CampaignRequest) -> Result<Option<Arc<dyn Hold>>> {
        let CampaignRequest { id, group, waiting, .. } = request;
        let prize = Prize::Leader(group);
        lock::acquire(self, Attempt { id, prize, mode: Mode::Exclusive, waiting }).await
    }

    async fn leader(&self, group: &GroupId) -> Result<Option<MemberId>> {
        election::leader(self, group).await
    }

    async fn watch_leader(&self, group: &GroupId, feed: &LeaderFeed) -> Result<()> {
        election::watch(self, group, feed).await
    }
}
