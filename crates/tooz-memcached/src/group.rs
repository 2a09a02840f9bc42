//! Groups: one item each, changed as a whole and only as it was last seen.

use std::collections::BTreeSet;
use std::time::Duration;

use tooz_core::{
    Capabilities, Error, ErrorKind, GroupFeed, GroupId, Groups, JoinRequest, Lease, Member,
    MemberId, Moment, OperationId, Outcome, Result, async_trait,
};

use crate::life::{Life, random_fraction};
use crate::roster::{Entry, Record, Roster};
use crate::session::MemcachedSession;
use crate::wire::{Change, How, Item, MSGPACK, Request, Seconds};
use crate::{errors, list, local};

#[async_trait]
impl Groups for MemcachedSession {
    /// The list first: what is listed and does not exist is not shown, and the other way round would be.
    async fn create(&self, group: &GroupId) -> Result<()> {
        let life = &self.0;
        let key = life.keys().group(group)?;
        let mut deleting: Option<(u64, Moment)> = None;
        loop {
            match life.link.ask(Request::get(&key)).await?.0.item()? {
                None => {
                    list::add(life, group).await?;
                    let empty = Roster::default().write()?;
                    let add = Request::store(&key, How::Add, MSGPACK, Seconds::FOR_EVER, empty);
                    match life.link.ask(add).await {
                        Ok((reply, _)) if reply.change()? == Change::Done => {}
                        Ok(_) => return Err(Error::group_already_exists(group)),
                        // There was no group, and there is one now.
                        Err(error) if error.outcome() == Outcome::Unknown => {
                            if life.link.ask(Request::get(&key)).await?.0.item()?.is_none() {
                                continue;
                            }
                        }
                        Err(error) => return Err(error),
                    }
                    local::changed(&life.server, &key);
                    // Somebody may have found it listed without its item, and tidied up.
                    return list::add(life, group).await;
                }
                Some(item) if Roster::read(&item)?.is_some() => {
                    return Err(Error::group_already_exists(group));
                }
                // The original deletes in two steps, and may have crashed between them.
                Some(item) => match deleting {
                    Some((cas, since)) if cas == item.cas && since.elapsed() >= DELETION => {
                        life.link.ask(Request::Delete(key.clone(), cas)).await?;
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
        let life = &self.0;
        let key = life.keys().group(group)?;
        let mut again = false;
        loop {
            let item = life.link.ask(Request::get(&key)).await?.0.item()?;
            let roster = item.as_ref().map(Roster::read).transpose()?.flatten();
            let Some((item, roster)) = item.zip(roster) else {
                if again {
                    return list::remove(life, group).await;
                }
                return Err(Error::group_not_created(group));
            };
            if !living(life, &roster).await?.members.is_empty() {
                return Err(Error::group_not_empty(group));
            }
            match life.link.ask(Request::Delete(key.clone(), item.cas)).await {
                Ok((reply, _)) => {
                    if reply.change()? == Change::Done {
                        local::changed(&life.server, &key);
                        return list::remove(life, group).await;
                    }
                }
                Err(error) if error.outcome() == Outcome::Unknown => again = true,
                Err(error) => return Err(error),
            }
        }
    }

    async fn list(&self) -> Result<BTreeSet<GroupId>> {
        let life = &self.0;
        list::all(life).await
    }

    async fn join(&self, request: JoinRequest) -> Result<Lease> {
        let life = &self.0;
        let JoinRequest { group, capabilities, again: replace, .. } = request;
        let [a, b, c, d, e, f, g, h, ..] = *OperationId::random().as_bytes();
        let incarnation = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let mut dead: Option<Entry> = None;
        loop {
            // Who is there already, and may not be replaced as far as is known.
            let present = change(life, &group, |roster, again| {
                let present = roster.get(&life.member);
                match present {
                    Some(present) if again && present.incarnation() == incarnation => {
                        return Ok(Edit::Keep(None));
                    }
                    Some(present) if !replace && dead.as_ref() != Some(present) => {
                        return Ok(Edit::Keep(Some(present.clone())));
                    }
                    _ => {}
                }
                let record = Record::new(&life.id, incarnation);
                roster.insert(&life.member, Entry::new(&capabilities, record)?);
                Ok(Edit::Write(None))
            });
            match present.await? {
                None => return Ok(life.add_membership(&group)),
                Some(present) if is_alive(life, &life.member, &present).await? => {
                    return Err(Error::member_already_exists(&group, &life.member));
                }
                Some(present) => dead = Some(present),
            }
        }
    }

    async fn leave(&self, group: &GroupId) -> Result<()> {
        let life = &self.0;
        let left = take_out(life, group).await;
        life.remove_membership(group);
        match left {
            // It was a member no more, and is none: the loss is told through the lease.
            Err(error) if error.kind() == ErrorKind::SessionLost => Ok(()),
            Ok(false) => Err(Error::member_not_joined(group, &life.member)),
            left => left.map(drop),
        }
    }

    async fn update_capabilities(
        &self,
        group: &GroupId,
        capabilities: &Capabilities,
    ) -> Result<()> {
        let life = &self.0;
        change(life, group, |roster, _| {
            let Some(entry) = roster.of_session_mut(&life.member, &life.id) else {
                return Err(Error::member_not_joined(group, &life.member));
            };
            entry.update(capabilities)?;
            Ok(Edit::Write(()))
        })
        .await
    }

    /// Removes a member, whoever it is: one of ours learns of it with its next heartbeat.
    async fn remove_member(&self, group: &GroupId, id: &MemberId) -> Result<()> {
        let life = &self.0;
        // Who is dead is no member.
        self.member(group, id).await?;
        change(life, group, |roster, again| match roster.get(id) {
            Some(_) => {
                roster.remove(id);
                Ok(Edit::Write(()))
            }
            // What a repeated request finds undone was done by the first.
            None if again => Ok(Edit::Keep(())),
            None => Err(Error::member_not_joined(group, id)),
        })
        .await
    }

    async fn members(&self, group: &GroupId) -> Result<BTreeSet<MemberId>> {
        Ok(members(&self.0, group).await?.into_iter().map(|member| member.id).collect())
    }

    async fn members_with_capabilities(&self, group: &GroupId) -> Result<Vec<Member>> {
        members(&self.0, group).await
    }

    async fn member(&self, group: &GroupId, member: &MemberId) -> Result<Member> {
        let life = &self.0;
        life.keys().member(member)?;
        let item = life.link.ask(Request::get(&life.keys().group(group)?)).await?.0.item()?;
        let roster = item.as_ref().map(Roster::read).transpose()?.flatten();
        let roster = roster.ok_or_else(|| Error::group_not_created(group))?;
        match roster.get(member) {
            Some(entry) if is_alive(life, member, entry).await? => {
                Ok(entry.clone().into_member(member.clone()))
            }
            _ => Err(Error::member_not_joined(group, member)),
        }
    }

    async fn watch(&self, group: &GroupId, feed: &GroupFeed) -> Result<()> {
        crate::watch::group(&self.0, group, feed).await
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
    life: &Life,
    group: &GroupId,
    mut edit: impl FnMut(&mut Roster, bool) -> Result<Edit<T>>,
) -> Result<T> {
    let key = life.keys().group(group)?;
    let until = Moment::now() + life.config.membership_timeout;
    let (mut again, mut round) = (false, 0);
    loop {
        let requests = [Request::get(&key), Request::Look(life.session_key())];
        let (mut replies, _) = life.link.call(&requests).await?;
        let (session, item) = (replies.pop(), replies.pop());
        if session.ok_or_else(errors::odd_answer)?.item()?.is_none() {
            return Err(life.forgotten());
        }
        let Some(item) = item.ok_or_else(errors::odd_answer)?.item()? else {
            return Err(Error::group_not_created(group));
        };
        let Some(mut roster) = Roster::read(&item)? else {
            return Err(Error::group_not_created(group));
        };
        let answer = match edit(&mut roster, again)? {
            Edit::Keep(answer) => return Ok(answer),
            Edit::Write(answer) => answer,
        };
        let how = How::Swap(item.cas);
        let store = Request::store(&key, how, MSGPACK, Seconds::FOR_EVER, roster.write()?);
        match life.link.ask(store).await {
            Ok((reply, _)) => {
                if reply.change()? == Change::Done {
                    local::changed(&life.server, &key);
                    return Ok(answer);
                }
            }
            Err(error) if error.outcome() == Outcome::Unknown => again = true,
            Err(error) => return Err(error),
        }
        if until.has_passed() {
            let outcome = if again { Outcome::Unknown } else { Outcome::NotApplied };
            return Err(Error::new(ErrorKind::TimedOut, "others change the group all the time")
                .with("group", group)
                .outcome_is(outcome));
        }
        pause(round).await;
        round += 1;
    }
}

/// Lets others go first: at random, so that they do not meet again.
async fn pause(round: u32) {
    let most = Duration::from_millis(1 << round.min(5));
    tokio::time::sleep(most.mul_f64(random_fraction())).await;
}

// ---- The group itself.

// ---- This member.

/// Whether it was in the group.
pub(crate) async fn take_out(life: &Life, group: &GroupId) -> Result<bool> {
    change(life, group, |roster, again| {
        if roster.of_session(&life.member, &life.id).is_none() {
            return Ok(Edit::Keep(again));
        }
        roster.remove(&life.member);
        Ok(Edit::Write(true))
    })
    .await
}

// ---- Reading.

pub(crate) async fn members(life: &Life, group: &GroupId) -> Result<Vec<Member>> {
    let key = life.keys().group(group)?;
    let item = life.link.ask(Request::get(&key)).await?.0.item()?;
    let roster = item.as_ref().map(Roster::read).transpose()?.flatten();
    let (item, roster) = item.zip(roster).ok_or_else(|| Error::group_not_created(group))?;
    Ok(without_dead(life, &key, &item, roster).await?.0.into_members())
}

/// The members that live, having removed the others from the item if nobody else does so meanwhile;
/// and how long none of them can die by silence.
pub(crate) async fn without_dead(
    life: &Life,
    key: &[u8],
    item: &Item,
    mut roster: Roster,
) -> Result<(Roster, Duration)> {
    let Living { members, safe } = living(life, &roster).await?;
    let all: Vec<_> = roster.iter().map(|(id, _)| id.clone()).collect();
    if all.len() > members.len() {
        all.iter().filter(|id| !members.contains(id)).for_each(|id| roster.remove(id));
        let how = How::Swap(item.cas);
        let store = Request::store(key, how, MSGPACK, Seconds::FOR_EVER, roster.write()?);
        if life.link.ask(store).await?.0.change()? == Change::Done {
            local::changed(&life.server, key);
        }
    }
    Ok((roster, safe))
}

/// What shows whether a member lives: for ours its session, for the original's its sign of life.
pub(crate) fn sign(life: &Life, member: &MemberId, entry: &Entry) -> Result<Request> {
    Ok(Request::Look(match entry.session() {
        Some(session) => life.keys().session(session),
        None => life.keys().member(member)?,
    }))
}

async fn is_alive(life: &Life, member: &MemberId, entry: &Entry) -> Result<bool> {
    Ok(life.link.ask(sign(life, member, entry)?).await?.0.item()?.is_some())
}

struct Living {
    members: BTreeSet<MemberId>,
    safe: Duration,
}

async fn living(life: &Life, roster: &Roster) -> Result<Living> {
    let mut living = Living { members: BTreeSet::new(), safe: life.config.membership_timeout };
    if roster.is_empty() {
        return Ok(living);
    }
    let signs = roster.iter().map(|(id, entry)| sign(life, id, entry));
    let (replies, _) = life.link.call(&signs.collect::<Result<Vec<_>>>()?).await?;
    for ((id, _), reply) in roster.iter().zip(replies) {
        let Some(item) = reply.item()? else { continue };
        living.members.insert(id.clone());
        // The last of the seconds may have begun already; without a word, any of them.
        let safe = Duration::from_secs(item.left.map_or(0, |left| left.saturating_sub(1)));
        living.safe = living.safe.min(safe);
    }
    Ok(living)
}
