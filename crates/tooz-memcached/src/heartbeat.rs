//! The renewal of everything in one round trip: the session, the locks, the memberships.

use std::collections::HashMap;
use std::sync::Arc;

use tooz_core::{Error, GroupId, Loss, Moment, Result};

use crate::errors;
use crate::hold::{MemcachedHold, Renewed};
use crate::life::{Life, Membership};
use crate::list;
use crate::roster::Roster;
use crate::wire::{Change, Item, Reply, Request, Seconds};

/// How often a renewal is repeated that others' renewals of the same shared lock got in the way of.
const ROUNDS: usize = 8;

/// How far the server's clock may be from ours within a time to live, in seconds: both count whole
/// ones.
const CLOCKS: f64 = 2.0;

pub(crate) async fn renew(life: &Life) -> Result<()> {
    let items = by_item(life.holds());
    let memberships = life.memberships();
    let session = life.session_key();
    let seconds = Seconds::at_least(life.config.membership_timeout);
    let mut requests = vec![
        Request::Get(session, Some(seconds)),
        Request::Get(life.member_key.clone(), Some(seconds)),
        Request::get(&life.keys().epoch()),
    ];
    if !memberships.is_empty() {
        requests.push(Request::get(&life.keys().groups()));
    }
    for (group, _) in &memberships {
        requests.push(Request::Look(life.keys().group(group)?));
    }
    requests.extend(renewals(&items));
    let (replies, sent) = life.link.call(&requests).await?;
    let mut replies = replies.into_iter();
    let mut next = || replies.next().ok_or_else(errors::odd_answer);
    let Some(item) = next()?.item()? else { return Err(life.forgotten()) };
    let alive = next()?.item()?;
    let epoch = next()?.item()?;
    let listed = if memberships.is_empty() { None } else { next()?.item()? };
    let groups = memberships.iter().map(|_| next()?.item()).collect::<Result<Vec<_>>>()?;
    let answers: Vec<_> = replies.collect();
    compare_clocks(life, &item, seconds, sent);
    life.lease.renewed(sent);
    // The locks first: all that follows takes more round trips.
    let kept = renewed(life, items, answers, sent).await;
    life.epoch_in(epoch).await?;
    still_joined(life, &memberships, groups).await?;
    for (group, _) in &memberships {
        list::keep(life, group, listed.as_ref()).await?;
    }
    // A namesake took it with it, or it was evicted.
    if alive.is_none() {
        life.link.ask(life.alive()).await?.0.change()?;
    }
    kept
}

/// Says so when the server's clock ran otherwise than ours.
fn compare_clocks(life: &Life, item: &Item, seconds: Seconds, sent: Moment) {
    let before = life.beaten(sent);
    let Some(left) = item.left else { return };
    let elapsed = before.elapsed().as_secs_f64() - sent.elapsed().as_secs_f64();
    let jump = seconds.0 as f64 - elapsed - left as f64;
    if jump.abs() > CLOCKS {
        tracing::warn!(
            seconds = jump,
            "the server's clock jumped: what it keeps may expire too early or too late"
        );
    }
}

/// The holds of one item, which those share who hold a shared lock: one write renews them all.
type Holds = Vec<Arc<MemcachedHold>>;

fn by_item(holds: Holds) -> Vec<Holds> {
    let mut items: HashMap<Vec<u8>, Holds> = HashMap::new();
    for hold in holds {
        items.entry(hold.item().0.to_vec()).or_default().push(hold);
    }
    items.into_values().collect()
}

/// Each by the hold that has seen the item last.
fn renewals(items: &[Holds]) -> Vec<Request> {
    let latest = items.iter().filter_map(|holds| holds.iter().max_by_key(|hold| hold.item().1));
    latest.flat_map(|hold| hold.renewal()).collect()
}

async fn renewed(
    life: &Life,
    mut items: Vec<Holds>,
    mut answers: Vec<Reply>,
    mut sent: Moment,
) -> Result<()> {
    let mut failed: Option<Error> = None;
    for _ in 0..ROUNDS {
        let mut again = Vec::new();
        let mut replies = answers.into_iter();
        for holds in items {
            let (Some(swapped), Some(item)) = (replies.next(), replies.next()) else {
                return Err(errors::odd_answer());
            };
            let (done, item) = match (swapped.change(), item.item()) {
                (Ok(change), Ok(item)) => (change == Change::Done, item),
                // Of one item, such as of a server without memory: the others are renewed.
                (Err(error), _) | (_, Err(error)) => {
                    failed = Some(error);
                    continue;
                }
            };
            let mut changed = Holds::new();
            for hold in holds {
                match hold.renewed(done, item.as_ref(), sent) {
                    Renewed::Yes => {}
                    Renewed::Lost => hold.lose(),
                    Renewed::Again => changed.push(hold),
                }
            }
            if !changed.is_empty() {
                again.push(changed);
            }
        }
        items = again;
        if items.is_empty() {
            break;
        }
        (answers, sent) = life.link.call(&renewals(&items)).await?;
    }
    failed.map_or(Ok(()), Err)
}

/// Looks into the groups whose items have changed.
async fn still_joined(
    life: &Life,
    memberships: &[(GroupId, Membership)],
    items: Vec<Option<Item>>,
) -> Result<()> {
    let mut changed = Vec::new();
    for ((group, membership), item) in memberships.iter().zip(items) {
        match item {
            None => membership.lease.lose(Loss::Taken),
            Some(item) if item.cas == membership.cas => {}
            Some(_) => changed.push((group, membership)),
        }
    }
    if changed.is_empty() {
        return Ok(());
    }
    let keys = changed.iter().map(|(group, _)| Ok(Request::get(&life.keys().group(group)?)));
    let (replies, _) = life.link.call(&keys.collect::<Result<Vec<_>>>()?).await?;
    for ((group, membership), reply) in changed.into_iter().zip(replies) {
        let item = reply.item()?;
        let roster = item.as_ref().map(Roster::read).transpose()?.flatten();
        let mine = roster.is_some_and(|r| r.of_session(&life.member, &life.id).is_some());
        match item.filter(|_| mine) {
            Some(item) => life.seen_in(group, item.cas),
            None => membership.lease.lose(Loss::Taken),
        }
    }
    Ok(())
}
