//! Groups: one item each, changed as a whole and only as it was last seen.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tooz_core::kit::random_part;
use tooz_core::{
    Capabilities, Error, ErrorKind, GroupFeed, GroupId, Groups, JoinRequest, Lease, Member,
    MemberId, Moment, OperationId, Outcome, Result, async_trait,
};

use crate::roster::{Entry, Record, Roster};
use crate::state::{Membership, State};
use crate::wire::{Change, How, Item, Request};
use crate::{list, local};

/// The groups of a session.
#[derive(Debug)]
pub(crate) struct MemcachedGroups(pub(crate) Arc<State>);

#[async_trait]
impl Groups for MemcachedGroups {
    /// The list first: what is listed and does not exist is not shown, and the other way round would be.
    async fn create(&self, group: &GroupId) -> Result<()> {
        let state = &self.0;
        let key = state.keys().group(group)?;
        let mut deleting: Option<(u64, Moment)> = None;
        loop {
            match state.client.get(&key).await? {
                None => {
                    list::add(state, group).await?;
                    let add = Roster::default().store(&key, How::Add)?;
                    match state.client.change(add).await {
                        Ok(Change::Done) => {}
                        Ok(_) => return Err(Error::group_already_exists(group)),
                        // There was no group, and there is one now.
                        Err(error) if error.outcome() == Outcome::Unknown => {
                            if state.client.get(&key).await?.is_none() {
                                continue;
                            }
                        }
                        Err(error) => return Err(error),
                    }
                    local::changed(&state.server, &key);
                    // Somebody may have found it listed without its item, and reaped it.
                    return list::add(state, group).await;
                }
                Some(item) if Roster::read(&item)?.is_some() => {
                    return Err(Error::group_already_exists(group));
                }
                // The original deletes in two steps, and may have crashed between them.
                Some(item) => match deleting {
                    Some((cas, since)) if cas == item.cas && since.elapsed() >= DELETION => {
                        state.client.change(Request::Delete(key.clone(), cas)).await?;
                    }
                    Some((cas, _)) if cas == item.cas => {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    _ => deleting = Some((item.cas, Moment::now())),
                },
            }
        }
    }

    /// The item goes in one step, if it is as it was when nobody lived in it.
    async fn delete(&self, group: &GroupId) -> Result<()> {
        let state = &self.0;
        let key = state.keys().group(group)?;
        let mut repeated = false;
        loop {
            let item = state.client.get(&key).await?;
            let roster = Roster::of(item.as_ref())?;
            let Some((item, roster)) = item.zip(roster) else {
                if repeated {
                    return list::remove(state, group).await;
                }
                return Err(Error::group_not_created(group));
            };
            if !living(state, &roster).await?.members.is_empty() {
                return Err(Error::group_not_empty(group));
            }
            match state.client.change(Request::Delete(key.clone(), item.cas)).await {
                Ok(Change::Done) => {
                    local::changed(&state.server, &key);
                    return list::remove(state, group).await;
                }
                Ok(_) => {}
                Err(error) if error.outcome() == Outcome::Unknown => repeated = true,
                Err(error) => return Err(error),
            }
        }
    }

    async fn list(&self) -> Result<BTreeSet<GroupId>> {
        let state = &self.0;
        let Some(item) = state.client.get(&state.keys().groups()).await? else {
            return Ok(BTreeSet::new());
        };
        // What the original would let nobody create has no item either.
        let named = list::read(&item)?.into_iter().filter_map(|group| {
            let key = state.keys().group(&group).ok()?;
            Some((group, Request::get(&key)))
        });
        let (groups, requests): (Vec<_>, Vec<_>) = named.unzip();
        let (replies, _) = state.client.call(&requests).await?;
        if replies.len() != groups.len() {
            return Err(Error::unexpected_answer());
        }
        let mut existing = BTreeSet::new();
        for (group, reply) in groups.into_iter().zip(replies) {
            if Roster::of(reply.item()?.as_ref())?.is_some() {
                existing.insert(group);
            }
        }
        Ok(existing)
    }

    async fn join(&self, request: JoinRequest) -> Result<Lease> {
        let state = &self.0;
        let JoinRequest { group, capabilities, again: replace, .. } = request;
        let [a, b, c, d, e, f, g, h, ..] = *OperationId::random().as_bytes();
        let incarnation = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let mut dead: Option<Entry> = None;
        loop {
            // The one that is there already, and may not be replaced as far as is known.
            let present = change(state, &group, |roster, repeated| {
                let present = roster.get(&state.member);
                match present {
                    Some(present) if repeated && present.incarnation() == incarnation => {
                        return Ok(Edit::Keep(None));
                    }
                    Some(present) if !replace && dead.as_ref() != Some(present) => {
                        return Ok(Edit::Keep(Some(present.clone())));
                    }
                    _ => {}
                }
                let record = Record::new(&state.id, incarnation);
                roster.insert(&state.member, Entry::new(&capabilities, record)?);
                Ok(Edit::Write(None))
            });
            match present.await? {
                None => {
                    let lease = state.lease.child();
                    let membership = Membership { lease: lease.clone(), cas: 0 };
                    state.memberships.insert(group, membership);
                    return Ok(lease);
                }
                Some(present) if is_alive(state, &state.member, &present).await? => {
                    return Err(Error::member_already_exists(&group, &state.member));
                }
                Some(present) => dead = Some(present),
            }
        }
    }

    async fn leave(&self, group: &GroupId) -> Result<()> {
        let state = &self.0;
        let left = remove_own(state, group).await;
        state.memberships.remove(group);
        match left {
            // It was no longer a member, and is none: the lease reports the loss.
            Err(error) if error.kind() == ErrorKind::SessionLost => Ok(()),
            Ok(false) => Err(Error::member_not_joined(group, &state.member)),
            left => left.map(drop),
        }
    }

    async fn update_capabilities(
        &self,
        group: &GroupId,
        capabilities: &Capabilities,
    ) -> Result<()> {
        let state = &self.0;
        change(state, group, |roster, _| {
            let Some(entry) = roster.of_session_mut(&state.member, &state.id) else {
                return Err(Error::member_not_joined(group, &state.member));
            };
            entry.update(capabilities)?;
            Ok(Edit::Write(()))
        })
        .await
    }

    /// Removes a member, whoever it is: one of ours learns of it with its next heartbeat.
    async fn remove_member(&self, group: &GroupId, id: &MemberId) -> Result<()> {
        let state = &self.0;
        // One that is dead is no member.
        self.member(group, id).await?;
        change(state, group, |roster, repeated| match roster.get(id) {
            Some(_) => {
                roster.remove(id);
                Ok(Edit::Write(()))
            }
            // If a repeated request finds nothing to undo, the first one did it.
            None if repeated => Ok(Edit::Keep(())),
            None => Err(Error::member_not_joined(group, id)),
        })
        .await
    }

    async fn members(&self, group: &GroupId) -> Result<BTreeSet<MemberId>> {
        let members = self.members_with_capabilities(group).await?;
        Ok(members.into_iter().map(|member| member.id).collect())
    }

    async fn members_with_capabilities(&self, group: &GroupId) -> Result<Vec<Member>> {
        let state = &self.0;
        let key = state.keys().group(group)?;
        let item = state.client.get(&key).await?;
        let roster = Roster::of(item.as_ref())?;
        let (item, roster) = item.zip(roster).ok_or_else(|| Error::group_not_created(group))?;
        Ok(reap(state, &key, &item, roster).await?.0.into_members())
    }

    async fn member(&self, group: &GroupId, member: &MemberId) -> Result<Member> {
        let state = &self.0;
        state.keys().member(member)?;
        let item = state.client.get(&state.keys().group(group)?).await?;
        let roster = Roster::of(item.as_ref())?.ok_or_else(|| Error::group_not_created(group))?;
        match roster.get(member) {
            Some(entry) if is_alive(state, member, entry).await? => {
                Ok(entry.clone().into_member(member.clone()))
            }
            _ => Err(Error::member_not_joined(group, member)),
        }
    }

    async fn watch(&self, group: &GroupId, feed: &GroupFeed) -> Result<()> {
        let state = &self.0;
        let key = state.keys().group(group)?;
        let cell = local::cell(&state.server, &key);
        let mut seen: Option<Option<u64>> = None;
        let mut safe = Moment::now();
        loop {
            let changes = cell.changes();
            let cas = state.client.item(Request::Look(key.clone())).await?.map(|item| item.cas);
            if seen != Some(cas) || safe.has_passed() {
                let item = state.client.get(&key).await?;
                let roster = Roster::of(item.as_ref())?;
                seen = Some(item.as_ref().map(|item| item.cas));
                let (roster, time) = match item.zip(roster) {
                    Some((item, roster)) => reap(state, &key, &item, roster).await?,
                    // A group that does not exist has no members, and may appear later.
                    None => (Roster::default(), state.config.membership_timeout),
                };
                safe = Moment::now() + time;
                feed.snapshot(roster.into_members());
            }
            local::next_look(changes).await;
        }
    }
}

/// How long a deletion by the original may take between its two steps. After that it has crashed.
const DELETION: Duration = Duration::from_secs(1);

/// What an edit of a group does with it.
enum Edit<T> {
    Keep(T),
    Write(T),
}

/// Changes a group as often as others get in the way, for as long as a session lasts. `edit` is
/// told whether a change of it whose answer was lost may have been made.
async fn change<T>(
    state: &State,
    group: &GroupId,
    mut edit: impl FnMut(&mut Roster, bool) -> Result<Edit<T>>,
) -> Result<T> {
    let key = state.keys().group(group)?;
    let until = Moment::now() + state.config.membership_timeout;
    let (mut repeated, mut round) = (false, 0);
    loop {
        let requests = [Request::get(&key), Request::Look(state.session_key())];
        let [item, session] = state.client.call_each(requests).await?;
        if session.item()?.is_none() {
            return Err(state.session_lost());
        }
        let item = item.item()?;
        let roster = Roster::of(item.as_ref())?;
        let Some((item, mut roster)) = item.zip(roster) else {
            return Err(Error::group_not_created(group));
        };
        let answer = match edit(&mut roster, repeated)? {
            Edit::Keep(answer) => return Ok(answer),
            Edit::Write(answer) => answer,
        };
        match state.client.change(roster.store(&key, How::Swap(item.cas))?).await {
            Ok(Change::Done) => {
                local::changed(&state.server, &key);
                return Ok(answer);
            }
            Ok(_) => {}
            Err(error) if error.outcome() == Outcome::Unknown => repeated = true,
            Err(error) => return Err(error),
        }
        if until.has_passed() {
            let outcome = if repeated { Outcome::Unknown } else { Outcome::NotApplied };
            return Err(Error::new(ErrorKind::TimedOut, "others keep changing the group")
                .with("group", group)
                .outcome_is(outcome));
        }
        pause(round).await;
        round += 1;
    }
}

/// Lets others go first: at random, so that they do not meet again.
async fn pause(round: u32) {
    tokio::time::sleep(random_part(Duration::from_millis(1 << round.min(5)))).await;
}

/// Removes this member; whether it was in the group.
pub(crate) async fn remove_own(state: &State, group: &GroupId) -> Result<bool> {
    change(state, group, |roster, repeated| {
        if roster.of_session(&state.member, &state.id).is_none() {
            return Ok(Edit::Keep(repeated));
        }
        roster.remove(&state.member);
        Ok(Edit::Write(true))
    })
    .await
}

// ---- Reading.

/// The members that live, having removed the others from the item if nobody else does so meanwhile;
/// and how long none of them can die by silence.
async fn reap(
    state: &State,
    key: &[u8],
    item: &Item,
    mut roster: Roster,
) -> Result<(Roster, Duration)> {
    let Living { members, safe } = living(state, &roster).await?;
    let all: Vec<_> = roster.iter().map(|(id, _)| id.clone()).collect();
    if all.len() > members.len() {
        all.iter().filter(|id| !members.contains(id)).for_each(|id| roster.remove(id));
        let store = roster.store(key, How::Swap(item.cas))?;
        if state.client.change(store).await? == Change::Done {
            local::changed(&state.server, key);
        }
    }
    Ok((roster, safe))
}

/// What shows whether a member lives: for ours its session, for the original's its sign of state.
fn sign(state: &State, member: &MemberId, entry: &Entry) -> Result<Request> {
    Ok(Request::Look(match entry.session() {
        Some(session) => state.keys().session(session),
        None => state.keys().member(member)?,
    }))
}

async fn is_alive(state: &State, member: &MemberId, entry: &Entry) -> Result<bool> {
    Ok(state.client.item(sign(state, member, entry)?).await?.is_some())
}

struct Living {
    members: BTreeSet<MemberId>,
    safe: Duration,
}

async fn living(state: &State, roster: &Roster) -> Result<Living> {
    let mut living = Living { members: BTreeSet::new(), safe: state.config.membership_timeout };
    if roster.is_empty() {
        return Ok(living);
    }
    let signs = roster.iter().map(|(id, entry)| sign(state, id, entry));
    let (replies, _) = state.client.call(&signs.collect::<Result<Vec<_>>>()?).await?;
    for ((id, _), reply) in roster.iter().zip(replies) {
        let Some(item) = reply.item()? else { continue };
        living.members.insert(id.clone());
        // The last of the seconds may have begun already; without a word, any of them.
        let safe = Duration::from_secs(item.left.map_or(0, |left| left.saturating_sub(1)));
        living.safe = living.safe.min(safe);
    }
    Ok(living)
}
