//! Groups: a directory each, in it a mark that says that the group is there, and a key for each
//! member.
//!
//! A deletion first changes the mark, then looks for members, and removes the mark only if it is
//! as it left it. A join writes the member first and then looks at the mark; it puts back one that
//! a deletion has changed. So no join falls between the look and the removal, and a deletion that
//! dies halfway leaves a group.

use std::collections::BTreeSet;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use tooz_core::{
    Capabilities, Error, ErrorKind, GroupFeed, GroupId, Groups, JoinRequest, Lease, Loss, Member,
    MemberId, OperationId, Result, async_trait,
};

use crate::client::{Event, If, Node, Watched};
use crate::errors::{Refusal, unexpected};
use crate::keys::{self, last_part};
use crate::state::{Membership, State};

/// The groups of a session.
#[derive(Debug)]
pub(crate) struct EtcdGroups(pub(crate) Arc<State>);

#[async_trait]
impl Groups for EtcdGroups {
    async fn create(&self, group: &GroupId) -> Result<()> {
        let state = &self.0;
        check(state, group, &state.member)?;
        let (key, mark) = (state.keys().mark(group), mark(THERE));
        let answer = state.client.put(&key, &mark, None, Some(If::Absent)).await?;
        match answer.result {
            Ok(_) => Ok(()),
            Err(Refusal::Exists) => {
                // A lost reply to the same request before may have been that it was done.
                let ours = answer.again && state.client.has(&key, &mark).await?;
                if ours { Ok(()) } else { Err(Error::group_already_exists(group)) }
            }
            Err(refusal) => Err(unexpected("a group's mark", refusal)),
        }
    }

    async fn delete(&self, group: &GroupId) -> Result<()> {
        let state = &self.0;
        check(state, group, &state.member)?;
        let key = state.keys().mark(group);
        let deleting = mark(DELETING);
        loop {
            let seen = see(state, group).await?;
            let Some(before) = seen.mark else { return Err(Error::group_not_created(group)) };
            if !seen.members.is_empty() {
                return Err(Error::group_not_empty(group));
            }
            let marked = state.client.put(&key, &deleting, None, Some(If::Value(&before))).await?;
            if marked.result.is_err() {
                continue;
            }
            if !see(state, group).await?.members.is_empty() {
                state.client.put(&key, &mark(THERE), None, Some(If::Value(&deleting))).await?;
                return Err(Error::group_not_empty(group));
            }
            let deleted = state.client.delete(&key, Some(If::Value(&deleting))).await?;
            if deleted.result.is_ok() || deleted.again {
                // Directories that stay are in nobody's way.
                let folder = state.keys().group(group);
                drop(state.client.delete_empty(&format!("{folder}/member")).await);
                drop(state.client.delete_empty(&folder).await);
                return Ok(());
            }
            // A join or another deletion came between.
        }
    }

    async fn list(&self) -> Result<BTreeSet<GroupId>> {
        let state = &self.0;
        let answer = state.client.tree(&state.keys().groups()).await?;
        let groups = match answer.result {
            Ok(event) => event.node.nodes,
            Err(Refusal::Missing) => return Ok(BTreeSet::new()),
            Err(refusal) => return Err(unexpected("the directory of groups", refusal)),
        };
        let is_there = |group: &Node| group.nodes.iter().any(|node| !node.dir);
        let id = |group: Node| last_part(&group.key, 'g').map(GroupId::from);
        Ok(groups.into_iter().filter(is_there).filter_map(id).collect())
    }

    async fn join(&self, request: JoinRequest) -> Result<Lease> {
        let state = &self.0;
        let JoinRequest { group, capabilities, again, .. } = request;
        check(state, &group, &state.member)?;
        let mark = state.keys().mark(&group);
        // Looked at before too: a member of no group would be seen by those who watch it.
        if state.client.get(&mark).await?.result.is_err() {
            return Err(Error::group_not_created(&group));
        }
        let (key, ttl) =
            (state.keys().member(&group, &state.member), state.config.membership_timeout);
        let value = value(state, &capabilities)?;
        // What an earlier session of ours left is replaced.
        let condition = if again { None } else { Some(If::Absent) };
        let written = state.client.put(&key, &value, Some(ttl), condition).await?;
        let index = match written.result {
            Ok(event) => event.node.modified,
            Err(Refusal::Exists) => match state.client.get(&key).await?.result {
                // A lost reply to the same request before was that it was done.
                Ok(event) if written.again && state.has_member(&event.node) => event.node.modified,
                _ => return Err(Error::member_already_exists(&group, &state.member)),
            },
            Err(refusal) => return Err(unexpected("a member", refusal)),
        };
        if !is_there(state, &group).await? {
            state.client.delete(&key, Some(If::Index(index))).await?;
            return Err(Error::group_not_created(&group));
        }
        let lease = state.lease.timed_child(ttl.0, written.sent);
        let membership = Membership::new(lease.clone(), index);
        state.memberships.insert(group.clone(), membership);
        // The goodbye of a session that ended meanwhile may not have seen it.
        if state.closed.is_cancelled() || !state.lease.is_held() {
            drop(self.leave(&group).await);
            return Err(state.session_lost());
        }
        Ok(lease)
    }

    async fn leave(&self, group: &GroupId) -> Result<()> {
        let state = &self.0;
        let key = state.keys().member(group, &state.member);
        // Taken out before the request: the renewal must not take the end for a loss.
        let Some(membership) = state.memberships.remove(group) else {
            return not_joined(state, group).await;
        };
        loop {
            let left = state.client.delete(&key, Some(membership.proof())).await?;
            match left.result {
                Ok(_) => return Ok(()),
                Err(Refusal::Differs) if state.still_has(&key, &membership).await? => {}
                Err(_) if left.again => return Ok(()),
                Err(_) => {
                    membership.lease.lose(Loss::Taken);
                    return not_joined(state, group).await;
                }
            }
        }
    }

    async fn update_capabilities(
        &self,
        group: &GroupId,
        capabilities: &Capabilities,
    ) -> Result<()> {
        let state = &self.0;
        let (key, ttl) =
            (state.keys().member(group, &state.member), state.config.membership_timeout);
        let Some(membership) = state.memberships.get(group) else {
            return not_joined(state, group).await;
        };
        let value = value(state, capabilities)?;
        loop {
            let answer =
                state.client.put(&key, &value, Some(ttl), Some(membership.proof())).await?;
            match answer.result {
                Ok(event) => {
                    membership.changed(event.node.modified);
                    return Ok(());
                }
                // Renewed meanwhile; written once more, it is the same.
                Err(Refusal::Differs) if state.still_has(&key, &membership).await? => {}
                Err(_) => {
                    // Told before the call fails: it may be joined again.
                    membership.lease.lose(Loss::Taken);
                    return not_joined(state, group).await;
                }
            }
        }
    }

    /// Removes somebody's membership, and makes that session look.
    async fn remove_member(&self, group: &GroupId, member: &MemberId) -> Result<()> {
        let state = &self.0;
        check(state, group, member)?;
        let key = state.keys().member(group, member);
        loop {
            if state.client.get(&state.keys().mark(group)).await?.result.is_err() {
                return Err(Error::group_not_created(group));
            }
            let Ok(Event { node, .. }) = state.client.get(&key).await?.result else {
                return Err(Error::member_not_joined(group, member));
            };
            let removed = state.client.delete(&key, Some(If::Index(node.modified))).await?;
            match removed.result {
                // Renewed or updated meanwhile.
                Err(Refusal::Differs) => {}
                Err(_) if !removed.again => return Err(Error::member_not_joined(group, member)),
                // If a repeated request finds nothing to undo, the first one did it.
                Ok(_) | Err(_) => {
                    if let Some((session, _)) = node.value.split_once(':') {
                        state.wake(session).await;
                    }
                    return Ok(());
                }
            }
        }
    }

    async fn members(&self, group: &GroupId) -> Result<BTreeSet<MemberId>> {
        let members = self.members_with_capabilities(group).await?;
        Ok(members.into_iter().map(|member| member.id).collect())
    }

    async fn members_with_capabilities(&self, group: &GroupId) -> Result<Vec<Member>> {
        let state = &self.0;
        check(state, group, &state.member)?;
        let seen = see(state, group).await?;
        if seen.mark.is_some() { Ok(seen.members) } else { Err(Error::group_not_created(group)) }
    }

    async fn member(&self, group: &GroupId, member: &MemberId) -> Result<Member> {
        let members = self.members_with_capabilities(group).await?;
        let found = members.into_iter().find(|one| one.id == *member);
        found.ok_or_else(|| Error::member_not_joined(group, member))
    }

    async fn watch(&self, group: &GroupId, feed: &GroupFeed) -> Result<()> {
        let state = &self.0;
        check(state, group, &state.member)?;
        let key = state.keys().group(group);
        loop {
            let seen = see(state, group).await?;
            feed.snapshot(seen.members);
            let mut since = seen.index;
            loop {
                match state.client.watch(&key, since, true).await? {
                    // A whole directory went: look at what there is.
                    Watched::Event(event) if event.node.dir => break,
                    Watched::Event(event) => {
                        since = event.node.modified;
                        feed_event(feed, &event)?;
                    }
                    Watched::Forgotten => {
                        feed.gap();
                        break;
                    }
                }
            }
        }
    }
}

/// As etcd's own limit for v3. The server would take 10 MiB over v2, but repeats the value in the
/// answer to each renewal.
const MAX_VALUE: usize = 1_572_864;

const THERE: &str = "group:";
const DELETING: &str = "deleting:";

/// A group as it was at an index of the store.
struct Seen {
    /// The mark's value; `None` if there is no group.
    mark: Option<String>,
    members: Vec<Member>,
    index: u64,
}

async fn see(state: &State, group: &GroupId) -> Result<Seen> {
    let answer = state.client.tree(&state.keys().group(group)).await?;
    let mut seen = Seen { mark: None, members: Vec::new(), index: answer.index };
    match answer.result {
        Ok(event) => {
            for node in event.node.nodes {
                if node.dir {
                    seen.members =
                        node.nodes.iter().map(read_member).collect::<Result<Vec<_>>>()?;
                } else {
                    seen.mark = Some(node.value);
                }
            }
        }
        Err(Refusal::Missing) => {}
        Err(refusal) => return Err(unexpected("a group", refusal)),
    }
    seen.members.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(seen)
}

/// Whether a group is there; a deletion that has begun is stopped.
async fn is_there(state: &State, group: &GroupId) -> Result<bool> {
    let key = state.keys().mark(group);
    loop {
        let Ok(event) = state.client.get(&key).await?.result else { return Ok(false) };
        let now = event.node.value;
        if !now.starts_with(DELETING) {
            return Ok(true);
        }
        state.client.put(&key, &mark(THERE), None, Some(If::Value(&now))).await?;
    }
}

async fn not_joined(state: &State, group: &GroupId) -> Result<()> {
    match state.client.get(&state.keys().mark(group)).await?.result {
        Ok(_) => Err(Error::member_not_joined(group, &state.member)),
        Err(_) => Err(Error::group_not_created(group)),
    }
}

fn feed_event(feed: &GroupFeed, event: &Event) -> Result<()> {
    if last_part(&event.node.key, 'm').is_none() {
        return Ok(()); // the mark
    }
    if event.is_end() {
        feed.absent(&member_id(&event.node)?);
    } else {
        feed.present(read_member(&event.node)?);
    }
    Ok(())
}

fn mark(kind: &str) -> String {
    format!("{kind}{}", OperationId::random())
}

/// A member's value: `SESSION:CAPABILITIES`, these in base64.
fn value(state: &State, capabilities: &Capabilities) -> Result<String> {
    let value = format!("{}:{}", state.id, URL_SAFE.encode(capabilities.as_msgpack()));
    match value.len() {
        ..=MAX_VALUE => Ok(value),
        size => Err(Error::invalid("the capabilities are too large in base64")
            .with("bytes", size)
            .with("most", MAX_VALUE)),
    }
}

/// Refuses ids that are too long for the requests which name them.
fn check(state: &State, group: &GroupId, member: &MemberId) -> Result<()> {
    keys::check(&state.keys().member(group, member), &state.member, "id of the group")
}

fn member_id(node: &Node) -> Result<MemberId> {
    last_part(&node.key, 'm').map(MemberId::from).ok_or_else(|| foreign(node))
}

fn read_member(node: &Node) -> Result<Member> {
    let (_, capabilities) = node.value.split_once(':').ok_or_else(|| foreign(node))?;
    let capabilities = URL_SAFE.decode(capabilities).map_err(|_| foreign(node))?;
    let mut member = Member::new(member_id(node)?, Capabilities::from_msgpack(capabilities));
    member.incarnation = node.created;
    Ok(member)
}

fn foreign(node: &Node) -> Error {
    Error::new(ErrorKind::Serialization, "the member's entry is malformed").with("key", &node.key)
}
