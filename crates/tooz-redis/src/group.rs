//! Groups: see `scripts/group.lua`. A request whose reply was lost is repeated.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use redis::Value;
use tooz_core::{
    Capabilities, Error, GroupFeed, GroupId, Groups, JoinRequest, Lease, Member, MemberId, Moment,
    OperationId, Result, async_trait,
};

use crate::errors::odd_answer;
use crate::keys;
use crate::link::Answer;
use crate::scripts::Script;
use crate::session::{Life, RedisSession};
use crate::watch::Watch;

#[async_trait]
impl Groups for RedisSession {
    async fn create(&self, group: &GroupId) -> Result<()> {
        let life = &self.0;
        let by = OperationId::random().to_string();
        let (keys, arguments) = ([life.keys().groups()], [group.as_bytes(), by.as_bytes()]);
        match change(life, Script::Create, group, &keys, &arguments).await? {
            (1, _) => Ok(()),
            _ => Err(Error::group_already_exists(group)),
        }
    }

    async fn delete(&self, group: &GroupId) -> Result<()> {
        let life = &self.0;
        let keys = [life.keys().groups()];
        match change(life, Script::Delete, group, &keys, &[group.as_bytes()]).await? {
            (NO_GROUP, false) => Err(Error::group_not_created(group)),
            (NOT_EMPTY, _) => Err(Error::group_not_empty(group)),
            // What a repeated request finds undone was done by the first.
            _ => Ok(()),
        }
    }

    async fn list(&self) -> Result<BTreeSet<GroupId>> {
        let life = &self.0;
        let mut command = redis::cmd("SMEMBERS");
        command.arg(life.keys().groups());
        let groups = match life.link.call(&command).await?.value {
            Value::Set(groups) | Value::Array(groups) => groups,
            _ => return Err(odd_answer()),
        };
        let name = |group| match group {
            Value::BulkString(bytes) => Ok(GroupId::from(&bytes[..])),
            _ => Err(odd_answer()),
        };
        groups.into_iter().map(name).collect()
    }

    async fn join(&self, request: JoinRequest) -> Result<Lease> {
        let life = &self.0;
        let JoinRequest { group, capabilities, again, .. } = request;
        keys::check_capabilities(&capabilities)?;
        let (session, by) = (life.id.to_string(), OperationId::random());
        let operation = by.to_string();
        let arguments = [
            life.member.as_bytes(),
            capabilities.as_msgpack(),
            session.as_bytes(),
            operation.as_bytes(),
            if again { b"1" } else { b"0" },
            &life.keys().session_channels(),
        ];
        let keys = [life.keys().counter()];
        match change(life, Script::Join, &group, &keys, &arguments).await? {
            (1, _) => Ok(life.add_membership(&group, by)),
            (SESSION_OVER, _) => Err(life.forgotten()),
            (NO_GROUP, _) => Err(Error::group_not_created(&group)),
            _ => Err(Error::member_already_exists(&group, &life.member)),
        }
    }

    async fn leave(&self, group: &GroupId) -> Result<()> {
        let life = &self.0;
        let left = change(life, Script::Leave, group, &[], &[life.member.as_bytes()]).await?;
        life.remove_membership(group);
        match left {
            (NO_GROUP, false) => Err(Error::group_not_created(group)),
            (MEMBER, false) => Err(Error::member_not_joined(group, &life.member)),
            (SESSION_OVER, _) => {
                // It was a member no more, and is none: the loss is told through the lease.
                drop(life.forgotten());
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
        let life = &self.0;
        keys::check_capabilities(capabilities)?;
        let arguments = [life.member.as_bytes(), capabilities.as_msgpack()];
        match change(life, Script::Update, group, &[], &arguments).await? {
            (1, _) => Ok(()),
            (SESSION_OVER, _) => Err(life.forgotten()),
            (NO_GROUP, _) => Err(Error::group_not_created(group)),
            _ => Err(Error::member_not_joined(group, &life.member)),
        }
    }

    async fn remove_member(&self, group: &GroupId, member: &MemberId) -> Result<()> {
        let life = &self.0;
        let arguments = [member.as_bytes(), &life.keys().session_channels()];
        match change(life, Script::Remove, group, &[], &arguments).await? {
            (SESSION_OVER, _) => Err(life.forgotten()),
            (NO_GROUP, false) => Err(Error::group_not_created(group)),
            (MEMBER, false) => Err(Error::member_not_joined(group, member)),
            // What a repeated request finds undone was done by the first.
            _ => Ok(()),
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
        let found = read(life, group, member.as_bytes(), NO_DIGEST).await?;
        let found = found.ok_or_else(|| Error::group_not_created(group))?;
        let found = found.members.unwrap_or_default().pop();
        found.ok_or_else(|| Error::member_not_joined(group, member))
    }

    async fn watch(&self, group: &GroupId, feed: &GroupFeed) -> Result<()> {
        let life = &self.0;
        keys::check_group(group)?;
        let mut watch = Watch::open(life, life.keys().group_channel(group)).await?;
        let mut digest = Vec::new();
        loop {
            watch.mark();
            // A group that does not exist has no members, and may appear later.
            let found = read(life, group, b"", &digest).await?;
            let found = found.unwrap_or(Members {
                digest: b"none".to_vec(),
                life: None,
                members: Some(Vec::new()),
            });
            digest = found.digest;
            if let Some(members) = found.members {
                feed.snapshot(members);
            }
            let death = found.life.map(|life| life + Duration::from_millis(5));
            watch.changed(Moment::now() + death.unwrap_or(SILENT_PEERS).min(SILENT_PEERS)).await;
        }
    }
}

/// How often a watched group is looked at for what peers of another kind did, who tell nobody.
const SILENT_PEERS: Duration = Duration::from_secs(1);

/// What the scripts answer with.
const NO_GROUP: i64 = -1;
const MEMBER: i64 = -2;
const NOT_EMPTY: i64 = -3;
const SESSION_OVER: i64 = -4;

/// One script on one group.
async fn call(
    life: &Life,
    script: Script,
    group: &GroupId,
    more_keys: &[Vec<u8>],
    more_arguments: &[&[u8]],
) -> Result<Answer<Value>> {
    keys::check_group(group)?;
    let names = life.keys();
    let mut all_keys =
        vec![names.group(group), names.group_companion(group), names.session(life.id)];
    all_keys.extend_from_slice(more_keys);
    let (channel, beats) = (names.group_channel(group), names.beats());
    let mut arguments = vec![&channel[..], &beats];
    arguments.extend(more_arguments);
    life.link.call(&script.call(&all_keys, arguments)).await
}

/// The same, for a script that answers with one number, and whether it was repeated.
async fn change(
    life: &Life,
    script: Script,
    group: &GroupId,
    more_keys: &[Vec<u8>],
    more_arguments: &[&[u8]],
) -> Result<(i64, bool)> {
    let answer = call(life, script, group, more_keys, more_arguments).await?;
    match answer.value {
        Value::Int(number) => Ok((number, answer.again)),
        _ => Err(odd_answer()),
    }
}

// ---- Reading.

/// In place of a digest: none is wanted.
const NO_DIGEST: &[u8] = b"-";

/// What the server says of a group's members.
struct Members {
    digest: Vec<u8>,
    /// When the first of them is dead unless it beats.
    life: Option<Duration>,
    /// `None` if they are as known.
    members: Option<Vec<Member>>,
}

pub(crate) async fn members(life: &Life, group: &GroupId) -> Result<Vec<Member>> {
    let found = read(life, group, b"", NO_DIGEST).await?;
    found.and_then(|found| found.members).ok_or_else(|| Error::group_not_created(group))
}

/// The members of a group, or the one that is asked for; `None` without the group.
async fn read(
    life: &Life,
    group: &GroupId,
    member: &[u8],
    digest: &[u8],
) -> Result<Option<Members>> {
    let answer = call(life, Script::Members, group, &[], &[member, digest]).await?;
    let parts = match answer.value {
        Value::Int(NO_GROUP) => return Ok(None),
        Value::Array(parts) => parts,
        _ => return Err(odd_answer()),
    };
    let [Value::BulkString(found), Value::Int(milliseconds), records @ ..] = &parts[..] else {
        return Err(odd_answer());
    };
    let members = records.chunks(3).map(|record| match record {
        [Value::BulkString(id), Value::BulkString(capabilities), Value::BulkString(ours)] => {
            let capabilities = Capabilities::from_msgpack(&capabilities[..]);
            Ok(with_record(Member::new(&id[..], capabilities), ours))
        }
        _ => Err(odd_answer()),
    });
    let members = if found == digest { None } else { Some(members.collect::<Result<Vec<_>>>()?) };
    let members = members.map(|mut members| {
        members.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        members
    });
    let life = u64::try_from(*milliseconds).ok().map(Duration::from_millis);
    Ok(Some(Members { digest: found.clone(), life, members }))
}

/// Adds what SESSION:OPERATION:INCARNATION:JOINED:UPDATED says, if it is there.
fn with_record(mut member: Member, record: &[u8]) -> Member {
    let record = std::str::from_utf8(record).unwrap_or_default();
    let mut numbers = record.split(':').skip(2).map_while(|number| number.parse::<u64>().ok());
    let time = |ms: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
    member.incarnation = numbers.next().unwrap_or(0);
    member.joined_at = numbers.next().map(time);
    member.updated_at = numbers.next().map(time);
    member
}
