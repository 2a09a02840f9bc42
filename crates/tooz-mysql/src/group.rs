//! Groups: rows, of which those count whose session lives.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tooz_core::{
    Capabilities, Error, GroupFeed, GroupId, Groups, JoinRequest, Lease, Member, MemberId,
    OperationId, Result, async_trait,
};

use crate::connection::{bytes, number, unsigned, unsigned_in};
use crate::errors;
use crate::keys::{self, NOW};
use crate::state::State;

/// The groups of a session.
#[derive(Debug)]
pub(crate) struct MySqlGroups(pub(crate) Arc<State>);

#[async_trait]
impl Groups for MySqlGroups {
    async fn create(&self, group: &GroupId) -> Result<()> {
        let state = &self.0;
        keys::check_group(group)?;
        let (table, id) = (state.table("group"), keys::literal(group.as_bytes()));
        let operation = OperationId::random();
        let by = keys::literal(operation.as_bytes());
        let sql = format!("INSERT INTO {table}(id,operation) VALUES({id},{by})");
        match state.client.main.change(&sql).await {
            Ok(_) => Ok(()),
            Err(failure) if failure.is(errors::DUPLICATE) => {
                Err(Error::group_already_exists(group))
            }
            Err(failure) if failure.is_fatal() => {
                let ask = format!("SELECT 1 FROM {table} WHERE id={id} AND operation={by}");
                match state.client.ask_elsewhere(ask).await {
                    Ok(rows) if !rows.is_empty() => Ok(()),
                    _ => Err(failure.into()),
                }
            }
            Err(failure) => Err(failure.into()),
        }
    }

    async fn delete(&self, group: &GroupId) -> Result<()> {
        let state = &self.0;
        keys::check_group(group)?;
        let (table, members) = (state.table("group"), state.table("member"));
        let id = keys::literal(group.as_bytes());
        let sql = format!(
            "SET @found=(SELECT COUNT(*) FROM {table} WHERE id={id} FOR UPDATE);\
             SET @living=(SELECT COUNT(*) FROM {members} WHERE group_id={id} AND {lives});\
             DELETE FROM {members} WHERE group_id={id} AND NOT @living;\
             DELETE FROM {table} WHERE id={id} AND NOT @living;\
             SELECT CAST(@found AS SIGNED),CAST(@living AS SIGNED)",
            lives = lives(""),
        );
        let rows = match state.client.main.transact(&sql).await {
            Err(failure) if failure.is_fatal() => {
                let ask = format!("SELECT 1 FROM {table} WHERE id={id}");
                return match state.client.ask_elsewhere(ask).await {
                    Ok(rows) if rows.is_empty() => Ok(()),
                    _ => Err(failure.into()),
                };
            }
            result => result?,
        };
        let (found, living) = (number(&rows, 0), number(&rows, 1));
        match (found, living) {
            (Some(0), _) => Err(Error::group_not_created(group)),
            (Some(_), Some(0)) => Ok(()),
            (Some(_), Some(_)) => Err(Error::group_not_empty(group)),
            _ => Err(Error::unexpected_answer()),
        }
    }

    async fn list(&self) -> Result<BTreeSet<GroupId>> {
        let state = &self.0;
        let rows = state.client.ask(format!("SELECT id FROM {}", state.table("group"))).await?;
        rows.iter()
            .map(|row| bytes(row, 0).map(GroupId::from).ok_or_else(Error::unexpected_answer))
            .collect()
    }

    async fn join(&self, request: JoinRequest) -> Result<Lease> {
        let state = &self.0;
        let JoinRequest { group, capabilities, again, .. } = request;
        keys::check_group(&group)?;
        let (table, members) = (state.table("group"), state.table("member"));
        let (id, member) = (keys::literal(group.as_bytes()), state.member_sql());
        let session = state.session_sql();
        let capabilities = keys::literal(capabilities.as_msgpack());
        let taken = match again {
            true => "0".to_owned(),
            false => format!(
                "(SELECT COUNT(*) FROM {members} WHERE group_id={id} AND id={member} AND {})",
                lives("")
            ),
        };
        // The dead are reaped on this occasion.
        let sql = format!(
            "SET @found=(SELECT COUNT(*) FROM {table} WHERE id={id} FOR UPDATE);SET @taken={taken};\
             DELETE FROM {members} WHERE group_id={id} AND @found AND NOT @taken \
             AND (id={member} OR NOT {lives});\
             INSERT INTO {members}(group_id,id,session,connection,capabilities,incarnation,revision,\
             joined_at,updated_at) SELECT {id},{member},{session},{connection},{capabilities},\
             UUID_SHORT(),UUID_SHORT(),{NOW},{NOW} FROM DUAL WHERE @found AND NOT @taken;\
             SELECT CAST(@found AS SIGNED),CAST(@taken AS SIGNED)",
            lives = lives(""),
            connection = state.client.main.number,
        );
        let rows = state.client.transact(&sql).await?;
        let (found, taken) = (number(&rows, 0), number(&rows, 1));
        match (found, taken) {
            (Some(0), _) => Err(Error::group_not_created(&group)),
            (Some(_), Some(0)) => {
                let lease = state.lease.child();
                state.memberships.insert(group, lease.clone());
                state.occupied.notify_one();
                Ok(lease)
            }
            (Some(_), Some(_)) => Err(Error::member_already_exists(&group, &state.member)),
            _ => Err(Error::unexpected_answer()),
        }
    }

    async fn leave(&self, group: &GroupId) -> Result<()> {
        let state = &self.0;
        // From here on, no check finds it removed.
        let lease = state.memberships.remove(group);
        let sql = format!("DELETE FROM {}", state.table("member"));
        let mut left = change_ours(state, group, &sql).await;
        if left.is_err() && state.client.main.is_dead() {
            // With the session, it is no longer a member; but the server may take a while to end it.
            let sql = format!("{sql} WHERE {}", ours(state, group));
            left = state.client.ask_elsewhere(sql).await.map(drop);
        }
        if let (Err(_), Some(lease)) = (&left, lease) {
            state.memberships.insert(group.clone(), lease);
        }
        left
    }

    async fn update_capabilities(
        &self,
        group: &GroupId,
        capabilities: &Capabilities,
    ) -> Result<()> {
        let state = &self.0;
        let sql = format!(
            "UPDATE {} SET capabilities={},revision=UUID_SHORT(),updated_at={NOW}",
            state.table("member"),
            keys::literal(capabilities.as_msgpack())
        );
        change_ours(state, group, &sql).await
    }

    /// Removes a member, and wakes its session so that it looks for what it has lost.
    async fn remove_member(&self, group: &GroupId, member: &MemberId) -> Result<()> {
        let state = &self.0;
        keys::check_group(group)?;
        let members = state.table("member");
        let (id, whom) = (keys::literal(group.as_bytes()), keys::literal(member.as_bytes()));
        let living = format!("group_id={id} AND id={whom} AND {}", lives(""));
        let sql = format!(
            "SET @session=(SELECT session FROM {members} WHERE {living} FOR UPDATE);\
             DELETE FROM {members} WHERE group_id={id} AND id={whom} AND session=@session;\
             SELECT CAST(@session IS NOT NULL AS SIGNED),\
             (SELECT COUNT(*) FROM {group} WHERE id={id}),\
             (SELECT listener FROM {session} WHERE id=@session)",
            group = state.table("group"),
            session = state.table("session"),
        );
        let rows = match state.client.main.transact(&sql).await {
            Err(failure) if failure.is_fatal() => {
                let left = state
                    .client
                    .ask_elsewhere(format!("SELECT 1 FROM {members} WHERE {living}"))
                    .await;
                return match left {
                    Ok(rows) if rows.is_empty() => Ok(()),
                    // It may be another membership by now.
                    _ => Err(failure.into()),
                };
            }
            result => result?,
        };
        let (was_member, groups, listener) =
            (number(&rows, 0), number(&rows, 1), unsigned(&rows, 2));
        match (was_member, groups) {
            (Some(1), _) => {
                if let Some(listener) = listener {
                    state.client.wake(listener).await;
                }
                Ok(())
            }
            (Some(_), Some(0)) => Err(Error::group_not_created(group)),
            (Some(_), Some(_)) => Err(Error::member_not_joined(group, member)),
            _ => Err(Error::unexpected_answer()),
        }
    }

    async fn members(&self, group: &GroupId) -> Result<BTreeSet<MemberId>> {
        let members = self.members_with_capabilities(group).await?;
        Ok(members.into_iter().map(|member| member.id).collect())
    }

    async fn members_with_capabilities(&self, group: &GroupId) -> Result<Vec<Member>> {
        let found = read(&self.0, group, None).await?;
        let found = found.ok_or_else(|| Error::group_not_created(group))?;
        Ok(found.into_iter().map(|found| found.member).collect())
    }

    async fn member(&self, group: &GroupId, member: &MemberId) -> Result<Member> {
        let state = &self.0;
        let found = read(state, group, Some(member)).await?;
        let found = found.ok_or_else(|| Error::group_not_created(group))?.pop();
        found.map(|found| found.member).ok_or_else(|| Error::member_not_joined(group, member))
    }

    async fn watch(&self, group: &GroupId, feed: &GroupFeed) -> Result<()> {
        let state = &self.0;
        keys::check_group(group)?;
        let mut known: Option<Known> = None;
        loop {
            if known.is_none() || known != Some(glance(state, group).await?) {
                // A group that does not exist has no members, and may appear later.
                let found = read(state, group, None).await?.unwrap_or_default();
                known = Some(found.iter().map(|f| (f.member.id.clone(), f.revision)).collect());
                feed.snapshot(found.into_iter().map(|found| found.member));
            }
            tokio::time::sleep(state.config.poll_interval).await;
        }
    }
}

/// In SQL: whether the session of a row of members lives.
fn lives(table: &str) -> String {
    keys::lives("s", &format!("{table}session"), &format!("{table}connection"))
}

/// What finds this session's membership.
fn ours(state: &State, group: &GroupId) -> String {
    format!(
        "group_id={} AND id={} AND session={}",
        keys::literal(group.as_bytes()),
        state.member_sql(),
        state.session_sql()
    )
}

/// Changes this session's row; the error says what is missing.
async fn change_ours(state: &State, group: &GroupId, sql: &str) -> Result<()> {
    keys::check_group(group)?;
    let (table, id) = (state.table("group"), keys::literal(group.as_bytes()));
    let sql = format!(
        "{sql} WHERE {};SET @changed=ROW_COUNT();\
         SELECT CAST(@changed AS SIGNED),(SELECT COUNT(*) FROM {table} WHERE id={id})",
        ours(state, group)
    );
    let rows = state.client.change(&sql).await?;
    let (changed, groups) = (number(&rows, 0), number(&rows, 1));
    match (changed, groups) {
        (Some(1..), _) => Ok(()),
        (Some(_), Some(0)) => Err(Error::group_not_created(group)),
        (Some(_), Some(_)) => Err(Error::member_not_joined(group, &state.member)),
        _ => Err(Error::unexpected_answer()),
    }
}

// ---- Reading.

/// A member, and what distinguishes its state from every other.
struct Found {
    member: Member,
    revision: u64,
}

/// What a watch compares.
type Known = Vec<(MemberId, u64)>;

/// The members of a group without what they publish.
async fn glance(state: &State, group: &GroupId) -> Result<Known> {
    let sql = format!(
        "SELECT m.id,m.revision FROM {} g JOIN {} m ON m.group_id=g.id AND {} WHERE g.id={} \
         ORDER BY m.id",
        state.table("group"),
        state.table("member"),
        lives("m."),
        keys::literal(group.as_bytes()),
    );
    let rows = state.client.ask(sql).await?;
    let known = rows.iter().map(|row| Some((MemberId::from(bytes(row, 0)?), unsigned_in(row, 1)?)));
    known.collect::<Option<Known>>().ok_or_else(Error::unexpected_answer)
}

/// The living members of a group in the order of their ids, or the one that is asked for; `None`
/// without the group.
async fn read(
    state: &State,
    group: &GroupId,
    member: Option<&MemberId>,
) -> Result<Option<Vec<Found>>> {
    keys::check_group(group)?;
    let only = member.map(|member| format!(" AND m.id={}", keys::literal(member.as_bytes())));
    let sql = format!(
        "SELECT m.id,m.capabilities,m.revision,m.incarnation,m.joined_at,m.updated_at FROM {} g \
         LEFT JOIN {} m ON m.group_id=g.id AND {}{} WHERE g.id={} ORDER BY m.id",
        state.table("group"),
        state.table("member"),
        lives("m."),
        only.unwrap_or_default(),
        keys::literal(group.as_bytes()),
    );
    let rows = state.client.ask(sql).await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let time = |ms: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
    // A group without members is one row without a member.
    let members = rows.iter().filter_map(|row| bytes(row, 0).map(|id| (id, row)));
    let found = members.map(|(id, row)| {
        let capabilities = Capabilities::from_msgpack(bytes(row, 1)?);
        let mut member = Member::new(id, capabilities);
        member.incarnation = unsigned_in(row, 3)?;
        member.joined_at = unsigned_in(row, 4).map(time);
        member.updated_at = unsigned_in(row, 5).map(time);
        Some(Found { member, revision: unsigned_in(row, 2)? })
    });
    found.collect::<Option<_>>().map(Some).ok_or_else(Error::unexpected_answer)
}
