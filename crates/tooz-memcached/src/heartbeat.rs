//! The renewal of everything in one round trip: the session, the locks, the memberships.

use std::collections::HashMap;
use std::sync::Arc;

use tooz_core::kit::locked;
use tooz_core::{Error, GroupId, Loss, Moment, Result};

use crate::hold::Renewed;
use crate::list;
use crate::local;
use crate::roster::Roster;
use crate::state::{Grant, Membership, State, sign_of_life};
use crate::wire::{Change, Item, Reply, Request, Seconds};

/// How often a renewal is repeated that others' renewals of the same shared lock got in the way of.
const ROUNDS: usize = 8;

/// How far the server's clock may be from ours within a time to live, in seconds: both count whole
/// ones.
const CLOCKS: f64 = 2.0;

pub(crate) async fn renew(state: &State) -> Result<()> {
    let items = by_item(state.grants.values());
    let memberships = state.memberships.entries();
    let session = state.session_key();
    let seconds = Seconds::at_least(state.config.membership_timeout);
    let mut requests = vec![
        Request::Get(session, Some(seconds)),
        Request::Get(state.member_key.clone(), Some(seconds)),
        Request::get(&state.keys().epoch()),
    ];
    if !memberships.is_empty() {
        requests.push(Request::get(&state.keys().groups()));
    }
    for (group, _) in &memberships {
        requests.push(Request::Look(state.keys().group(group)?));
    }
    requests.extend(renewals(&items));
    let (replies, sent) = state.client.call(&requests).await?;
    let mut replies = replies.into_iter();
    let mut next = || replies.next().ok_or_else(Error::unexpected_answer);
    let Some(item) = next()?.item()? else { return Err(state.session_lost()) };
    let alive = next()?.item()?;
    let epoch = next()?.item()?;
    let listed = if memberships.is_empty() { None } else { next()?.item()? };
    let groups = memberships.iter().map(|_| next()?.item()).collect::<Result<Vec<_>>>()?;
    let answers: Vec<_> = replies.collect();
    compare_clocks(state, &item, seconds, sent);
    state.lease.renewed(sent);
    // The locks first: all that follows takes more round trips.
    let kept = renewed(state, items, answers, sent).await;
    state.epoch_now(epoch).await?;
    still_joined(state, &memberships, groups).await?;
    for (group, _) in &memberships {
        list::keep(state, group, listed.as_ref()).await?;
    }
    // A namesake took it with it, or it was evicted.
    if alive.is_none() {
        let sign = sign_of_life(&state.config, &state.member_key, &state.id);
        state.client.change(sign).await?;
    }
    kept
}

/// Says so when the server's clock ran otherwise than ours.
fn compare_clocks(state: &State, item: &Item, seconds: Seconds, sent: Moment) {
    let before = std::mem::replace(&mut *locked(&state.renewed), sent);
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

/// The grants of one item, which the holders of a shared lock have in common: one write renews them
/// all.
type Grants = Vec<Arc<Grant>>;

fn by_item(grants: Grants) -> Vec<Grants> {
    let mut items: HashMap<Vec<u8>, Grants> = HashMap::new();
    for grant in grants {
        items.entry(grant.keys.key.clone()).or_default().push(grant);
    }
    items.into_values().collect()
}

/// Each by the grant that has seen the item last: the higher its CAS id, the later.
fn renewals(items: &[Grants]) -> Vec<Request> {
    let latest =
        items.iter().filter_map(|grants| grants.iter().max_by_key(|it| locked(&it.known).cas));
    latest.flat_map(|grant| grant.renewal()).collect()
}

async fn renewed(
    state: &State,
    mut items: Vec<Grants>,
    mut answers: Vec<Reply>,
    mut sent: Moment,
) -> Result<()> {
    let mut failed: Option<Error> = None;
    for _ in 0..ROUNDS {
        let mut again = Vec::new();
        let mut replies = answers.into_iter();
        for grants in items {
            let (Some(swapped), Some(item)) = (replies.next(), replies.next()) else {
                return Err(Error::unexpected_answer());
            };
            let (done, item) = match (swapped.change(), item.item()) {
                (Ok(change), Ok(item)) => (change == Change::Done, item),
                // Of one item, such as of a server without memory: the others are renewed.
                (Err(error), _) | (_, Err(error)) => {
                    failed = Some(error);
                    continue;
                }
            };
            let mut changed = Grants::new();
            for grant in grants {
                match grant.renewed(done, item.as_ref(), sent) {
                    Renewed::Yes => {}
                    Renewed::Lost => lose(state, &grant),
                    Renewed::Again => changed.push(grant),
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
        (answers, sent) = state.client.call(&renewals(&items)).await?;
    }
    failed.map_or(Ok(()), Err)
}

fn lose(state: &State, grant: &Grant) {
    grant.lease.lose(Loss::Taken);
    state.grants.remove(&grant.id);
    // A waiter of this process need not wait until it looks again.
    local::changed(&state.server, &grant.keys.key);
}

/// Looks into the groups whose items have changed.
async fn still_joined(
    state: &State,
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
    let keys = changed.iter().map(|(group, _)| Ok(Request::get(&state.keys().group(group)?)));
    let (replies, _) = state.client.call(&keys.collect::<Result<Vec<_>>>()?).await?;
    for ((group, membership), reply) in changed.into_iter().zip(replies) {
        let item = reply.item()?;
        let mine = Roster::of(item.as_ref())?
            .is_some_and(|r| r.of_session(&state.member, &state.id).is_some());
        match item.filter(|_| mine) {
            Some(item) => state.memberships.update(group, |it| it.cas = item.cas),
            None => membership.lease.lose(Loss::Taken),
        }
    }
    Ok(())
}
