//! Groups, in the layout of the Python drivers: a key for the group, and below it one for each
//! member, attached to the session's lease.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use tooz_core::{
    Capabilities, Error, ErrorKind, GroupFeed, GroupId, Groups, JoinRequest, Lease, Member,
    MemberId, OperationId, Result, async_trait,
};

use crate::keys;
use crate::lock::notice;
use crate::session::{EtcdSession, Life};
use crate::transport::{Event, KeyValue, Op, Range, Test, Txn};

#[async_trait]
impl Groups for EtcdSession {
    async fn create(&self, group: &GroupId) -> Result<()> {
        let life = &self.0;
        keys::check_group(group)?;
        let key = Range::key(life.keys().group(group));
        // No peer reads the value. It tells whether an earlier attempt of ours was carried out.
        let by = OperationId::random().to_string().into_bytes();
        let txn = Txn {
            when: vec![key.clone().absent()],
            then: vec![Op::Put { key: key.key.clone(), value: by.clone(), lease: 0 }],
            or: vec![key.get()],
        };
        let mut reply = life.txn(&txn).await?.value;
        match reply.succeeded || reply.first(0).is_some_and(|found| found.value == by) {
            true => Ok(()),
            false => Err(Error::group_already_exists(group)),
        }
    }

    async fn delete(&self, group: &GroupId) -> Result<()> {
        let life = &self.0;
        keys::check_group(group)?;
        let key = Range::key(life.keys().group(group));
        let txn = Txn {
            when: vec![exists(key.clone()), life.keys().members(group).absent()],
            then: vec![key.clone().delete()],
            or: vec![key.get()],
        };
        let answer = life.txn(&txn).await?;
        let (again, mut reply) = (answer.again, answer.value);
        match (reply.succeeded, reply.got(0).is_empty()) {
            (true, _) => Ok(()),
            // What a repeated request finds undone was done by the first.
            (false, true) if again => Ok(()),
            (false, true) => Err(Error::group_not_created(group)),
            (false, false) => Err(Error::group_not_empty(group)),
        }
    }

    async fn list(&self) -> Result<BTreeSet<GroupId>> {
        let life = &self.0;
        let read = Txn::read(vec![Range::prefix(life.keys().groups()).get()]);
        let found = life.txn(&read).await?.value.got(0);
        Ok(found.iter().filter_map(|found| life.keys().group_of(&found.key)).collect())
    }

    async fn join(&self, request: JoinRequest) -> Result<Lease> {
        self.0.joining.fetch_add(1, Ordering::SeqCst);
        let joined = join(&self.0, request).await;
        self.0.joining.fetch_sub(1, Ordering::SeqCst);
        joined
    }

    async fn leave(&self, group: &GroupId) -> Result<()> {
        let life = &self.0;
        let member = Range::key(life.keys().member(group, &life.member));
        let remove = member.clone().delete();
        let left = change_own(life, group, member, remove).await;
        if left.is_ok() {
            life.remove_membership(group);
        }
        match left? {
            (Own::Changed, _) | (Own::NoGroup | Own::NoMember, true) => Ok(()),
            (Own::NoGroup, false) => Err(Error::group_not_created(group)),
            (Own::NoMember, false) => Err(Error::member_not_joined(group, &life.member)),
        }
    }

    async fn update_capabilities(
        &self,
        group: &GroupId,
        capabilities: &Capabilities,
    ) -> Result<()> {
        let life = &self.0;
        let member = Range::key(life.keys().member(group, &life.member));
        let put = Op::Put {
            key: member.key.clone(),
            value: capabilities.as_msgpack().to_vec(),
            lease: life.id,
        };
        match change_own(life, group, member, put).await?.0 {
            Own::Changed => Ok(()),
            Own::NoGroup => Err(Error::group_not_created(group)),
            Own::NoMember => Err(Error::member_not_joined(group, &life.member)),
        }
    }

    /// Removes somebody's membership, and tells that session.
    async fn remove_member(&self, group: &GroupId, member: &MemberId) -> Result<()> {
        let life = &self.0;
        keys::check_group(group)?;
        keys::check_member(member)?;
        let of_group = Range::key(life.keys().group(group));
        let key = Range::key(life.keys().member(group, member));
        let read = Txn::read(vec![of_group.get(), key.clone().get()]);
        let mut again = false;
        loop {
            let mut reply = life.txn(&read).await?.value;
            match (reply.got(0).is_empty(), reply.first(1)) {
                (_, None) if again => return Ok(()),
                (true, _) => return Err(Error::group_not_created(group)),
                (false, None) => return Err(Error::member_not_joined(group, member)),
                (false, Some(found)) => {
                    let mut then = vec![key.clone().delete()];
                    then.extend(
                        notice(life, found.lease, &found.create_revision.to_string()).await?,
                    );
                    let when = vec![key.clone().is(Test::CreatedAt(found.create_revision))];
                    // Not on behalf of our own session: a lease that has ended is the member's.
                    match life.client.txn(&Txn { when, then, or: Vec::new() }).await {
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
        Ok(members(&self.0, group).await?.into_iter().map(|member| member.id).collect())
    }

    async fn members_with_capabilities(&self, group: &GroupId) -> Result<Vec<Member>> {
        members(&self.0, group).await
    }

    async fn member(&self, group: &GroupId, member: &MemberId) -> Result<Member> {
        let life = &self.0;
        keys::check_group(group)?;
        keys::check_member(member)?;
        let of_group = Range::key(life.keys().group(group));
        let key = Range::key(life.keys().member(group, member));
        let mut reply = life.txn(&Txn::read(vec![of_group.get(), key.get()])).await?.value;
        if reply.got(0).is_empty() {
            return Err(Error::group_not_created(group));
        }
        let found = reply.first(1).ok_or_else(|| Error::member_not_joined(group, member))?;
        Ok(to_member(&life.keys().group(group), found))
    }

    /// First a snapshot, then each event after it. When the watch breaks, is compacted away or falls
    /// over, the engine tells of the gap and calls again.
    async fn watch(&self, group: &GroupId, feed: &GroupFeed) -> Result<()> {
        let life = &self.0;
        keys::check_group(group)?;
        let prefix = life.keys().group(group);
        // First the watch: what happens after the reading is among its events.
        let mut watch = life.client.watch(Range::prefix(prefix.clone())).await?;
        let (found, read_at) = read(life, group).await?;
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

pub(crate) async fn join(life: &Life, request: JoinRequest) -> Result<Lease> {
    let JoinRequest { group, capabilities, again: rejoin, .. } = request;
    keys::check_group(&group)?;
    let of_group = Range::key(life.keys().group(&group));
    let member = Range::key(life.keys().member(&group, &life.member));
    let txn = Txn {
        when: vec![exists(of_group.clone()), member.clone().absent()],
        then: vec![Op::Put {
            key: member.key.clone(),
            value: capabilities.as_msgpack().to_vec(),
            lease: life.id,
        }],
        or: vec![of_group.get(), member.clone().get()],
    };
    loop {
        let answer = life.txn(&txn).await?;
        let (repeated, mut reply) = (answer.again, answer.value);
        if reply.succeeded {
            return Ok(life.add_membership(&group, reply.revision));
        }
        if reply.got(0).is_empty() {
            return Err(Error::group_not_created(&group));
        }
        match reply.first(1) {
            // Gone in between.
            None => {}
            Some(found) if repeated && found.lease == life.id => {
                return Ok(life.add_membership(&group, found.create_revision));
            }
            // What an earlier session left, or this one.
            Some(found) if rejoin => {
                let seen = member.clone().is(Test::ModifiedAt(found.mod_revision));
                let remove =
                    Txn { when: vec![seen], then: vec![member.clone().delete()], ..Txn::default() };
                life.txn(&remove).await?;
            }
            Some(_) => return Err(Error::member_already_exists(&group, &life.member)),
        }
    }
}

/// What became of a change of our own membership.
enum Own {
    Changed,
    NoGroup,
    NoMember,
}

/// Changes the member's key if it is the one that this session made; whether an earlier attempt may
/// have done it.
async fn change_own(
    life: &Life,
    group: &GroupId,
    member: Range,
    change: Op,
) -> Result<(Own, bool)> {
    keys::check_group(group)?;
    let of_group = Range::key(life.keys().group(group));
    // No key is created by the revision -1.
    let membership = life.membership(group);
    let revision = membership.as_ref().map_or(-1, |membership| membership.revision);
    let txn = Txn {
        when: vec![exists(of_group.clone()), member.is(Test::CreatedAt(revision))],
        then: vec![change],
        or: vec![of_group.get()],
    };
    let answer = life.txn(&txn).await?;
    let mut reply = answer.value;
    let own = match (reply.succeeded, reply.got(0).is_empty()) {
        (true, _) => Own::Changed,
        (false, true) => Own::NoGroup,
        (false, false) => Own::NoMember,
    };
    if !reply.succeeded
        && !answer.again
        && let Some(membership) = membership
    {
        // Told before the call fails, which may be before the watch tells: it may be joined again.
        life.lost_membership(group, &membership);
    }
    Ok((own, answer.again))
}

fn exists(key: Range) -> crate::Compare {
    key.is(Test::CreatedAfter(0))
}

// ---- Reading.

pub(crate) async fn members(life: &Life, group: &GroupId) -> Result<Vec<Member>> {
    keys::check_group(group)?;
    let (mut found, _) = read(life, group).await?;
    // The group's own key is the first, as it is the prefix of all.
    let prefix = life.keys().group(group);
    if found.first().is_none_or(|first| first.key != prefix) {
        return Err(Error::group_not_created(group));
    }
    found.remove(0);
    Ok(found.into_iter().map(|found| to_member(&prefix, found)).collect())
}

/// All keys of a group, and the revision at which they were read.
async fn read(life: &Life, group: &GroupId) -> Result<(Vec<KeyValue>, i64)> {
    let read = Txn::read(vec![Range::prefix(life.keys().group(group)).get()]);
    let mut reply = life.txn(&read).await?.value;
    Ok((reply.got(0), reply.revision))
}

fn to_member(prefix: &[u8], found: KeyValue) -> Member {
    let id = found.key.get(prefix.len()..).unwrap_or_default();
    let mut member = Member::new(id, Capabilities::from_msgpack(found.value));
    member.incarnation = found.create_revision.unsigned_abs();
    member
}
