//! Groups: see `scripts/group.lua`. A request whose reply was lost is repeated.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use redis::Value;
use tooz_core::{
    Capabilities, Error, GroupFeed, GroupId, Groups, JoinRequest, Lease, Member, MemberId, Moment,
    OperationId, Result, async_trait,
};

use crate::client::Answer;
use crate::keys;
use crate::scripts::{self, Script, flag};
use crate::state::{Membership, State};
use crate::watch::Watch;

/// The groups of a session.
#[derive(Debug)]
pub(crate) struct RedisGroups(pub(crate) Arc<State>);

#[async_trait]
impl Groups for RedisGroups {
    async fn create(&self, group: &GroupId) -> Result<()> {
        let state = &self.0;
        let operation = OperationId::random().to_string();
        let keys = [state.keys().groups()];
        let arguments = [group.as_bytes(), operation.as_bytes()];
        match change(state, Script::Create, group, &keys, &arguments).await? {
            (1, _) => Ok(()),
            _ => Err(Error::group_already_exists(group)),
        }
    }

    async fn delete(&self, group: &GroupId) -> Result<()> {
        let state = &self.0;
        let keys = [state.keys().groups()];
        match change(state, Script::Delete, group, &keys, &[group.as_bytes()]).await? {
            (NO_GROUP, false) => Err(Error::group_not_created(group)),
            (NOT_EMPTY, _) => Err(Error::group_not_empty(group)),
            // If a repeated request finds nothing to undo, the first one did it.
            _ => Ok(()),
        }
    }

    async fn list(&self) -> Result<BTreeSet<GroupId>> {
        let state = &self.0;
        let mut command = redis::cmd("SMEMBERS");
        command.arg(state.keys().groups());
        let groups = match state.client.call(&command).await?.value {
            Value::Set(groups) | Value::Array(groups) => groups,
            _ => return Err(Error::unexpected_answer()),
        };
        let name = |group| match group {
            Value::BulkString(bytes) => Ok(GroupId::from(&bytes[..])),
            _ => Err(Error::unexpected_answer()),
        };
        groups.into_iter().map(name).collect()
    }

    async fn join(&self, request: JoinRequest) -> Result<Lease> {
        let state = &self.0;
        let JoinRequest { group, capabilities, again, .. } = request;
        keys::check_capabilities(&capabilities)?;
        let (session, operation) = (state.id.to_string(), OperationId::random().to_string());
        // In the order in which `join.lua` has them.
        let arguments = [
            state.member.as_bytes(),
            capabilities.as_msgpack(),
            session.as_bytes(),
            operation.as_bytes(),
            flag(again),
            &state.keys().session_channels(),
        ];
        let keys = [state.keys().counter()];
        match change(state, Script::Join, &group, &keys, &arguments).await? {
            (1, _) => {
                let lease = state.lease.child();
                let membership = Membership { joined_by: operation, lease: lease.clone() };
                state.memberships.insert(group, membership);
                Ok(lease)
            }
            (SESSION_OVER, _) => Err(state.session_lost()),
            (NO_GROUP, _) => Err(Error::group_not_created(&group)),
            _ => Err(Error::member_already_exists(&group, &state.member)),
        }
    }

    async fn leave(&self, group: &GroupId) -> Result<()> {
        let state = &self.0;
        let left = change(state, Script::Leave, group, &[], &[state.member.as_bytes()]).await?;
        state.memberships.remove(group);
        match left {
            (NO_GROUP, false) => Err(Error::group_not_created(group)),
            (MEMBER, false) => Err(Error::member_not_joined(group, &state.member)),
            (SESSION_OVER, _) => {
                // It was no longer a member, and is none: the lease reports the loss.
                drop(state.session_lost());
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn update_capabilities(
        &self,
        group: &GroupId,
        capabilities: &Capabilities,
    ) -> Result<()> {
        let state = &self.0;
        keys::check_capabilities(capabilities)?;
        let arguments = [state.member.as_bytes(), capabilities.as_msgpack()];
        match change(state, Script::Update, group, &[], &arguments).await? {
            (1, _) => Ok(()),
            (SESSION_OVER, _) => Err(state.session_lost()),
            (NO_GROUP, _) => Err(Error::group_not_created(group)),
            _ => Err(Error::member_not_joined(group, &state.member)),
        }
    }

    async fn remove_member(&self, group: &GroupId, member: &MemberId) -> Result<()> {
        let state = &self.0;
        let arguments = [member.as_bytes(), &state.keys().session_channels()];
        match change(state, Script::Remove, group, &[], &arguments).await? {
            (SESSION_OVER, _) => Err(state.session_lost()),
            (NO_GROUP, false) => Err(Error::group_not_created(group)),
            (MEMBER, false) => Err(Error::member_not_joined(group, member)),
            // If a repeated request finds nothing to undo, the first one did it.
            _ => Ok(()),
        }
    }

    async fn members(&self, group: &GroupId) -> Result<BTreeSet<MemberId>> {
        let members = self.members_with_capabilities(group).await?;
        Ok(members.into_iter().map(|member| member.id).collect())
    }

    async fn members_with_capabilities(&self, group: &GroupId) -> Result<Vec<Member>> {
        let found = read(&self.0, group, b"", NO_DIGEST).await?;
        found.and_then(|found| found.members).ok_or_else(|| Error::group_not_created(group))
    }

    async fn member(&self, group: &GroupId, member: &MemberId) -> Result<Member> {
        let state = &self.0;
        let found = read(state, group, member.as_bytes(), NO_DIGEST).await?;
        let found = found.ok_or_else(|| Error::group_not_created(group))?;
        let found = found.members.unwrap_or_default().pop();
        found.ok_or_else(|| Error::member_not_joined(group, member))
    }

    async fn watch(&self, group: &GroupId, feed: &GroupFeed) -> Result<()> {
        let state = &self.0;
        keys::check_group(group)?;
        let mut watch = Watch::open(state, state.keys().group_channel(group)).await?;
        let mut digest = Vec::new();
        loop {
            watch.mark();
            // A group that does not exist has no members, and may appear later.
            let found = read(state, group, b"", &digest).await?;
            let found = found.unwrap_or(Members {
                digest: b"none".to_vec(),
                ttl: None,
                members: Some(Vec::new()),
            });
            digest = found.digest;
            if let Some(members) = found.members {
                feed.snapshot(members);
            }
            let death = found.ttl.map(|ttl| ttl + Duration::from_millis(5));
            watch.changed(Moment::now() + death.unwrap_or(SILENT_PEERS).min(SILENT_PEERS)).await;
        }
    }
}

/// How often to look at a watched group for changes by Python peers: they notify nobody.
const SILENT_PEERS: Duration = Duration::from_secs(1);

/// What the scripts answer with.
const NO_GROUP: i64 = -1;
const MEMBER: i64 = -2;
const NOT_EMPTY: i64 = -3;
const SESSION_OVER: i64 = -4;

/// One script on one group.
async fn call(
    state: &State,
    script: Script,
    group: &GroupId,
    more_keys: &[Vec<u8>],
    more_arguments: &[&[u8]],
) -> Result<Answer<Value>> {
    keys::check_group(group)?;
    let names = state.keys();
    let mut all_keys =
        vec![names.group(group), names.group_companion(group), names.session(state.id)];
    all_keys.extend_from_slice(more_keys);
    let (channel, heartbeats) = (names.group_channel(group), names.heartbeats());
    let mut arguments = vec![&channel[..], &heartbeats];
    arguments.extend(more_arguments);
    state.client.call(&script.call(&all_keys, arguments)).await
}

/// The same, for a script that answers with one number, and whether it was repeated.
async fn change(
    state: &State,
    script: Script,
    group: &GroupId,
    more_keys: &[Vec<u8>],
    more_arguments: &[&[u8]],
) -> Result<(i64, bool)> {
    let answer = call(state, script, group, more_keys, more_arguments).await?;
    match answer.value {
        Value::Int(number) => Ok((number, answer.repeated)),
        _ => Err(Error::unexpected_answer()),
    }
}

// ---- Reading.

/// Instead of a digest: none is wanted.
const NO_DIGEST: &[u8] = b"-";

/// What the server says about a group's members.
struct Members {
    digest: Vec<u8>,
    /// When the first of them dies unless its heartbeat is renewed.
    ttl: Option<Duration>,
    /// `None` if they are as known.
    members: Option<Vec<Member>>,
}

/// The members of a group, or the one that is asked for; `None` without the group.
async fn read(
    state: &State,
    group: &GroupId,
    member: &[u8],
    digest: &[u8],
) -> Result<Option<Members>> {
    let answer = call(state, Script::Members, group, &[], &[member, digest]).await?;
    let parts = match answer.value {
        Value::Int(NO_GROUP) => return Ok(None),
        Value::Array(parts) => parts,
        _ => return Err(Error::unexpected_answer()),
    };
    let [Value::BulkString(found), Value::Int(milliseconds), records @ ..] = &parts[..] else {
        return Err(Error::unexpected_answer());
    };
    let members = if found == digest {
        None
    } else {
        let mut members = records.chunks(3).map(member_in).collect::<Result<Vec<_>>>()?;
        members.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        Some(members)
    };
    Ok(Some(Members { digest: found.clone(), ttl: scripts::ttl(*milliseconds), members }))
}

/// The member in `[id, capabilities, record]`, where the record of one of ours says
/// SESSION:OPERATION:INCARNATION:JOINED:UPDATED.
fn member_in(parts: &[Value]) -> Result<Member> {
    let [Value::BulkString(id), Value::BulkString(capabilities), Value::BulkString(record)] = parts
    else {
        return Err(Error::unexpected_answer());
    };
    let mut member = Member::new(&id[..], Capabilities::from_msgpack(&capabilities[..]));
    let record = std::str::from_utf8(record).unwrap_or_default();
    let mut numbers = record.split(':').skip(2).map_while(|number| number.parse::<u64>().ok());
    let time = |ms: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
    member.incarnation = numbers.next().unwrap_or(0);
    member.joined_at = numbers.next().map(time);
    member.updated_at = numbers.next().map(time);
    Ok(member)
}
