//! What the server of a world keeps, and its rules. No I/O, no time but what is given.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tooz_core::{
    Capabilities, Error, ErrorKind, GroupId, Lease, Loss, Member, MemberId, Mode, Moment,
    OperationId, Result,
};

use crate::keys::LockKey;

pub(crate) type SessionId = OperationId;

#[derive(Default)]
pub(crate) struct Store {
    sessions: HashMap<SessionId, SessionRecord>,
    queues: BTreeMap<LockKey, Queue>,
    groups: BTreeMap<GroupId, Group>,
    /// What keeps tokens and incarnations rising.
    counter: u64,
    /// Rises with every change that a watch could care about.
    version: u64,
}

struct SessionRecord {
    member: MemberId,
    expires: Moment,
    /// The client's view, for the push that the session has ended.
    lease: Lease,
}

/// The holders of a lock or a term and those who wait for it, in order.
#[derive(Default)]
struct Queue {
    holders: Vec<Entry>,
    waiters: VecDeque<Entry>,
}

/// One acquisition.
pub(crate) struct Entry {
    pub(crate) id: OperationId,
    pub(crate) session: SessionId,
    pub(crate) mode: Mode,
    /// The client's view, for the push that it was broken.
    pub(crate) lease: Lease,
    /// Wakes the waiting client.
    pub(crate) granted: Arc<Notify>,
    /// 0 while waiting.
    pub(crate) token: u64,
}

struct Group {
    /// Which call created it, so that a lost reply can be distinguished from somebody else's group.
    created_by: OperationId,
    members: BTreeMap<MemberId, MemberRecord>,
}

struct MemberRecord {
    session: SessionId,
    joined_by: OperationId,
    member: Member,
    /// What tells the member that it was removed.
    lease: Lease,
}

impl Store {
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Forgets everything but the counter.
    pub(crate) fn wipe(&mut self) {
        let (counter, version) = (self.counter, self.version + 1);
        *self = Self { counter, version, ..Self::default() };
    }

    // ---- Sessions.

    pub(crate) fn open_session(
        &mut self,
        id: SessionId,
        member: MemberId,
        ttl: Duration,
        lease: Lease,
    ) {
        let expires = Moment::now() + ttl;
        self.sessions.insert(id, SessionRecord { member, expires, lease });
    }

    /// Fails if the session has ended.
    pub(crate) fn check(&self, session: SessionId) -> Result<()> {
        if self.sessions.contains_key(&session) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::SessionLost, "the session has expired"))
    }

    pub(crate) fn renew(&mut self, session: SessionId, ttl: Duration) -> Result<()> {
        self.check(session)?;
        if let Some(record) = self.sessions.get_mut(&session) {
            record.expires = Moment::now() + ttl;
        }
        Ok(())
    }

    pub(crate) fn expires(&self, session: SessionId) -> Option<Moment> {
        self.sessions.get(&session).map(|record| record.expires)
    }

    pub(crate) fn sessions_due(&self, now: Moment) -> Vec<SessionId> {
        self.sessions.iter().filter(|(_, s)| s.expires <= now).map(|(id, _)| *id).collect()
    }

    pub(crate) fn sessions_of(&self, member: &MemberId) -> Vec<SessionId> {
        self.sessions.iter().filter(|(_, s)| s.member == *member).map(|(id, _)| *id).collect()
    }

    pub(crate) fn all_sessions(&self) -> Vec<SessionId> {
        self.sessions.keys().copied().collect()
    }

    /// Removes a session and all that depends on it; the client's view, if it was there.
    pub(crate) fn end_session(&mut self, session: SessionId) -> Option<Lease> {
        let record = self.sessions.remove(&session)?;
        self.version += 1;
        for group in self.groups.values_mut() {
            group.members.retain(|_, member| member.session != session);
        }
        let keys: Vec<_> = self.queues.keys().cloned().collect();
        for key in keys {
            self.remove(&key, |entry| entry.session == session);
        }
        Some(record.lease)
    }

    // ---- Locks and terms.

    /// Puts an acquisition in the queue, unless it is there already; its token if it is granted.
    pub(crate) fn enqueue(&mut self, key: &LockKey, entry: Entry) -> Option<u64> {
        let id = entry.id;
        let queue = self.queues.entry(key.clone()).or_default();
        if !queue.entries().any(|other| other.id == id) {
            queue.waiters.push_back(entry);
            self.promote(key);
        }
        self.token(key, id)
    }

    /// The token of an acquisition that is granted.
    pub(crate) fn token(&self, key: &LockKey, id: OperationId) -> Option<u64> {
        let queue = self.queues.get(key)?;
        queue.holders.iter().find(|entry| entry.id == id).map(|entry| entry.token)
    }

    /// Takes an acquisition out of the queue, held or waiting; whether it was held.
    pub(crate) fn release(&mut self, key: &LockKey, id: OperationId) -> bool {
        let held = self.token(key, id).is_some();
        self.remove(key, |entry| entry.id == id);
        held
    }

    /// Breaks a lock and tells its holders; returns whether there were any.
    pub(crate) fn break_lock(&mut self, key: &LockKey) -> bool {
        let Some(queue) = self.queues.get_mut(key) else { return false };
        let holders = std::mem::take(&mut queue.holders);
        for holder in &holders {
            holder.lease.lose(Loss::Taken);
        }
        self.promote(key);
        !holders.is_empty()
    }

    fn remove(&mut self, key: &LockKey, goes: impl Fn(&Entry) -> bool) {
        if let Some(queue) = self.queues.get_mut(key) {
            queue.holders.retain(|entry| !goes(entry));
            queue.waiters.retain(|entry| !goes(entry));
            self.promote(key);
        }
    }

    /// Grants a lock to as many of the first in the queue as can have it together.
    fn promote(&mut self, key: &LockKey) {
        self.version += 1;
        let Some(queue) = self.queues.get_mut(key) else { return };
        while let Some(first) = queue.waiters.front() {
            let shared = |entry: &Entry| entry.mode == Mode::Shared;
            if !(queue.holders.is_empty() || shared(first) && queue.holders.iter().all(shared)) {
                return;
            }
            let Some(mut next) = queue.waiters.pop_front() else { return };
            self.counter += 1;
            next.token = self.counter;
            next.granted.notify_one();
            queue.holders.push(next);
        }
        if queue.holders.is_empty() {
            self.queues.remove(key);
        }
    }

    // ---- Groups.

    pub(crate) fn create_group(&mut self, group: &GroupId, by: OperationId) -> Result<()> {
        match self.groups.get(group) {
            Some(existing) if existing.created_by == by => Ok(()),
            Some(_) => Err(Error::group_already_exists(group)),
            None => {
                self.version += 1;
                let new = Group { created_by: by, members: BTreeMap::new() };
                self.groups.insert(group.clone(), new);
                Ok(())
            }
        }
    }

    pub(crate) fn delete_group(&mut self, group: &GroupId) -> Result<()> {
        if !self.group(group)?.members.is_empty() {
            return Err(Error::group_not_empty(group));
        }
        self.groups.remove(group);
        self.version += 1;
        Ok(())
    }

    pub(crate) fn groups(&self) -> impl Iterator<Item = &GroupId> {
        self.groups.keys()
    }

    pub(crate) fn join(
        &mut self,
        group: &GroupId,
        capabilities: Capabilities,
        (session, member): (SessionId, &MemberId),
        (by, again): (OperationId, bool),
        lease: &Lease,
    ) -> Result<()> {
        let present = self.group(group)?.members.get(member);
        match present {
            Some(present) if present.joined_by == by => return Ok(()),
            Some(_) if !again => return Err(Error::member_already_exists(group, member)),
            _ => {}
        }
        self.counter += 1;
        self.version += 1;
        let now = Some(SystemTime::now());
        let mut new = Member::new(member, capabilities);
        (new.joined_at, new.updated_at, new.incarnation) = (now, now, self.counter);
        let record = MemberRecord { session, joined_by: by, member: new, lease: lease.clone() };
        self.group_mut(group)?.members.insert(member.clone(), record);
        Ok(())
    }

    pub(crate) fn leave(&mut self, group: &GroupId, us: (SessionId, &MemberId)) -> Result<()> {
        self.own_record(group, us)?;
        self.group_mut(group)?.members.remove(us.1);
        self.version += 1;
        Ok(())
    }

    /// Removes somebody's membership, and tells that member.
    pub(crate) fn remove_member(&mut self, group: &GroupId, member: &MemberId) -> Result<()> {
        let Some(removed) = self.group_mut(group)?.members.remove(member) else {
            return Err(Error::member_not_joined(group, member));
        };
        removed.lease.lose(Loss::Taken);
        self.version += 1;
        Ok(())
    }

    pub(crate) fn update(
        &mut self,
        group: &GroupId,
        us: (SessionId, &MemberId),
        capabilities: Capabilities,
    ) -> Result<()> {
        let record = self.own_record(group, us)?;
        record.member.capabilities = capabilities;
        record.member.updated_at = Some(SystemTime::now());
        self.version += 1;
        Ok(())
    }

    /// The membership of this very session, not one of the same id that somebody else made.
    fn own_record(
        &mut self,
        group: &GroupId,
        (session, member): (SessionId, &MemberId),
    ) -> Result<&mut MemberRecord> {
        let own = self.group_mut(group)?.members.get_mut(member);
        own.filter(|record| record.session == session)
            .ok_or_else(|| Error::member_not_joined(group, member))
    }

    pub(crate) fn members(&self, group: &GroupId) -> Result<impl Iterator<Item = &Member>> {
        Ok(self.group(group)?.members.values().map(|record| &record.member))
    }

    pub(crate) fn leader(&self, group: &GroupId) -> Result<Option<MemberId>> {
        self.group(group)?;
        let queue = self.queues.get(&LockKey::Leader(group.clone()));
        let session = queue.and_then(|queue| queue.holders.first()).map(|entry| entry.session);
        Ok(session.and_then(|id| self.sessions.get(&id)).map(|session| session.member.clone()))
    }

    fn group(&self, group: &GroupId) -> Result<&Group> {
        self.groups.get(group).ok_or_else(|| Error::group_not_created(group))
    }

    fn group_mut(&mut self, group: &GroupId) -> Result<&mut Group> {
        self.groups.get_mut(group).ok_or_else(|| Error::group_not_created(group))
    }

    // ---- For tests.

    pub(crate) fn residue(&self) -> Vec<String> {
        let sessions = self.sessions.values().map(|s| format!("session of {}", s.member));
        let queues = self.queues.iter().map(|(key, queue)| {
            format!("{key:?}: {} held, {} waiting", queue.holders.len(), queue.waiters.len())
        });
        let members = self.groups.iter().flat_map(|(group, record)| {
            record.members.keys().map(move |member| format!("member {member} of {group}"))
        });
        sessions.chain(queues).chain(members).collect()
    }
}

impl Queue {
    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.holders.iter().chain(&self.waiters)
    }
}
