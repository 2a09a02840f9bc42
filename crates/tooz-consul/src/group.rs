//! Groups: a key each, and below it a key for each member, which belongs to the member's session.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tooz_core::{
    Capabilities, Error, ErrorKind, GroupFeed, GroupId, Groups, JoinRequest, Lease, Loss, Member,
    MemberId, Moment, OperationId, Result, async_trait,
};
use tooz_http::Request;

use crate::keys::path;
use crate::state::State;
use crate::transaction::{Entry, Op, Outcome};
use crate::watch::{KeyWatch, TreeWatch};

/// The groups of a session.
#[derive(Debug)]
pub(crate) struct ConsulGroups(pub(crate) Arc<State>);

#[async_trait]
impl Groups for ConsulGroups {
    async fn create(&self, group: &GroupId) -> Result<()> {
        let state = &self.0;
        let own = state.keys().group(group)?;
        // Flags mean nothing to anybody else, and tell our group from another's after a lost reply.
        let [a, b, c, d, ..] = *OperationId::random().as_bytes();
        let flags = u64::from(u32::from_be_bytes([a, b, c, d]));
        let ops = [Op::check_absent(&own), Op::set(&own, b"").flags(flags)];
        match state.transact(&ops).await? {
            (Outcome::Done(_), _) => Ok(()),
            (_, true)
                if state.client.get(&own).await?.is_some_and(|entry| entry.flags == flags) =>
            {
                Ok(())
            }
            _ => Err(Error::group_already_exists(group)),
        }
    }

    async fn delete(&self, group: &GroupId) -> Result<()> {
        let state = &self.0;
        let keys = state.keys();
        let (own, lock) = (keys.group(group)?, keys.group_lock(group)?);
        let limit = Moment::now() + state.config.write_timeout();
        let mut again = false;
        loop {
            // In one look: whoever joins after it changes the group's lock.
            let Outcome::Done(done) = state.client.read(&[Op::tree(&own), Op::tree(&lock)]).await?
            else {
                return Err(Error::unexpected_answer());
            };
            if done.entry(&own).is_none() {
                return if again { Ok(()) } else { Err(Error::group_not_created(group)) };
            }
            if done.entries.iter().any(|entry| entry.key != own && entry.key.starts_with(&own)) {
                return Err(Error::group_not_empty(group));
            }
            let unchanged = match done.entry(&lock) {
                Some(entry) if entry.session.is_some() => {
                    group_lock_is_free(state, &lock, limit).await?;
                    continue;
                }
                Some(entry) => Op::check_index(&lock, entry.changed),
                None => Op::check_absent(&lock),
            };
            let ops = [unchanged, Op::get(&own), Op::delete_tree(&own), Op::delete(&lock)];
            match state.transact(&ops).await? {
                (Outcome::Done(_), _) => return Ok(()),
                (Outcome::Refused(_), repeated) => again |= repeated,
            }
        }
    }

    async fn list(&self) -> Result<BTreeSet<GroupId>> {
        let prefix = self.0.keys().groups();
        let request = Request::get(path(&prefix)).query("keys", "").query("separator", "/");
        let response = self.0.client.call(request.query("consistent", ""), &[404]).await?;
        if response.status() == 404 {
            return Ok(BTreeSet::new());
        }
        let keys = response.json::<Vec<String>>()?;
        let group = |key: &String| {
            let name = key.strip_prefix(&prefix)?.strip_suffix('/')?;
            (!name.is_empty()).then(|| GroupId::from(name))
        };
        Ok(keys.iter().filter_map(group).collect())
    }

    /// Python's own driver does not know members that die, and so does not mind a session on their keys.
    /// While somebody joins, it holds the group's lock: what changes the members of a group takes that
    /// lock in passing, within its transaction.
    async fn join(&self, request: JoinRequest) -> Result<Lease> {
        let state = &self.0;
        let JoinRequest { group, capabilities, again, .. } = &request;
        let keys = state.keys();
        let (lock, own) = (keys.group_lock(group)?, keys.group(group)?);
        let (ours, session) = (keys.member(group, &state.member)?, &state.presence.members);
        let member = if *again { Op::delete(&ours) } else { Op::check_absent(&ours) };
        let ops = [
            Op::lock(&lock, b"", session),
            Op::get(&own),
            member,
            Op::lock(&ours, capabilities.as_msgpack(), session),
            Op::unlock(&lock, b"", session),
        ];
        let limit = Moment::now() + state.config.write_timeout();
        loop {
            let (outcome, repeated) = state.transact(&ops).await?;
            match outcome {
                Outcome::Done(_) => return Ok(joined(state, group)),
                Outcome::Refused(refusal) if refusal.has(1) => {
                    return Err(Error::group_not_created(group));
                }
                Outcome::Refused(refusal) if refusal.has(2) => {
                    // The reply may have been lost of the attempt that counted.
                    let is_ours = repeated
                        && !is_member(state, group)
                        && state.client.get(&ours).await?.is_some_and(|entry| entry.is_of(session));
                    if is_ours {
                        return Ok(joined(state, group));
                    }
                    return Err(Error::member_already_exists(group, &state.member));
                }
                Outcome::Refused(_) => group_lock_is_free(state, &lock, limit).await?,
            }
        }
    }

    async fn leave(&self, group: &GroupId) -> Result<()> {
        let state = &self.0;
        let (own, ours) = (state.keys().group(group)?, state.keys().member(group, &state.member)?);
        let ops =
            [Op::get(&own), Op::check_session(&ours, &state.presence.members), Op::delete(&ours)];
        let (outcome, repeated) = state.transact(&ops).await?;
        match outcome {
            Outcome::Refused(refusal) if refusal.has(0) => {
                return Err(Error::group_not_created(group));
            }
            Outcome::Refused(_) if !repeated => return Err(not_joined(state, group)),
            // Gone by an attempt whose reply was lost.
            _ => {}
        }
        state.memberships.remove(group);
        Ok(())
    }

    async fn update_capabilities(
        &self,
        group: &GroupId,
        capabilities: &Capabilities,
    ) -> Result<()> {
        let state = &self.0;
        let (own, ours) = (state.keys().group(group)?, state.keys().member(group, &state.member)?);
        let ops = [
            Op::get(&own),
            Op::check_session(&ours, &state.presence.members),
            Op::set(&ours, capabilities.as_msgpack()),
        ];
        match state.transact(&ops).await?.0 {
            Outcome::Done(_) => Ok(()),
            Outcome::Refused(refusal) if refusal.has(0) => Err(Error::group_not_created(group)),
            Outcome::Refused(_) => Err(not_joined(state, group)),
        }
    }

    /// Removes somebody's membership. The member learns of it with its next heartbeat, or by its
    /// watch of the group.
    async fn remove_member(&self, group: &GroupId, member: &MemberId) -> Result<()> {
        let state = &self.0;
        let (own, key) = (state.keys().group(group)?, state.keys().member(group, member)?);
        // The membership that an attempt may have removed whose reply was lost.
        let mut aimed = None;
        loop {
            let entry = match state.client.read(&[Op::get(&own), Op::get(&key)]).await? {
                Outcome::Done(done) => {
                    done.entry(&key).cloned().ok_or_else(Error::unexpected_answer)?
                }
                Outcome::Refused(_) if aimed.is_some() => return Ok(()),
                Outcome::Refused(refusal) if refusal.has(0) => {
                    return Err(Error::group_not_created(group));
                }
                Outcome::Refused(_) => return Err(Error::member_not_joined(group, member)),
            };
            // It joined again meanwhile.
            if aimed.is_some_and(|aimed| aimed != entry.created) {
                return Ok(());
            }
            let ops = [Op::check_index(&key, entry.changed), Op::delete(&key)];
            match state.transact(&ops).await? {
                (Outcome::Done(_), _) => return Ok(()),
                (Outcome::Refused(_), repeated) => {
                    aimed = aimed.or(repeated.then_some(entry.created))
                }
            }
        }
    }

    async fn members(&self, group: &GroupId) -> Result<BTreeSet<MemberId>> {
        let members = self.members_with_capabilities(group).await?;
        Ok(members.into_iter().map(|member| member.id).collect())
    }

    async fn members_with_capabilities(&self, group: &GroupId) -> Result<Vec<Member>> {
        let own = self.0.keys().group(group)?;
        let entries = self.0.client.tree(&own).await?;
        if !entries.iter().any(|entry| entry.key == own) {
            return Err(Error::group_not_created(group));
        }
        Ok(members_of(&own, &entries))
    }

    async fn member(&self, group: &GroupId, member: &MemberId) -> Result<Member> {
        let state = &self.0;
        let (own, key) = (state.keys().group(group)?, state.keys().member(group, member)?);
        match state.client.read(&[Op::get(&own), Op::get(&key)]).await? {
            Outcome::Done(done) => {
                let found = done.entry(&key).and_then(|entry| member_of(&own, entry));
                found.ok_or_else(Error::unexpected_answer)
            }
            Outcome::Refused(refusal) if refusal.has(0) => Err(Error::group_not_created(group)),
            Outcome::Refused(_) => Err(Error::member_not_joined(group, member)),
        }
    }

    async fn watch(&self, group: &GroupId, feed: &GroupFeed) -> Result<()> {
        let state = &self.0;
        let (own, ours) = (state.keys().group(group)?, state.keys().member(group, &state.member)?);
        let mut watch = TreeWatch::new(&state.poller, &own);
        loop {
            let entries = watch.next().await?;
            let is_ours = |entry: &Entry| entry.key == ours && entry.is_of(&state.presence.members);
            let is_missing = is_member(state, group) && !entries.iter().any(is_ours);
            feed.snapshot(members_of(&own, entries));
            // The look may be older than our joining, so it takes another one to know.
            if is_missing && !state.client.get(&ours).await?.is_some_and(|entry| is_ours(&entry)) {
                lose(state, group);
            }
        }
    }
}

/// Waits until no peer of another kind changes the group.
async fn group_lock_is_free(state: &State, lock: &str, limit: Moment) -> Result<()> {
    let mut watch = KeyWatch::new(&state.poller, lock);
    loop {
        if limit.has_passed() {
            return Err(
                Error::new(ErrorKind::TimedOut, "a peer holds the group's lock").with("key", lock)
            );
        }
        match watch.next(limit.remaining()).await? {
            Some(entry) if entry.session.is_some() => {}
            // Free, or kept from us for the lock-delay.
            _ => {
                tokio::time::sleep(Duration::from_millis(10)).await;
                return Ok(());
            }
        }
    }
}

/// We are a member from now on.
fn joined(state: &State, group: &GroupId) -> Lease {
    let lease = state.lease.child();
    state.memberships.insert(group.clone(), lease.clone());
    lease
}

fn is_member(state: &State, group: &GroupId) -> bool {
    state.memberships.get(group).is_some_and(|lease| lease.is_held())
}

/// We turn out to be no longer a member.
fn lose(state: &State, group: &GroupId) {
    if let Some(lease) = state.memberships.remove(group) {
        lease.lose(Loss::Taken);
    }
}

/// The error that we are no member. If we were, that is lost, which may not have been told yet.
fn not_joined(state: &State, group: &GroupId) -> Error {
    lose(state, group);
    Error::member_not_joined(group, &state.member)
}

fn members_of(own: &str, entries: &[Entry]) -> Vec<Member> {
    let mut members: Vec<_> = entries.iter().filter_map(|entry| member_of(own, entry)).collect();
    members.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    members
}

fn member_of(own: &str, entry: &Entry) -> Option<Member> {
    let id = entry.key.strip_prefix(own).filter(|id| !id.is_empty())?;
    let mut member = Member::new(id, Capabilities::from_msgpack(&entry.value[..]));
    member.incarnation = entry.created;
    Some(member)
}
