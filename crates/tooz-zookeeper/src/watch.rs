//! What happens in a group, by watches: one on its children, and one on each member's data.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tooz_core::{Error, ErrorKind, GroupFeed, GroupId, Member, Outcome, Result};

use crate::group::describe;
use crate::paths;
use crate::pool::Watch;
use crate::session::Life;

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
pub(crate) async fn group(life: &Life, group: &GroupId, feed: &GroupFeed) -> Result<()> {
    let node = life.paths().group(group)?;
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
                Change::SessionOver => {
                    return Err(Error::new(ErrorKind::SessionLost, "the session is over")
                        .outcome_is(Outcome::NotApplied));
                }
            }
            match changes.try_recv() {
                Ok(next) => change = next,
                Err(_) => break,
            }
        }
        if all_stale {
            names = list(life, &node, &mut watches).await?;
        }
        known.retain(|name, _| names.contains(name));
        stale.extend(names.iter().filter(|name| !known.contains_key(*name)).cloned());
        stale.retain(|name| names.contains(name));
        read(life, &node, &std::mem::take(&mut stale), &mut known, &mut watches).await?;
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
            // Nobody listens any more when the watch is dropped.
            let _ = sender.send(if over { Change::SessionOver } else { change });
        });
    }
}

/// The names of the members, watched; none while there is no group, whose coming is watched then.
async fn list(life: &Life, node: &str, watches: &mut Watches) -> Result<BTreeSet<String>> {
    loop {
        let children = life.watch(node, |client| async move {
            let (synced, children) = (client.sync(node), client.list_and_watch_children(node));
            synced.await?;
            children.await
        });
        if let Some((mut children, watch)) = children.await? {
            watches.follow(watch, Change::Members);
            children.retain(|child| paths::is_member(child));
            return Ok(children.into_iter().collect());
        }
        let exists =
            life.watch(node, |client| async move { client.check_and_watch_stat(node).await });
        if let Some((None, watch)) = exists.await? {
            watches.follow(watch, Change::Members);
            return Ok(BTreeSet::new());
        }
    }
}

/// Reads these members in one round trip, and watches them.
async fn read(
    life: &Life,
    node: &str,
    names: &BTreeSet<String>,
    known: &mut BTreeMap<String, Member>,
    watches: &mut Watches,
) -> Result<()> {
    let paths: Vec<_> = names.iter().map(|name| format!("{node}/{name}")).collect();
    for (name, found) in names.iter().zip(life.watch_data(&paths).await?) {
        match found {
            Some((data, stat, watch)) => {
                watches.follow(watch, Change::Member(name.clone()));
                known.insert(name.clone(), describe(name.as_str(), data, &stat));
            }
            // The watch on the children tells when it comes back.
            None => drop(known.remove(name)),
        }
    }
    Ok(())
}
