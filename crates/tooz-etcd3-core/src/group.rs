//! Groups, in the layout of the Python drivers: a key for the group, and below it one for each
//! member, attached to the session's lease.

use std::collections::BTreeSet;
use std::sync::Arc;

use tooz_core::{
    Capabilities, Error, ErrorKind, GroupFeed, GroupId, Groups, JoinRequest, Lease, Member,
    MemberId, OperationId, Result, async_trait,
};

use crate::keys;
use crate::state::{Membership, State};
use crate::txn::{Compare, Event, KeyValue, Op, Range, Test, Txn};

/// The groups of a session.
#[derive(Debug)]
pub(crate) struct EtcdGroups(pub(crate) Arc<State>);

#[async_trait]
impl Groups for EtcdGroups {
    async fn create(&self, group: &GroupId) -> Result<()> {
        let state = &self.0;
        keys::check_group(group)?;
        let key = Range::key(state.keys().group(group));
        // No peer reads the value. It tells whether an earlier attempt of ours was carried out.
        let by = OperationId::random().to_string().into_bytes();
        let txn = Txn {
            when: vec![key.clone().absent()],
            then: vec![Op::put(&key.key, by.clone(), 0)],
            or: vec![key.get()],
        };
        let reply = state.txn(&txn).await?.value;
        let succeeded = reply.succeeded;
        let [found] = reply.keys();
        match succeeded || found.is_some_and(|found| found.value == by) {
            true => Ok(()),
            false => Err(Error::group_already_exists(group)),
        }
    }

    async fn delete(&self, group: &GroupId) -> Result<()> {
        let state = &self.0;
        keys::check_group(group)?;
        let key = Range::key(state.keys().group(group));
        let txn = Txn {
            when: vec![exists(key.clone()), state.keys().members(group).absent()],
            then: vec![key.clone().delete()],
            or: vec![key.get()],
        };
        let answer = state.txn(&txn).await?;
        let (again, succeeded) = (answer.again, answer.value.succeeded);
        match answer.value.keys() {
            _ if succeeded => Ok(()),
            // If a repeated request finds nothing to undo, the first one did it.
            [None] if again => Ok(()),
            [None] => Err(Error::group_not_created(group)),
            [Some(_)] => Err(Error::group_not_empty(group)),
        }
    }

    async fn list(&self) -> Result<BTreeSet<GroupId>> {
        let state = &self.0;
        let read = Txn::of(vec![Range::prefix(state.keys().groups()).get()]);
        let [found] = state.txn(&read).await?.value.ranges();
        Ok(found.iter().filter_map(|found| state.keys().group_of(&found.key)).collect())
    }

    async fn join(&self, request: JoinRequest) -> Result<Lease> {
        let state = &self.0;
        let JoinRequest { group, capabilities, again: rejoin, .. } = request;
        keys::check_group(&group)?;
        let _joining = state.joins.begin();
        let group_key = Range::key(state.keys().group(&group));
        let member = Range::key(state.keys().member(&group, &state.member));
        let txn = Txn {
            when: vec![exists(group_key.clone()), member.clone().absent()],
            then: vec![Op::put(&member.key, capabilities.as_msgpack(), state.id)],
            or: vec![group_key.get(), member.clone().get()],
        };
        let joined = |revision| {
            let lease = state.lease.child();
            let membership = Membership { lease: lease.clone(), revision };
            state.memberships.insert(group.clone(), membership);
            Ok(lease)
        };
        loop {
            let answer = state.txn(&txn).await?;
            let (again, revision) = (answer.again, answer.value.revision);
            if answer.value.succeeded {
                return joined(revision);
            }
            match answer.value.keys() {
                [None, _] => return Err(Error::group_not_created(&group)),
                // Gone in between.
                [Some(_), None] => {}
                [Some(_), Some(found)] if again && found.lease == state.id => {
                    return joined(found.create_revision);
                }
                // What an earlier session left, or this one.
                [Some(_), Some(found)] if rejoin => {
                    let unchanged = member.clone().is(Test::ModifiedAt(found.mod_revision));
                    let remove = Txn::when(vec![unchanged], vec![member.clone().delete()]);
                    state.txn(&remove).await?;
                }
                _ => return Err(Error::member_already_exists(&group, &state.member)),
            }
        }
    }

    async fn leave(&self, group: &GroupId) -> Result<()> {
        let (left, again) = self.change_own(group, Range::delete).await?;
        self.0.memberships.remove(group);
        if again { Ok(()) } else { left }
    }

    async fn update_capabilities(
        &self,
        group: &GroupId,
        capabilities: &Capabilities,
    ) -> Result<()> {
        let put = |member: Range| Op::put(&member.key, capabilities.as_msgpack(), self.0.id);
        self.change_own(group, put).await?.0
    }

    /// Removes somebody's membership, and tells that session.
    async fn remove_member(&self, group: &GroupId, member: &MemberId) -> Result<()> {
        let state = &self.0;
        let key = Range::key(state.keys().member(group, member));
        let mut again = false;
        loop {
            match self.find(group, member).await? {
                [_, None] if again => return Ok(()),
                [None, _] => return Err(Error::group_not_created(group)),
                [Some(_), None] => return Err(Error::member_not_joined(group, member)),
                [Some(_), Some(found)] => {
                    let mut then = vec![key.clone().delete()];
                    let created = found.create_revision;
                    then.extend(state.notice(found.lease, &created.to_string()).await?);
                    let when = vec![key.clone().is(Test::CreatedAt(created))];
                    // Not on behalf of our own session: a lease that has ended is the member's.
                    match state.client.txn(&Txn::when(when, then)).await {
                        Ok(answer) if answer.value.succeeded => return Ok(()),
                        // It left or joined again meanwhile, or our own earlier request did it.
                        Ok(answer) => again |= answer.again,
                        // Its session ended in between.
                        Err(error) if error.kind() == ErrorKind::SessionLost => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    }

    async fn members(&self, group: &GroupId) -> Result<BTreeSet<MemberId>> {
        let members = self.members_with_capabilities(group).await?;
        Ok(members.into_iter().map(|member| member.id).collect())
    }

    async fn members_with_capabilities(&self, group: &GroupId) -> Result<Vec<Member>> {
        keys::check_group(group)?;
        let (mut found, _) = self.read(group).await?;
        // The group's own key is the first, as it is the prefix of all.
        let prefix = self.0.keys().group(group);
        if found.first().is_none_or(|first| first.key != prefix) {
            return Err(Error::group_not_created(group));
        }
        found.remove(0);
        Ok(found.into_iter().map(|found| to_member(&prefix, found)).collect())
    }

    async fn member(&self, group: &GroupId, member: &MemberId) -> Result<Member> {
        match self.find(group, member).await? {
            [None, _] => Err(Error::group_not_created(group)),
            [Some(_), None] => Err(Error::member_not_joined(group, member)),
            [Some(group), Some(found)] => Ok(to_member(&group.key, found)),
        }
    }

    /// First a snapshot, then each event after it. When the watch breaks, is compacted away or falls
    /// over, the engine tells of the gap and calls again.
    async fn watch(&self, group: &GroupId, feed: &GroupFeed) -> Result<()> {
        let state = &self.0;
        keys::check_group(group)?;
        let prefix = state.keys().group(group);
        // First the watch: what happens after the reading is among its events.
        let mut watch = state.client.watch(Range::prefix(prefix.clone())).await?;
        let (found, read_at) = self.read(group).await?;
        let is_member = |key: &[u8]| key.len() > prefix.len();
        let members = found.into_iter().filter(|found| is_member(&found.key));
        feed.snapshot(members.map(|found| to_member(&prefix, found)));
        loop {
            let events = watch.next().await?;
            for event in events.into_iter().filter(|event| event.revision() > read_at) {
                match event {
                    Event::Put(put) if is_member(&put.key) => feed.present(to_member(&prefix, put)),
                    Event::Deleted { key, .. } if is_member(&key) => {
                        feed.absent(&MemberId::from(&key[prefix.len()..]));
                    }
                    _ => {}
                }
            }
        }
    }
}

impl EtcdGroups {
    /// Changes the member's key if it is the one that this session made: whether it was, and whether
    /// an earlier attempt may have done it.
    async fn change_own(
        &self,
        group: &GroupId,
        change: impl FnOnce(Range) -> Op,
    ) -> Result<(Result<()>, bool)> {
        let state = &self.0;
        keys::check_group(group)?;
        let group_key = Range::key(state.keys().group(group));
        let member = Range::key(state.keys().member(group, &state.member));
        // No key is created by the revision -1.
        let membership = state.memberships.get(group);
        let revision = membership.as_ref().map_or(-1, |membership| membership.revision);
        let is_ours = member.clone().is(Test::CreatedAt(revision));
        let txn = Txn {
            when: vec![exists(group_key.clone()), is_ours],
            then: vec![change(member)],
            or: vec![group_key.get()],
        };
        let answer = state.txn(&txn).await?;
        if answer.value.succeeded {
            return Ok((Ok(()), answer.again));
        }
        if !answer.again
            && let Some(membership) = membership
        {
            // Told before the call fails, which may be before the watch tells: it may be joined
            // again.
            state.membership_lost(group, &membership);
        }
        let error = match answer.value.keys() {
            [None] => Error::group_not_created(group),
            [Some(_)] => Error::member_not_joined(group, &state.member),
        };
        Ok((Err(error), answer.again))
    }

    /// The keys of a group and of a member.
    async fn find(&self, group: &GroupId, member: &MemberId) -> Result<[Option<KeyValue>; 2]> {
        keys::check_group(group)?;
        keys::check_member(member)?;
        let keys = self.0.keys();
        self.0.client.read([keys.group(group), keys.member(group, member)]).await
    }

    /// All keys of a group, and the revision at which they were read.
    async fn read(&self, group: &GroupId) -> Result<(Vec<KeyValue>, i64)> {
        let read = Txn::of(vec![Range::prefix(self.0.keys().group(group)).get()]);
        let reply = self.0.txn(&read).await?.value;
        let revision = reply.revision;
        let [found] = reply.ranges();
        Ok((found, revision))
    }
}

fn exists(key: Range) -> Compare {
    key.is(Test::CreatedAfter(0))
}

fn to_member(prefix: &[u8], found: KeyValue) -> Member {
    let id = found.key.get(prefix.len()..).unwrap_or_default();
    let mut member = Member::new(id, Capabilities::from_msgpack(found.value));
    member.incarnation = found.create_revision.unsigned_abs();
    member
}
