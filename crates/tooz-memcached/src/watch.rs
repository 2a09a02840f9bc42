//! Watches, which look again and again: a change of this process wakes them, one of another is seen
//! at the next look.

use std::time::Duration;

use tokio::sync::watch::Receiver;
use tooz_core::{GroupFeed, GroupId, LeaderFeed, MemberId, Moment, Result};

use crate::group::without_dead;
use crate::life::{Life, random_fraction};
use crate::local;
use crate::roster::Roster;
use crate::wire::Request;

/// The longest pause between two looks.
const PAUSE: Duration = Duration::from_millis(250);

pub(crate) async fn group(life: &Life, group: &GroupId, feed: &GroupFeed) -> Result<()> {
    let key = life.keys().group(group)?;
    let cell = local::cell(&life.server, &key);
    let mut seen: Option<Option<u64>> = None;
    let mut safe = Moment::now();
    loop {
        let changes = cell.changes();
        let cas = life.link.ask(Request::Look(key.clone())).await?.0.item()?.map(|item| item.cas);
        if seen != Some(cas) || safe.has_passed() {
            let item = life.link.ask(Request::get(&key)).await?.0.item()?;
            let roster = item.as_ref().map(Roster::read).transpose()?.flatten();
            seen = Some(item.as_ref().map(|item| item.cas));
            let members = match item.zip(roster) {
                // A group that does not exist has no members, and may appear later.
                None => {
                    safe = Moment::now() + life.config.membership_timeout;
                    Vec::new()
                }
                Some((item, roster)) => {
                    let (roster, time) = without_dead(life, &key, &item, roster).await?;
                    safe = Moment::now() + time;
                    roster.into_members()
                }
            };
            feed.snapshot(members);
        }
        pause(changes).await;
    }
}

pub(crate) async fn leader(life: &Life, group: &GroupId, feed: &LeaderFeed) -> Result<()> {
    let key = life.keys().leader(group)?.key;
    let cell = local::cell(&life.server, &key);
    loop {
        let changes = cell.changes();
        let item = life.link.ask(Request::get(&key)).await?.0.item()?;
        feed.leader(item.map(|item| MemberId::from(item.value)));
        pause(changes).await;
    }
}

async fn pause(mut changes: Receiver<u64>) {
    let pause = PAUSE.mul_f64(0.75 + random_fraction() / 4.0);
    tokio::select! {
        // The cell lives in the caller: the wait cannot fail.
        _ = changes.changed() => {}
        () = tokio::time::sleep(pause) => {}
    }
}
