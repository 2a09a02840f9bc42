//! A session: what one coordinator is and has in a directory, until it ends.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tooz_core::{
    CampaignRequest, Capabilities, Characteristics, GroupFeed, GroupId, Hold, JoinRequest,
    LeaderFeed, Lease, LockName, LockRequest, Loss, Member, MemberId, Moment, Result, Session,
    async_trait,
};
use tracing::debug;

use crate::driver::OwnSessions;
use crate::errors::session_lost;
use crate::group::{self, Group};
use crate::membership::Memberships;
use crate::place::Place;
use crate::presence::Presence;
use crate::seat::{Guard, Seats};
use crate::{DRIVER, election, lock};

/// A session that has announced itself.
#[derive(Debug)]
pub(crate) struct FileSession {
    pub(crate) place: Place,
    pub(crate) member: MemberId,
    pub(crate) lease: Lease,
    pub(crate) presence: Presence,
    pub(crate) own: OwnSessions,
    pub(crate) seats: Arc<Seats>,
    pub(crate) memberships: Memberships,
    _guard: Guard,
}

impl FileSession {
    pub(crate) fn new(
        place: Place,
        presence: Presence,
        member: MemberId,
        own: OwnSessions,
    ) -> Self {
        let lease = Lease::untimed();
        let _guard = Guard::over_session(&place, &presence.path, presence.identity, &lease);
        let (seats, memberships) = (Arc::default(), Memberships::default());
        Self { place, member, lease, presence, own, seats, memberships, _guard }
    }

    /// An acquisition that failed because the directory is gone failed with the session, perhaps
    /// sooner than the session was told.
    fn blame<T>(&self, result: Result<T>) -> Result<T> {
        if result.is_ok() || self.presence.is_in_place() {
            return result;
        }
        self.lease.lose(Loss::SessionEnded);
        Err(session_lost())
    }

    pub(crate) fn group<'a>(&'a self, id: &'a GroupId) -> Group<'a> {
        Group { place: &self.place, id }
    }
}

#[async_trait]
impl Session for FileSession {
    fn lease(&self) -> &Lease {
        &self.lease
    }

    fn characteristics(&self) -> Characteristics {
        DRIVER.characteristics
    }

    fn heartbeat_interval(&self) -> Option<Duration> {
        Some(self.place.timeout / 3)
    }

    async fn heartbeat(&self) -> Result<()> {
        let sent = Moment::now();
        if !self.presence.is_in_place() {
            self.lease.lose(Loss::SessionEnded);
            return Ok(());
        }
        self.touch_memberships()?;
        self.lease.renewed(sent);
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        self.lease.lose(Loss::GivenUp);
        self.seats.close();
        // From here on the members of this session are dead to everybody.
        self.presence.end();
        if let Err(error) = self.forget_memberships().await {
            debug!(%error, "left to others to remove");
        }
        Ok(())
    }

    async fn acquire(&self, request: LockRequest) -> Result<Option<Arc<dyn Hold>>> {
        self.blame(self.take_lock(request).await)
    }

    async fn break_lock(&self, name: &LockName) -> Result<bool> {
        lock::break_lock(&self.place, name).await
    }

    async fn create_group(&self, group: &GroupId) -> Result<()> {
        let _lock = self.place.driver_lock().await?;
        self.group(group).create()
    }

    async fn delete_group(&self, group: &GroupId) -> Result<()> {
        let _lock = self.place.driver_lock().await?;
        self.group(group).delete()
    }

    async fn groups(&self) -> Result<BTreeSet<GroupId>> {
        group::all(&self.place)
    }

    async fn join_group(&self, request: JoinRequest) -> Result<Lease> {
        self.join(request).await
    }

    async fn leave_group(&self, group: &GroupId) -> Result<()> {
        self.leave(group).await
    }

    async fn update_capabilities(&self, group: &GroupId, new: &Capabilities) -> Result<()> {
        self.update(group, new.clone()).await
    }

    async fn members(&self, group: &GroupId) -> Result<BTreeSet<MemberId>> {
        Ok(self.group(group).living().await?.members.into_keys().collect())
    }

    async fn members_with_capabilities(&self, group: &GroupId) -> Result<Vec<Member>> {
        Ok(self.group(group).living().await?.members.into_values().collect())
    }

    async fn remove_member(&self, group: &GroupId, member: &MemberId) -> Result<()> {
        let _lock = self.place.driver_lock().await?;
        self.group(group).remove(member)
    }

    async fn member(&self, group: &GroupId, member: &MemberId) -> Result<Member> {
        self.group(group).member(member)
    }

    async fn watch_group(&self, group: &GroupId, feed: &GroupFeed) -> Result<()> {
        self.group(group).watch(feed).await
    }

    async fn campaign(&self, request: CampaignRequest) -> Result<Option<Arc<dyn Hold>>> {
        self.blame(self.stand(request).await)
    }

    async fn leader(&self, group: &GroupId) -> Result<Option<MemberId>> {
        election::leader(self.group(group)).await
    }

    async fn watch_leader(&self, group: &GroupId, feed: &LeaderFeed) -> Result<()> {
        election::watch(self.group(group), feed).await
    }
}
