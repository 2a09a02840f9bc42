//! Groups. A request whose reply was lost is repeated under the same operation id.

use tooz_core::{
    Error, ErrorKind, GroupFeed, GroupId, JoinRequest, Lease, Member, MemberId, OperationId, Result,
};

use crate::session::MemorySession;

pub(crate) async fn create(session: &MemorySession, group: &GroupId) -> Result<()> {
    let by = OperationId::random();
    session.request(|store, _| store.create_group(group, by)).await
}

pub(crate) async fn delete(session: &MemorySession, group: &GroupId) -> Result<()> {
    session
        .request(|store, again| {
            let deleted = store.delete_group(group);
            done_before(deleted, again, ErrorKind::GroupNotCreated)
        })
        .await
}

pub(crate) async fn join(
    session: &MemorySession,
    request: JoinRequest,
    lease: &Lease,
) -> Result<()> {
    let JoinRequest { group, capabilities, again, .. } = request;
    let by = (OperationId::random(), again);
    session
        .request(|store, _| store.join(&group, capabilities.clone(), session.us(), by, lease))
        .await
}

pub(crate) async fn leave(session: &MemorySession, group: &GroupId) -> Result<()> {
    session
        .request(|store, again| {
            let left = store.leave(group, session.us());
            done_before(left, again, ErrorKind::MemberNotJoined)
        })
        .await
}

pub(crate) async fn remove(
    session: &MemorySession,
    group: &GroupId,
    member: &MemberId,
) -> Result<()> {
    session
        .request(|store, again| {
            let removed = store.remove_member(group, member);
            done_before(removed, again, ErrorKind::MemberNotJoined)
        })
        .await
}

/// What a repeated request finds undone was done by the first.
fn done_before(result: Result<()>, again: bool, undone: ErrorKind) -> Result<()> {
    match result {
        Err(error) if again && error.kind() == undone => Ok(()),
        result => result,
    }
}

pub(crate) async fn member(
    session: &MemorySession,
    group: &GroupId,
    member: &MemberId,
) -> Result<Member> {
    session
        .request(|store, _| {
            let found = store.members(group)?.find(|other| other.id == *member).cloned();
            found.ok_or_else(|| Error::member_not_joined(group, member))
        })
        .await
}

pub(crate) async fn watch(
    session: &MemorySession,
    group: &GroupId,
    feed: &GroupFeed,
) -> Result<()> {
    let mut changes = session.world.changes();
    loop {
        changes.mark_unchanged();
        let members = session
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
