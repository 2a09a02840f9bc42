//! A session: what one coordinator is and has in a namespace, until it ends.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tooz_core::{
    CampaignRequest, Capabilities, Characteristics, GroupFeed, GroupId, Hold, JoinRequest,
    LeaderFeed, Lease, LockName, LockRequest, Member, MemberId, Result, Session, async_trait,
};
use tracing::debug;

use crate::DRIVER;
use crate::group_list::GroupList;
use crate::lock::{self, Claim, Holds, LockHold};
use crate::place::Place;
use crate::presence::{self, Presence};

/// After how many heartbeats what dead processes have left is looked for. The next of ours that
/// wants it has it at once; this is for Python, which would wait.
const BEATS_TO_SWEEP: u32 = 10;

/// A session that has announced itself.
#[derive(Debug)]
pub(crate) struct IpcSession {
    pub(crate) place: Arc<Place>,
    /// Its groups and elections, and its life: the session is lost when this one is.
    pub(crate) file: Arc<dyn Session>,
    holds: Arc<Holds>,
    presence: Mutex<Option<Presence>>,
    beats: AtomicU32,
}

impl IpcSession {
    pub(crate) async fn new(place: Arc<Place>, file: Arc<dyn Session>) -> Result<Self> {
        let presence = Mutex::new(Some(Presence::announce(&place).await?));
        let (holds, beats) = (Arc::default(), AtomicU32::new(0));
        Ok(Self { place, file, holds, presence, beats })
    }

    /// Sees to it that Python finds our groups, and is not kept waiting by the dead.
    async fn serve_python(&self) -> Result<()> {
        self.list_again().await?;
        if self.beats.fetch_add(1, Ordering::Relaxed) % BEATS_TO_SWEEP == BEATS_TO_SWEEP - 1 {
            lock::sweep(&self.place).await?;
        }
        Ok(())
    }

    /// Removes what nobody needs any more when the last of ours leaves.
    async fn tidy_up(&self) -> Result<()> {
        lock::sweep(&self.place).await?;
        if presence::sweep(&self.place).await? > 0 {
            return Ok(());
        }
        tooz_file::inspect::sweep(&self.place.file());
        for group in self.file.groups().await? {
            // Removes what dead members have left in it.
            self.file.members(&group).await?;
        }
        GroupList::remove_unused(&self.place).await
    }
}

/// A call about a group; once more if Python has created it and this was not known here.
macro_rules! on_group {
    ($session:ident, $group:expr, $call:expr) => {
        match $call.await {
            Err(error) if $session.learns_of($group, &error).await? => $call.await,
            answer => answer,
        }
    };
}

#[async_trait]
impl Session for IpcSession {
    fn lease(&self) -> &Lease {
        self.file.lease()
    }

    fn characteristics(&self) -> Characteristics {
        DRIVER.characteristics
    }

    fn heartbeat_interval(&self) -> Option<Duration> {
        self.file.heartbeat_interval()
    }

    async fn heartbeat(&self) -> Result<()> {
        self.file.heartbeat().await?;
        self.holds.check().await?;
        // What is done for Python is no reason to doubt the session.
        if let Err(error) = self.serve_python().await {
            debug!(%error, "left to the next heartbeat");
        }
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        self.holds.close().await;
        self.file.close().await?;
        let presence = self.presence.lock().unwrap_or_else(PoisonError::into_inner).take();
        if presence.is_none() {
            return Ok(());
        }
        drop(presence);
        if let Err(error) = self.tidy_up().await {
            debug!(%error, "left to others to remove");
        }
        Ok(())
    }

    async fn acquire(&self, request: LockRequest) -> Result<Option<Arc<dyn Hold>>> {
        let claim = Claim {
            id: request.id,
            key: self.place.keys.lock(&request.name)?,
            mode: request.mode,
            waiting: &request.waiting,
        };
        let hold = LockHold::take(&self.place, self.lease(), &self.holds, claim).await?;
        Ok(hold.map(|hold| hold as Arc<dyn Hold>))
    }

    async fn break_lock(&self, name: &LockName) -> Result<bool> {
        lock::break_lock(&self.place, name).await
    }

    async fn create_group(&self, group: &GroupId) -> Result<()> {
        self.create(group).await
    }

    async fn delete_group(&self, group: &GroupId) -> Result<()> {
        self.delete(group).await
    }

    async fn groups(&self) -> Result<BTreeSet<GroupId>> {
        self.all().await
    }

    async fn join_group(&self, request: JoinRequest) -> Result<Lease> {
        on_group!(self, &request.group, self.file.join_group(request.clone()))
    }

    async fn leave_group(&self, group: &GroupId) -> Result<()> {
        on_group!(self, group, self.file.leave_group(group))
    }

    async fn update_capabilities(&self, group: &GroupId, new: &Capabilities) -> Result<()> {
        on_group!(self, group, self.file.update_capabilities(group, new))
    }

    async fn members(&self, group: &GroupId) -> Result<BTreeSet<MemberId>> {
        on_group!(self, group, self.file.members(group))
    }

    async fn members_with_capabilities(&self, group: &GroupId) -> Result<Vec<Member>> {
        on_group!(self, group, self.file.members_with_capabilities(group))
    }

    async fn remove_member(&self, group: &GroupId, member: &MemberId) -> Result<()> {
        on_group!(self, group, self.file.remove_member(group, member))
    }

    async fn member(&self, group: &GroupId, member: &MemberId) -> Result<Member> {
        on_group!(self, group, self.file.member(group, member))
    }

    async fn watch_group(&self, group: &GroupId, feed: &GroupFeed) -> Result<()> {
        self.file.watch_group(group, feed).await
    }

    async fn campaign(&self, request: CampaignRequest) -> Result<Option<Arc<dyn Hold>>> {
        self.stand(request).await
    }

    async fn leader(&self, group: &GroupId) -> Result<Option<MemberId>> {
        on_group!(self, group, self.file.leader(group))
    }

    async fn watch_leader(&self, group: &GroupId, feed: &LeaderFeed) -> Result<()> {
        self.file.watch_leader(group, feed).await
    }
}
