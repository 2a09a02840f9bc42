//! What changes are heard by. A node of ours that is gone loses the lease that depends on it; and a
//! group is watched by one watch on its children, and one on each member's data.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tooz_core::{
    Capabilities, Error, ErrorKind, GroupFeed, GroupId, Lease, Loss, Member, MemberId, Outcome,
    Result,
};
use tracing::debug;
use zookeeper_client::Stat;

use crate::connection::PAUSE;
use crate::keys;
use crate::pool::Watch;
use crate::state::State;

/// Loses `lease` when the node that it depends on is gone.
pub(crate) fn watch_over(state: &Arc<State>, node: String, lease: Lease) {
    let state = state.clone();
    tokio::spawn(async move {
        let node = [node];
        while lease.is_held() {
            match state.pool.watch_data(&node).await.map(|mut found| found.pop().flatten()) {
                Ok(Some((_, stat, watch))) if state.owns(&stat) => {
                    // It is gone with the node, also when we delete it ourselves.
                    if watch.changed().await {
                        return;
                    }
                }
                Ok(_) => return lease.lose(why_gone(&state).await),
                Err(error) => {
                    if !error.is_retryable() {
                        return;
                    }
                    debug!(%error, "a node of ours is not watched yet");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    });
}

/// Whether a node of ours went with the session or alone.
async fn why_gone(state: &State) -> Loss {
    match state.client.stat(&state.own_node()).await {
        Ok(None) => Loss::SessionEnded,
        _ => Loss::Taken,
    }
}

/// The error of a watch that the session ended.
pub(crate) fn session_over() -> Error {
    Error::new(ErrorKind::SessionLost, "the session is over").outcome_is(Outcome::NotApplied)
}

// ---- Groups.

/// What a watch tells.
enum Change {
    /// Somebody came or went, or the group did.
    Members,
    /// This member changed its data or is gone.
    Member(String),
    SessionOver,
}

/// Feeds snapshots. What changes after a read sets off the watch that the same read has set, so
/// nothing falls between two of them.
pub(crate) async fn group(state: &State, group: &GroupId, feed: &GroupFeed) -> Result<()> {
    let node = state.keys().group(group)?;
    let (sender, mut changes) = mpsc::unbounded_channel();
    let mut watches = Watches { sender, tasks: JoinSet::new() };
    let mut known = BTreeMap::new();
    let (mut names, mut stale) = (BTreeSet::new(), BTreeSet::new());
    let mut change = Change::Members;
    loop {
        let mut all_stale = false;
        loop {
            match change {
                Change::Members => all_stale = true,
                Change::Member(name) => drop(stale.insert(name)),
                Change::SessionOver => return Err(session_over()),
            }
            match changes.try_recv() {
                Ok(next) => change = next,
                Err(_) => break,
            }
        }
        if all_stale {
            names = list(state, &node, &mut watches).await?;
        }
        known.retain(|name, _| names.contains(name));
        stale.extend(names.iter().filter(|name| !known.contains_key(*name)).cloned());
        stale.retain(|name| names.contains(name));
        read(state, &node, &std::mem::take(&mut stale), &mut known, &mut watches).await?;
        feed.snapshot(known.values().cloned());
        while watches.tasks.try_join_next().is_some() {}
        // The sender lives here: the channel cannot be closed.
        let Some(next) = changes.recv().await else { return Ok(()) };
        change = next;
    }
}

struct Watches {
    sender: mpsc::UnboundedSender<Change>,
    /// Ended with the watch, which takes the watches off the server.
    tasks: JoinSet<()>,
}

impl Watches {
    fn follow(&mut self, watch: Watch, change: Change) {
        let sender = self.sender.clone();
        self.tasks.spawn(async move {
            let over = watch.changed().await;
            // Nobody listens when the group's watch was dropped.
            let _ = sender.send(if over { Change::SessionOver } else { change });
        });
    }
}

/// The names of the members, watched; none while there is no group, whose coming is watched then.
async fn list(state: &State, node: &str, watches: &mut Watches) -> Result<BTreeSet<String>> {
    loop {
        let children = state.pool.watch(node, |client| async move {
            let (synced, children) = (client.sync(node), client.list_and_watch_children(node));
            synced.await?;
            children.await
        });
        if let Some((mut children, watch)) = children.await? {
            watches.follow(watch, Change::Members);
            children.retain(|child| keys::is_member(child));
            return Ok(children.into_iter().collect());
        }
        let exists =
            state.pool.watch(node, |client| async move { client.check_and_watch_stat(node).await });
        if let Some((None, watch)) = exists.await? {
            watches.follow(watch, Change::Members);
            return Ok(BTreeSet::new());
        }
    }
}

/// Reads these members in one round trip, and watches them.
async fn read(
    state: &State,
    node: &str,
    names: &BTreeSet<String>,
    known: &mut BTreeMap<String, Member>,
    watches: &mut Watches,
) -> Result<()> {
    let paths: Vec<_> = names.iter().map(|name| format!("{node}/{name}")).collect();
    for (name, found) in names.iter().zip(state.pool.watch_data(&paths).await?) {
        match found {
            Some((data, stat, watch)) => {
                watches.follow(watch, Change::Member(name.clone()));
                known.insert(name.clone(), member_of(name.as_str(), data, &stat));
            }
            // The watch on the children tells when it comes back.
            None => drop(known.remove(name)),
        }
    }
    Ok(())
}

/// What a member's node says.
pub(crate) fn member_of(id: impl Into<MemberId>, data: Vec<u8>, stat: &Stat) -> Member {
    let time = |milliseconds: i64| {
        let since = Duration::from_millis(u64::try_from(milliseconds).ok()?);
        SystemTime::UNIX_EPOCH.checked_add(since)
    };
    // A member of another kind may say nothing.
    let capabilities = match data.is_empty() {
        true => Capabilities::none(),
        false => Capabilities::from_msgpack(data),
    };
    let mut member = Member::new(id, capabilities);
    member.joined_at = time(stat.ctime);
    member.updated_at = time(stat.mtime);
    member.incarnation = stat.czxid.cast_unsigned();
    member
}
