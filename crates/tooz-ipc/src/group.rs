//! Groups: those of the file driver, and Python's list of them beside.

use std::collections::BTreeSet;

use tooz_core::{
    Capabilities, Error, ErrorKind, GroupFeed, GroupId, Groups, JoinRequest, Lease, Member,
    MemberId, Result, async_trait,
};
use tracing::warn;

use crate::group_list::{self, GroupList};
use crate::session::IpcSession;

/// A call about a group; once more if Python has created it and this was not known here.
macro_rules! on_group {
    ($session:ident, $group:expr, $call:expr) => {
        match $call.await {
            Err(error) if $session.learns_of($group, &error).await? => $call.await,
            answer => answer,
        }
    };
}

pub(crate) use on_group;

#[async_trait]
impl Groups for IpcSession {
    async fn create(&self, group: &GroupId) -> Result<()> {
        let list = GroupList::open(&self.place, self.of_file()?).await?;
        self.of_file()?.create(group).await?;
        publish(&list, &self.of_file()?.list().await?);
        Ok(())
    }

    async fn delete(&self, group: &GroupId) -> Result<()> {
        let list = GroupList::open(&self.place, self.of_file()?).await?;
        self.of_file()?.delete(group).await?;
        publish(&list, &self.of_file()?.list().await?);
        Ok(())
    }

    async fn list(&self) -> Result<BTreeSet<GroupId>> {
        let list = GroupList::open(&self.place, self.of_file()?).await?;
        let groups = self.of_file()?.list().await?;
        publish(&list, &groups);
        Ok(groups)
    }

    async fn join(&self, request: JoinRequest) -> Result<Lease> {
        on_group!(self, &request.group, self.of_file()?.join(request.clone()))
    }

    async fn leave(&self, group: &GroupId) -> Result<()> {
        on_group!(self, group, self.of_file()?.leave(group))
    }

    async fn update_capabilities(
        &self,
        group: &GroupId,
        capabilities: &Capabilities,
    ) -> Result<()> {
        on_group!(self, group, self.of_file()?.update_capabilities(group, capabilities))
    }

    async fn remove_member(&self, group: &GroupId, member: &MemberId) -> Result<()> {
        on_group!(self, group, self.of_file()?.remove_member(group, member))
    }

    async fn members(&self, group: &GroupId) -> Result<BTreeSet<MemberId>> {
        on_group!(self, group, self.of_file()?.members(group))
    }

    async fn members_with_capabilities(&self, group: &GroupId) -> Result<Vec<Member>> {
        on_group!(self, group, self.of_file()?.members_with_capabilities(group))
    }

    async fn member(&self, group: &GroupId, member: &MemberId) -> Result<Member> {
        on_group!(self, group, self.of_file()?.member(group, member))
    }

    async fn watch(&self, group: &GroupId, feed: &GroupFeed) -> Result<()> {
        self.of_file()?.watch(group, feed).await
    }
}

impl IpcSession {
    /// The groups in the directory.
    pub(crate) fn of_file(&self) -> Result<&dyn Groups> {
        self.file.require_groups()
    }

    /// Lists the groups for Python again if it has removed the list.
    pub(crate) async fn list_again(&self) -> Result<()> {
        if group_list::is_current(&self.place)? || self.of_file()?.list().await?.is_empty() {
            return Ok(());
        }
        self.list().await.map(drop)
    }

    /// After this error: whether Python has created the group and it is known here only now.
    pub(crate) async fn learns_of(&self, group: &GroupId, error: &Error) -> Result<bool> {
        if error.kind() != ErrorKind::GroupNotCreated || !group_list::is_listed(&self.place, group)?
        {
            return Ok(false);
        }
        Ok(self.list().await?.contains(group))
    }
}

/// Shows Python which groups there are. What was done to a group is done: if Python cannot be told
/// now, the next change or heartbeat does.
fn publish(list: &GroupList<'_>, groups: &BTreeSet<GroupId>) {
    if let Err(error) = list.publish(groups) {
        warn!(%error, "Python is not told of the groups");
    }
}
