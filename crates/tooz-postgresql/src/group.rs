//! Groups: rows, of which a member's counts as long as its session lives. Each change is one
//! statement, which also tells everybody.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use tokio_postgres::Row;
use tokio_postgres::types::Type;
use tooz_core::{
    Capabilities, Error, ErrorKind, GroupFeed, GroupId, Groups, JoinRequest, Lease, Member,
    MemberId, OperationId, Outcome, Result, async_trait,
};
use tracing::debug;

use crate::connection::{Connection, Parameter};
use crate::errors::{get, is_locked_out, is_session_lost};
use crate::keys;
use crate::state::State;
use crate::watch::{Watch, reap};

/// The groups of a session.
#[derive(Debug)]
pub(crate) struct PostgresGroups(pub(crate) Arc<State>);

#[async_trait]
impl Groups for PostgresGroups {
    async fn create(&self, group: &GroupId) -> Result<()> {
        let state = &self.0;
        let operation = OperationId::random();
        let more: [Parameter<'_>; 1] = [(&&operation.as_bytes()[..], Type::BYTEA)];
        let created = match state.change_group(CREATE, group, &more).await {
            Ok(row) => get(&row, 0)?,
            Err(error) if is_session_lost(&error) => {
                let by = made_by(state, &error, group).await?;
                if by.as_deref() != Some(&operation.as_bytes()[..]) {
                    return Err(error);
                }
                true
            }
            Err(error) => return Err(error),
        };
        if created { Ok(()) } else { Err(Error::group_already_exists(group)) }
    }

    async fn delete(&self, group: &GroupId) -> Result<()> {
        let state = &self.0;
        let row = match state.change_group(DELETE, group, &[]).await {
            Ok(row) => row,
            Err(error) if error.context("sqlstate") == Some(FOREIGN_KEY_VIOLATION) => {
                return Err(Error::group_not_empty(group));
            }
            Err(error) if is_session_lost(&error) => {
                return match made_by(state, &error, group).await? {
                    None => Ok(()),
                    Some(_) => Err(error),
                };
            }
            Err(error) => return Err(error),
        };
        if get(&row, 0)? {
            return Ok(());
        }
        // Not in the statement, which sees how it was before: another may have deleted the group since.
        match read(state, group).await? {
            Some(_) => Err(Error::group_not_empty(group)),
            None => Err(Error::group_not_created(group)),
        }
    }

    async fn list(&self) -> Result<BTreeSet<GroupId>> {
        let state = &self.0;
        let rows = state.client.read("SELECT id FROM tooz_group", &[]).await?;
        rows.iter().map(|row| get::<&[u8]>(row, 0).map(GroupId::from)).collect()
    }

    async fn join(&self, request: JoinRequest) -> Result<Lease> {
        let state = &self.0;
        let JoinRequest { group, capabilities, again, .. } = request;
        keys::check_capabilities(&capabilities)?;
        let more: [Parameter<'_>; 3] = [
            (&state.member.as_bytes(), Type::BYTEA),
            (&capabilities.as_msgpack(), Type::BYTEA),
            (&again, Type::BOOL),
        ];
        let row = match state.change_group(JOIN, &group, &more).await {
            Ok(row) => row,
            Err(error) if error.context("sqlstate") == Some(FOREIGN_KEY_VIOLATION) => {
                return Err(Error::group_not_created(&group));
            }
            Err(error) => {
                if error.kind() == ErrorKind::TimedOut {
                    // Carried out after the join, which is what the connection's order is good for.
                    let state = state.clone();
                    tokio::spawn(async move {
                        if let Err(error) = state.change_group(LEAVE, &group, &[]).await {
                            debug!(%error, "a membership will end with its session");
                        }
                    });
                }
                return Err(error);
            }
        };
        let (joined, group_exists) = (get(&row, 0)?, get(&row, 1)?);
        match (joined, group_exists) {
            (true, _) => {
                let lease = state.lease.child();
                state.memberships.insert(group, lease.clone());
                Ok(lease)
            }
            (false, true) => Err(Error::member_already_exists(&group, &state.member)),
            (false, false) => Err(Error::group_not_created(&group)),
        }
    }

    async fn leave(&self, group: &GroupId) -> Result<()> {
        let state = &self.0;
        // From here on, no check finds it gone.
        let membership = state.memberships.remove(group);
        match state.change_group(LEAVE, group, &[]).await {
            Ok(row) => was_member(state, group, &row),
            Err(error) => {
                if let Some(membership) = membership {
                    state.memberships.insert(group.clone(), membership);
                }
                Err(error)
            }
        }
    }

    async fn update_capabilities(
        &self,
        group: &GroupId,
        capabilities: &Capabilities,
    ) -> Result<()> {
        let state = &self.0;
        keys::check_capabilities(capabilities)?;
        let more: [Parameter<'_>; 1] = [(&capabilities.as_msgpack(), Type::BYTEA)];
        let row = state.change_group(UPDATE, group, &more).await?;
        was_member(state, group, &row)
    }

    /// Removes the membership that there is now. One that the member makes meanwhile stays.
    async fn remove_member(&self, group: &GroupId, member: &MemberId) -> Result<()> {
        let state = &self.0;
        let not_joined = || Error::member_not_joined(group, member);
        let member_id: Parameter<'_> = (&member.as_bytes(), Type::BYTEA);
        let rows = state.read_group(WHICH, group, std::slice::from_ref(&member_id)).await?;
        let Some(row) = rows.first() else {
            // For the error: which of the two is missing.
            self.members_with_capabilities(group).await?;
            return Err(not_joined());
        };
        let incarnation: i64 = get(row, 0)?;
        let more = [member_id, (&incarnation, Type::INT8)];
        match state.change_group(REMOVE, group, &more).await {
            Ok(row) if get(&row, 0)? => Ok(()),
            Ok(_) => Err(not_joined()),
            Err(error) if is_session_lost(&error) => {
                let [member_id, incarnation] = more;
                let parameters = [(&group.as_bytes() as _, Type::BYTEA), member_id, incarnation];
                let left =
                    "SELECT FROM tooz_member WHERE group_id = $1 AND id = $2 AND incarnation = $3";
                let left = state.client.resolve(&error, left, &parameters).await?;
                if left.is_empty() { Ok(()) } else { Err(error) }
            }
            Err(error) => Err(error),
        }
    }

    async fn members(&self, group: &GroupId) -> Result<BTreeSet<MemberId>> {
        let members = self.members_with_capabilities(group).await?;
        Ok(members.into_iter().map(|member| member.id).collect())
    }

    async fn members_with_capabilities(&self, group: &GroupId) -> Result<Vec<Member>> {
        read(&self.0, group).await?.ok_or_else(|| Error::group_not_created(group))
    }

    async fn member(&self, group: &GroupId, member: &MemberId) -> Result<Member> {
        let mut members = self.members_with_capabilities(group).await?.into_iter();
        members.find(|one| one.id == *member).ok_or_else(|| Error::member_not_joined(group, member))
    }

    async fn watch(&self, group: &GroupId, feed: &GroupFeed) -> Result<()> {
        let state = &self.0;
        let mut watch = Watch::open(state, group).await?;
        loop {
            watch.mark();
            match read(state, group).await {
                // A group that does not exist has no members, and may appear later.
                Ok(members) => feed.snapshot(members.unwrap_or_default()),
                // Nobody can change it while nobody can read it.
                Err(error) if is_locked_out(&error) => {
                    watch.pause().await;
                    continue;
                }
                Err(error) => return Err(error),
            }
            watch.changed().await?;
        }
    }
}

const FOREIGN_KEY_VIOLATION: &str = "23503";

const CREATE: &str = "WITH made AS (INSERT INTO tooz_group (id, operation) VALUES ($1, $5) \
                          ON CONFLICT DO NOTHING RETURNING 1), \
                      told AS (SELECT pg_notify($3, $4) FROM made) \
                      SELECT count(*) > 0 FROM told";

/// A join may come between; then the key of its row forbids the deletion.
const DELETE: &str = "WITH dead AS (DELETE FROM tooz_member WHERE group_id = $1 AND session <> $2 \
                          AND pg_try_advisory_xact_lock_shared(session) RETURNING id), \
                      unmade AS (DELETE FROM tooz_group WHERE id = $1 AND NOT EXISTS (SELECT FROM \
                          tooz_member WHERE group_id = $1 AND id NOT IN (SELECT id FROM dead)) \
                          RETURNING 1), \
                      unled AS (DELETE FROM tooz_leader WHERE group_id = $1 \
                          AND EXISTS (SELECT FROM unmade)), \
                      told AS (SELECT pg_notify($3, $4) FROM unmade) \
                      SELECT count(*) > 0 FROM told";

/// The remnants of a dead member with the same id are replaced.
const JOIN: &str = "WITH joined AS (INSERT INTO tooz_member AS old \
                        (group_id, id, session, capabilities, incarnation) \
                        SELECT id, $5, $2, $6, nextval('tooz_token') FROM tooz_group WHERE id = $1 \
                        ON CONFLICT (group_id, id) DO UPDATE SET session = excluded.session, \
                        capabilities = excluded.capabilities, incarnation = excluded.incarnation, \
                        joined_at = now(), updated_at = now() \
                        WHERE $7 OR (old.session <> $2 \
                        AND pg_try_advisory_xact_lock_shared(old.session)) RETURNING 1), \
                    told AS (SELECT pg_notify($3, $4) FROM joined) \
                    SELECT (SELECT count(*) > 0 FROM told), \
                    EXISTS (SELECT FROM tooz_group WHERE id = $1)";

const LEAVE: &str = "WITH gone AS (DELETE FROM tooz_member WHERE group_id = $1 AND session = $2 \
                         RETURNING 1), \
                     told AS (SELECT pg_notify($3, $4) FROM gone) \
                     SELECT (SELECT count(*) > 0 FROM told), \
                     EXISTS (SELECT FROM tooz_group WHERE id = $1)";

const UPDATE: &str = "WITH new AS (UPDATE tooz_member SET capabilities = $5, updated_at = now() \
                          WHERE group_id = $1 AND session = $2 RETURNING 1), \
                      told AS (SELECT pg_notify($3, $4) FROM new) \
                      SELECT (SELECT count(*) > 0 FROM told), \
                      EXISTS (SELECT FROM tooz_group WHERE id = $1)";

/// A member's incarnation, if it lives.
const WHICH: &str = "SELECT incarnation FROM tooz_member WHERE group_id = $1 AND id = $3 \
                         AND (session = $2 OR NOT pg_try_advisory_xact_lock_shared(session))";

/// Tells the group, and the member.
const REMOVE: &str = "WITH gone AS (DELETE FROM tooz_member WHERE group_id = $1 AND id = $5 \
                          AND incarnation = $6 RETURNING session), \
                      told AS (SELECT pg_notify($3, $4), \
                          pg_notify($3, 'removed ' || lpad(to_hex(session), 16, '0')) FROM gone) \
                      SELECT count(*) > 0 FROM told";

const LEAVE_ALL: &str = "WITH gone AS (DELETE FROM tooz_member WHERE session = $1 RETURNING 1) \
                         SELECT pg_notify($2, change) FROM unnest($3) AS change \
                         WHERE (SELECT count(*) FROM gone) > 0";

/// The members of a group, one row without any if there are none, and no row without the group.
const MEMBERS: &str = "SELECT m.id, m.capabilities, m.incarnation, m.joined_at, m.updated_at, \
                           m.session = $2 OR NOT pg_try_advisory_xact_lock_shared(m.session) \
                       FROM tooz_group g LEFT JOIN tooz_member m ON m.group_id = g.id \
                       WHERE g.id = $1 ORDER BY m.id";

/// The operation that made a group, once nothing of the lost session can be carried out any longer;
/// `None` if there is no such group.
async fn made_by(state: &State, error: &Error, group: &GroupId) -> Result<Option<Vec<u8>>> {
    let sql = "SELECT operation FROM tooz_group WHERE id = $1";
    let rows = state.client.resolve(error, sql, &[(&group.as_bytes(), Type::BYTEA)]).await?;
    rows.first().map(|row| get(row, 0)).transpose()
}

fn was_member(state: &State, group: &GroupId, row: &Row) -> Result<()> {
    let (changed, group_exists) = (get(row, 0)?, get(row, 1)?);
    match (changed, group_exists) {
        (true, _) => Ok(()),
        (false, true) => Err(Error::member_not_joined(group, &state.member)),
        (false, false) => Err(Error::group_not_created(group)),
    }
}

/// Leaves every group at the end of the session: on its own connection, or on another.
pub(crate) async fn leave_all(state: &State, connection: &Connection) -> Result<()> {
    let groups = state.memberships.entries();
    if groups.is_empty() {
        return Ok(());
    }
    let changes: Vec<_> = groups.iter().map(|(group, _)| state.keys().change(group)).collect();
    let channel = state.keys().channel();
    let parameters: [Parameter<'_>; 3] = [
        (&state.client.main.key, Type::INT8),
        (&channel, Type::TEXT),
        (&changes, Type::TEXT_ARRAY),
    ];
    connection.ask(LEAVE_ALL, &parameters).await.map(drop)
}

// ---- Reading.

/// The living members; `None` without the group.
async fn read(state: &State, group: &GroupId) -> Result<Option<Vec<Member>>> {
    let rows = state.read_group(MEMBERS, group, &[]).await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let (mut members, mut dead) = (Vec::new(), false);
    for row in &rows {
        let Some(id) = get::<Option<&[u8]>>(row, 0)? else { continue };
        if !get::<bool>(row, 5)? {
            dead = true;
            continue;
        }
        let capabilities = Capabilities::from_msgpack(get::<&[u8]>(row, 1)?);
        let mut member = Member::new(id, capabilities);
        member.incarnation = get::<i64>(row, 2)?.unsigned_abs();
        member.joined_at = Some(get::<SystemTime>(row, 3)?);
        member.updated_at = Some(get::<SystemTime>(row, 4)?);
        members.push(member);
    }
    if dead {
        match reap(state, group).await {
            // Left to whoever comes next.
            Err(error) if is_locked_out(&error) => {}
            reaped => reaped.map_err(|error| error.outcome_is(Outcome::NotApplied))?,
        }
    }
    Ok(Some(members))
}
