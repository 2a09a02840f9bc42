//! Groups. A request whose reply was lost is repeated under the same operation id.

use std::collections::BTreeSet;

use tooz_core::{
    Capabilities, Error, ErrorKind, GroupFeed, GroupId, Groups, JoinRequest, Lease, Member,
    MemberId, OperationId, Result, Session, async_trait,
};

use crate::session::MemorySession;

#[async_trait]
impl Groups for MemorySession {
    async fn create(&self, group: &GroupId) -> Result<()> {
        let by = OperationId::random();
        self.request(|store, _| store.create_group(group, by)).await
    }

    async fn delete(&self, group: &GroupId) -> Result<()> {
        self.request(|store, again| {
            let deleted = store.delete_group(group);
            done_before(deleted, again, ErrorKind::GroupNotCreated)
        })
        .await
    }

    async fn list(&self) -> Result<BTreeSet<GroupId>> {
        self.request(|store, _| Ok(store.groups().cloned().collect())).await
    }

    async fn join(&self, request: JoinRequest) -> Result<Lease> {
        self.world.answers_joins(&request.group).await;
        let lease = self.lease().child();
        let JoinRequest { group, capabilities, again, .. } = request;
        let by = (OperationId::random(), again);
        self.request(|store, _| store.join(&group, capabilities.clone(), self.us(), by, &lease))
            .await?;
        Ok(lease)
    }

    async fn leave(&self, group: &GroupId) -> Result<()> {
        self.request(|store, again| {
            let left = store.leave(group, self.us());
            done_before(left, again, ErrorKind::MemberNotJoined)
        })
        .await
    }

    async fn update_capabilities(
        &self,
        group: &GroupId,
        capabilities: &Capabilities,
    ) -> Result<()> {
        self.request(|store, _| store.update(group, self.us(), capabilities.clone())).await
    }

    async fn remove_member(&self, group: &GroupId, member: &MemberId) -> Result<()> {
        self.request(|store, again| {
            let removed = store.remove_member(group, member);
            done_before(removed, again, ErrorKind::MemberNotJoined)
        })
        .await
    }

    async fn members(&self, group: &GroupId) -> Result<BTreeSet<MemberId>> {
        self.request(|store, _| Ok(store.members(group)?.map(|m| m.id.clone()).collect())).await
    }

    async fn members_with_capabilities(&self, group: &GroupId) -> Result<Vec<Member>> {
        self.request(|store, _| Ok(store.members(group)?.cloned().collect())).await
    }

    async fn member(&self, group: &GroupId, member: &MemberId) -> Result<Member> {
        self.request(|store, _| {
            let found = store.members(group)?.find(|other| other.id == *member).cloned();
            found.ok_or_else(|| Error::member_not_joined(group, member))
        })
        .await
    }

    async fn watch(&self, group: &GroupId, feed: &GroupFeed) -> Result<()> {
        let mut changes = self.world.changes();
        loop {
            changes.mark_unchanged();
            let members = self
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

/// What a repeated request finds undone was done by the first.
fn done_before(result: Result<()>, again: bool, undone: ErrorKind) -> Result<()> {
    match result {
        Err(error) if again && error.kind() == undone => Ok(()),
        result => result,
    }
}
