//! Groups: rows, of which those count whose session lives.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use tooz_core::{
    Capabilities, Error, GroupFeed, GroupId, Groups, JoinRequest, Lease, Member, MemberId,
    OperationId, Result, async_trait,
};

use crate::errors::{self, odd_answer};
use crate::link::{bytes, number, unsigned, unsigned_in};
use crate::listen;
use crate::names;
use crate::session::{Life, MySqlSession};

#[async_trait]
impl Groups for MySqlSession {
    async fn create(&self, group: &GroupId) -> Result<()> {
        let life = &self.0;
        names::check_group(group)?;
        let (table, id) = (life.table("group"), names::literal(group.as_bytes()));
        let operation = OperationId::random();
        let by = names::literal(operation.as_bytes());
        let sql = format!("INSERT INTO {table}(id,operation) VALUES({id},{by})");
        match life.main.change(&sql).await {
            Ok(_) => Ok(()),
            Err(failure) if failure.is(errors::DUPLICATE) => {
                Err(Error::group_already_exists(group))
            }
            Err(failure) if failure.is_fatal() => {
                let ask = format!("SELECT 1 FROM {table} WHERE id={id} AND operation={by}");
                match life.ask_elsewhere(ask).await {
                    Ok(rows) if !rows.is_empty() => Ok(()),
                    _ => Err(failure.into()),
                }
            }
            Err(failure) => Err(failure.into()),
        }
    }

    async fn delete(&self, group: &GroupId) -> Result<()> {
        let life = &self.0;
        names::check_group(group)?;
        let (table, members) = (life.table("group"), life.table("member"));
        let id = names::literal(group.as_bytes());
        let sql = format!(
            "SET @found=(SELECT COUNT(*) FROM {table} WHERE id={id} FOR UPDATE);\
             SET @living=(SELECT COUNT(*) FROM {members} WHERE group_id={id} AND {lives});\
             DELETE FROM {members} WHERE group_id={id} AND NOT @living;\
             DELETE FROM {table} WHERE id={id} AND NOT @living;\
             SELECT CAST(@found AS SIGNED),CAST(@living AS SIGNED)",
            lives = lives(""),
        );
        let rows = match life.main.transact(&sql).await {
            Err(failure) if failure.is_fatal() => {
                let ask = format!("SELECT 1 FROM {table} WHERE id={id}");
                return match life.ask_elsewhere(ask).await {
                    Ok(rows) if rows.is_empty() => Ok(()),
                    _ => Err(failure.into()),
                };
            }
            result => result?,
        };
        match (number(&rows, 0), number(&rows, 1)) {
            (Some(0), _) => Err(Error::group_not_created(group)),
            (Some(_), Some(0)) => Ok(()),
            (Some(_), Some(_)) => Err(Error::group_not_empty(group)),
            _ => Err(odd_answer()),
        }
    }

    async fn list(&self) -> Result<BTreeSet<GroupId>> {
        let life = &self.0;
        let rows = life.ask(format!("SELECT id FROM {}", life.table("group"))).await?;
        rows.iter().map(|row| bytes(row, 0).map(GroupId::from).ok_or_else(odd_answer)).collect()
    }

    async fn join(&self, request: JoinRequest) -> Result<Lease> {
        let life = &self.0;
        let JoinRequest { group, capabilities, again, .. } = request;
        names::check_group(&group)?;
        let (table, members) = (life.table("group"), life.table("member"));
        let (id, member) = (names::literal(group.as_bytes()), life.member_sql());
        let session = names::literal(life.main.marker.as_bytes());
        let capabilities = names::literal(capabilities.as_msgpack());
        let taken = match again {
            true => "0".to_owned(),
            false => format!(
                "(SELECT COUNT(*) FROM {members} WHERE group_id={id} AND id={member} AND {})",
                lives("")
            ),
        };
        // The dead are cleared away on this occasion.
        let sql = format!(
            "SET @found=(SELECT COUNT(*) FROM {table} WHERE id={id} FOR UPDATE);SET @taken={taken};\
             DELETE FROM {members} WHERE group_id={id} AND @found AND NOT @taken \
             AND (id={member} OR NOT {lives});\
             INSERT INTO {members}(group_id,id,session,connection,capabilities,incarnation,revision,\
             joined_at,updated_at) SELECT {id},{member},{session},{connection},{capabilities},\
             UUID_SHORT(),UUID_SHORT(),{NOW},{NOW} FROM DUAL WHERE @found AND NOT @taken;\
             SELECT CAST(@found AS SIGNED),CAST(@taken AS SIGNED)",
            lives = lives(""),
            connection = life.main.number,
        );
        let rows = life.transact(&sql).await?;
        match (number(&rows, 0), number(&rows, 1)) {
            (Some(0), _) => Err(Error::group_not_created(&group)),
            (Some(_), Some(0)) => Ok(life.add_membership(&group)),
            (Some(_), Some(_)) => Err(Error::member_already_exists(&group, &life.member)),
            _ => Err(odd_answer()),
        }
    }

    async fn leave(&self, group: &GroupId) -> Result<()> {
        let life = &self.0;
        // Nobody who looks for removed memberships shall find this one.
        let lease = life.take_membership(group);
        let left = delete_ours(life, group).await;
        if let (Err(_), Some(lease)) = (&left, lease) {
            life.put_membership(group, lease);
        }
        left
    }

    async fn update_capabilities(
        &self,
        group: &GroupId,
        capabilities: &Capabilities,
    ) -> Result<()> {
        let life = &self.0;
        let sql = format!(
            "UPDATE {} SET capabilities={},revision=UUID_SHORT(),updated_at={NOW}",
            life.table("member"),
            names::literal(capabilities.as_msgpack())
        );
        change_ours(life, group, &sql).await
    }

    /// Removes a member, and wakes its session so that it looks for what it has lost.
    async fn remove_member(&self, group: &GroupId, member: &MemberId) -> Result<()> {
        let life = &self.0;
        names::check_group(group)?;
        let members = life.table("member");
        let (id, whom) = (names::literal(group.as_bytes()), names::literal(member.as_bytes()));
        let living = format!("group_id={id} AND id={whom} AND {}", lives(""));
        let sql = format!(
            "SET @session=(SELECT session FROM {members} WHERE {living} FOR UPDATE);\
             DELETE FROM {members} WHERE group_id={id} AND id={whom} AND session=@session;\
             SELECT CAST(@session IS NOT NULL AS SIGNED),\
             (SELECT COUNT(*) FROM {group} WHERE id={id}),\
             (SELECT listener FROM {session} WHERE id=@session)",
            group = life.table("group"),
            session = life.table("session"),
        );
        let rows = match life.main.transact(&sql).await {
            Err(failure) if failure.is_fatal() => {
                let left =
                    life.ask_elsewhere(format!("SELECT 1 FROM {members} WHERE {living}")).await;
                return match left {
                    Ok(rows) if rows.is_empty() => Ok(()),
                    // It may be another membership by now.
                    _ => Err(failure.into()),
                };
            }
            result => result?,
        };
        match (number(&rows, 0), number(&rows, 1)) {
            (Some(1), _) => {
                if let Some(listener) = unsigned(&rows, 2) {
                    listen::wake(life, listener).await;
                }
                Ok(())
            }
            (Some(_), Some(0)) => Err(Error::group_not_created(group)),
            (Some(_), Some(_)) => Err(Error::member_not_joined(group, member)),
            _ => Err(odd_answer()),
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
        let found = read(life, group, Some(member)).await?;
        let found = found.ok_or_else(|| Error::group_not_created(group))?.pop();
        found.map(|found| found.member).ok_or_else(|| Error::member_not_joined(group, member))
    }

    async fn watch(&self, group: &GroupId, feed: &GroupFeed) -> Result<()> {
        let life = &self.0;
        names::check_group(group)?;
        let mut known: Option<Known> = None;
        loop {
            if known.is_none() || known != Some(glance(life, group).await?) {
                // A group that does not exist has no members, and may appear later.
                let found = read(life, group, None).await?.unwrap_or_default();
                known = Some(found.iter().map(|f| (f.member.id.clone(), f.revision)).collect());
                feed.snapshot(found.into_iter().map(|found| found.member));
            }
            tokio::time::sleep(life.config.poll_interval).await;
        }
    }
}

/// The server's time in milliseconds.
pub(crate) const NOW: &str = "CAST(UNIX_TIMESTAMP(NOW(3))*1000 AS UNSIGNED)";

/// In SQL: whether the session of a row of members lives.
fn lives(table: &str) -> String {
    names::lives("s", &format!("{table}session"), &format!("{table}connection"))
}

/// What finds this session's membership.
fn ours(life: &Life, group: &GroupId) -> String {
    format!(
        "group_id={} AND id={} AND session={}",
        names::literal(group.as_bytes()),
        life.member_sql(),
        names::literal(life.main.marker.as_bytes())
    )
}

/// Changes this session's row; the error says what is missing.
async fn change_ours(life: &Life, group: &GroupId, sql: &str) -> Result<()> {
    names::check_group(group)?;
    let (table, id) = (life.table("group"), names::literal(group.as_bytes()));
    let sql = format!(
        "{sql} WHERE {};SET @changed=ROW_COUNT();\
         SELECT CAST(@changed AS SIGNED),(SELECT COUNT(*) FROM {table} WHERE id={id})",
        ours(life, group)
    );
    let rows = life.change(&sql).await?;
    match (number(&rows, 0), number(&rows, 1)) {
        (Some(1..), _) => Ok(()),
        (Some(_), Some(0)) => Err(Error::group_not_created(group)),
        (Some(_), Some(_)) => Err(Error::member_not_joined(group, &life.member)),
        _ => Err(odd_answer()),
    }
}

async fn delete_ours(life: &Life, group: &GroupId) -> Result<()> {
    let sql = format!("DELETE FROM {}", life.table("member"));
    let left = change_ours(life, group, &sql).await;
    if left.is_err() && life.main.is_dead() {
        // With the session, it is no member any more; but the server may take a while to end it.
        life.ask_elsewhere(format!("{sql} WHERE {}", ours(life, group))).await?;
        return Ok(());
    }
    left
}

// ---- Reading.

/// A member, and what tells its state from every other.
struct Found {
    member: Member,
    revision: u64,
}

pub(crate) async fn members(life: &Life, group: &GroupId) -> Result<Vec<Member>> {
    let found = read(life, group, None).await?.ok_or_else(|| Error::group_not_created(group))?;
    Ok(found.into_iter().map(|found| found.member).collect())
}

/// What a watch compares.
type Known = Vec<(MemberId, u64)>;

/// The members of a group without what they publish.
async fn glance(life: &Life, group: &GroupId) -> Result<Known> {
    let sql = format!(
        "SELECT m.id,m.revision FROM {} g JOIN {} m ON m.group_id=g.id AND {} WHERE g.id={} \
         ORDER BY m.id",
        life.table("group"),
        life.table("member"),
        lives("m."),
        names::literal(group.as_bytes()),
    );
    let rows = life.ask(sql).await?;
    let known = rows.iter().map(|row| Some((MemberId::from(bytes(row, 0)?), unsigned_in(row, 1)?)));
    known.collect::<Option<Known>>().ok_or_else(odd_answer)
}

/// The living members of a group in the order of their ids, or the one that is asked for; `None`
/// without the group.
async fn read(
    life: &Life,
    group: &GroupId,
    member: Option<&MemberId>,
) -> Result<Option<Vec<Found>>> {
    names::check_group(group)?;
    let only = member.map(|member| format!(" AND m.id={}", names::literal(member.as_bytes())));
    let sql = format!(
        "SELECT m.id,m.capabilities,m.revision,m.incarnation,m.joined_at,m.updated_at FROM {} g \
         LEFT JOIN {} m ON m.group_id=g.id AND {}{} WHERE g.id={} ORDER BY m.id",
        life.table("group"),
        life.table("member"),
        lives("m."),
        only.unwrap_or_default(),
        names::literal(group.as_bytes()),
    );
    let rows = life.ask(sql).await?;
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
    found.collect::<Option<_>>().map(Some).ok_or_else(odd_answer)
}
