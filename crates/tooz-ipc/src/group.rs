//! Groups: those of the file driver, and Python's list of them beside.

use std::collections::BTreeSet;
use std::sync::Arc;

use tooz_core::{
    Capabilities, Error, ErrorKind, GroupFeed, GroupId, Groups, JoinRequest, Lease, Member,
    MemberId, Result, async_trait,
};
use tracing::warn;

use crate::group_list::{self, GroupList};
use crate::state::State;

/// A call about a group; once more if Python has created it and this was not known here.
macro_rules! on_group {
    ($state:expr, $group:expr, $call:expr) => {
        match $call.await {
            Err(error) if $crate::group::learns_of($state, $group, &error).await? => $call.await,
            answer => answer,
        }
    };
}

pub(crate) use on_group;

/// The groups of a session.
#[derive(Debug)]
pub(crate) struct IpcGroups(pub(crate) Arc<State>);

#[async_trait]
impl Groups for IpcGroups {
    async fn create(&self, group: &GroupId) -> Result<()> {
        let list = GroupList::open(&self.0.namespace, self.0.file_groups()?).await?;
        self.0.file_groups()?.create(group).await?;
        publish(&list, &self.0.file_groups()?.list().await?);
        Ok(())
    }

    async fn delete(&self, group: &GroupId) -> Result<()> {
        let list = GroupList::open(&self.0.namespace, self.0.file_groups()?).await?;
        self.0.file_groups()?.delete(group).await?;
        publish(&list, &self.0.file_groups()?.list().await?);
        Ok(())
    }

    async fn list(&self) -> Result<BTreeSet<GroupId>> {
        list(&self.0).await
    }

    async fn join(&self, request: JoinRequest) -> Result<Lease> {
        on_group!(&self.0, &request.group, self.0.file_groups()?.join(request.clone()))
    }

    async fn leave(&self, group: &GroupId) -> Result<()> {
        on_group!(&self.0, group, self.0.file_groups()?.leave(group))
    }

    async fn update_capabilities(
        &self,
        group: &GroupId,
        capabilities: &Capabilities,
    ) -> Result<()> {
        on_group!(&self.0, group, self.0.file_groups()?.update_capabilities(group, capabilities))
    }

    async fn remove_member(&self, group: &GroupId, member: &MemberId) -> Result<()> {
        on_group!(&self.0, group, self.0.file_groups()?.remove_member(group, member))
    }

    async fn members(&self, group: &GroupId) -> Result<BTreeSet<MemberId>> {
        on_group!(&self.0, group, self.0.file_groups()?.members(group))
    }

    async fn members_with_capabilities(&self, group: &GroupId) -> Result<Vec<Member>> {
        on_group!(&self.0, group, self.0.file_groups()?.members_with_capabilities(group))
    }

    async fn member(&self, group: &GroupId, member: &MemberId) -> Result<Member> {
        on_group!(&self.0, group, self.0.file_groups()?.member(group, member))
    }

    async fn watch(&self, group: &GroupId, feed: &GroupFeed) -> Result<()> {
        self.0.file_groups()?.watch(group, feed).await
    }
}

async fn list(state: &State) -> Result<BTreeSet<GroupId>> {
    let list = GroupList::open(&state.namespace, state.file_groups()?).await?;
    let groups = state.file_groups()?.list().await?;
    publish(&list, &groups);
    Ok(groups)
}

/// Lists the groups for Python again if it has removed the list.
pub(crate) async fn list_again(state: &State) -> Result<()> {
    if group_list::is_current(&state.namespace)? || state.file_groups()?.list().await?.is_empty() {
        return Ok(());
    }
    list(state).await.map(drop)
}

/// After this error: whether Python has created the group and it is known here only now.
pub(crate) async fn learns_of(state: &State, group: &GroupId, error: &Error) -> Result<bool> {
    if error.kind() != ErrorKind::GroupNotCreated
        || !group_list::is_listed(&state.namespace, group)?
    {
        return Ok(false);
    }
    Ok(list(state).await?.contains(group))
}

/// Shows Python which groups there are. What was done to a group is done: if Python cannot be told
/// now, the next change or heartbeat does.
fn publish(list: &GroupList<'_>, groups: &BTreeSet<GroupId>) {
    if let Err(error) = list.publish(groups) {
        warn!(%error, "Python cannot be told of the groups");
    }
}
