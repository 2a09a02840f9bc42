//! Groups. A request whose reply was lost is repeated under the same operation id.

use std::collections::BTreeSet;
use std::sync::Arc;

use tooz_core::{
    Capabilities, Error, ErrorKind, GroupFeed, GroupId, Groups, JoinRequest, Lease, Member,
    MemberId, OperationId, Result, async_trait,
};

use crate::state::State;

/// The groups of a session.
#[derive(Debug)]
pub(crate) struct MemoryGroups(pub(crate) Arc<State>);

#[async_trait]
impl Groups for MemoryGroups {
    async fn create(&self, group: &GroupId) -> Result<()> {
        let by = OperationId::random();
        self.0.request(|store, _| store.create_group(group, by)).await
    }

    async fn delete(&self, group: &GroupId) -> Result<()> {
        self.0
            .request(|store, again| {
                let deleted = store.delete_group(group);
                done_before(deleted, again, ErrorKind::GroupNotCreated)
            })
            .await
    }

    async fn list(&self) -> Result<BTreeSet<GroupId>> {
        self.0.request(|store, _| Ok(store.groups().cloned().collect())).await
    }

    async fn join(&self, request: JoinRequest) -> Result<Lease> {
        self.0.world.answers_joins(&request.group).await;
        let lease = self.0.lease.child();
        let JoinRequest { group, capabilities, again, .. } = request;
        let by = (OperationId::random(), again);
        self.0
            .request(|store, _| store.join(&group, capabilities.clone(), self.0.us(), by, &lease))
            .await?;
        Ok(lease)
    }

    async fn leave(&self, group: &GroupId) -> Result<()> {
        self.0
            .request(|store, again| {
                let left = store.leave(group, self.0.us());
                done_before(left, again, ErrorKind::MemberNotJoined)
            })
            .await
    }

    async fn update_capabilities(
        &self,
        group: &GroupId,
        capabilities: &Capabilities,
    ) -> Result<()> {
        self.0.request(|store, _| store.update(group, self.0.us(), capabilities.clone())).await
    }

    async fn remove_member(&self, group: &GroupId, member: &MemberId) -> Result<()> {
        self.0
            .request(|store, again| {
                let removed = store.remove_member(group, member);
                done_before(removed, again, ErrorKind::MemberNotJoined)
            })
            .await
    }

    async fn members(&self, group: &GroupId) -> Result<BTreeSet<MemberId>> {
        self.0.request(|store, _| Ok(store.members(group)?.map(|m| m.id.clone()).collect())).await
    }

    async fn members_with_capabilities(&self, group: &GroupId) -> Result<Vec<Member>> {
        self.0.request(|store, _| Ok(store.members(group)?.cloned().collect())).await
    }

    async fn member(&self, group: &GroupId, member: &MemberId) -> Result<Member> {
        self.0
            .request(|store, _| {
                let found = store.members(group)?.find(|other| other.id == *member).cloned();
                found.ok_or_else(|| Error::member_not_joined(group, member))
            })
            .await
    }

    async fn watch(&self, group: &GroupId, feed: &GroupFeed) -> Result<()> {
        let mut changes = self.0.world.changes();
        loop {
            changes.mark_unchanged();
            let members = self
                .0
                .request(|store, _| match store.members(group) {
                    Ok(members) => Ok(members.cloned().collect()),
                    Err(_) => Ok(Vec::new()),
                })
                .await?;
            feed.snapshot(members);
            // The sender lives in the world: the wait cannot fail.
            let _ = changes.changed().await;
        }
    }
}

/// If a repeated request finds nothing to undo, the first one did it.
fn done_before(result: Result<()>, again: bool, undone: ErrorKind) -> Result<()> {
    match result {
        Err(error) if again && error.kind() == undone => Ok(()),
        result => result,
    }
}
