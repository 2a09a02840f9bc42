//! Acquisitions of locks and terms: each of these has a node whose ephemeral children queue.

use std::sync::Arc;
use std::time::Duration;

use tooz_core::kit::cancel_until_gone;
use tooz_core::{Acquisition, Error, ErrorKind, FencingToken, Hold, Lease, Mode, Result};
use zookeeper_client::{CreateMode, Error as Cause};

use crate::client::SessionClient;
use crate::errors::{Failure, broke_twice, translate};
use crate::hold::{self, ZooKeeperHold};
use crate::keys::{self, Entry, LockKeys};
use crate::state::State;
use crate::watch::watch_over;

/// How long a lock that was free is held before its node is watched: one that is released sooner
/// costs no watch, and the breaking of one within that time is reported that much later.
const UNWATCHED: Duration = Duration::from_millis(10);

/// One round trip if it is free. A waiter watches the next before it, and looks again when that is
/// gone.
pub(crate) async fn acquire(
    state: &Arc<State>,
    acquisition: Acquisition<LockKeys>,
) -> Result<Option<Arc<dyn Hold>>> {
    let waiter = Waiter { state: state.clone(), acquisition };
    let acquired = waiter.run().await;
    if acquired.is_err() {
        // A stop ends its waits and its session at the same time.
        if state.client.is_closed() && waiter.acquisition.wait.is_over() {
            return Ok(None);
        }
        // As soon as the server can be reached, unless the session ends before.
        tokio::spawn(async move {
            cancel_until_gone(&waiter.state.lease, || waiter.cancel()).await;
        });
    }
    acquired
}

/// An acquisition under way.
struct Waiter {
    state: Arc<State>,
    acquisition: Acquisition<LockKeys>,
}

/// A waiter's node in the queue.
struct OwnEntry {
    name: String,
    token: FencingToken,
    /// Lost when the node is gone, from when it is watched.
    lease: Lease,
    watched: bool,
}

impl Waiter {
    fn queue(&self) -> &str {
        &self.acquisition.target.queue
    }

    fn path(&self, entry: &str) -> String {
        format!("{}/{entry}", self.queue())
    }

    fn prefix(&self) -> String {
        keys::entry_prefix(self.acquisition.id, self.acquisition.mode)
    }

    async fn run(&self) -> Result<Option<Arc<dyn Hold>>> {
        let Self { state, acquisition } = self;
        let (mut own, mut children) = self.enqueue().await?;
        loop {
            let queue = Queue::of(&state.client, self.queue(), children).await?;
            let before = match queue.position(&own.name, acquisition.mode) {
                Position::First => return Ok(Some(self.granted(own))),
                Position::Behind(before) => self.path(before),
                Position::Missing => {
                    (own, children) = self.enqueue().await?;
                    continue;
                }
            };
            if acquisition.wait.is_over() {
                return self.leave(&own).await;
            }
            if !own.watched {
                // While there is time: a hand-off is not the moment for it.
                watch_over(state, self.path(&own.name), own.lease.clone());
                own.watched = true;
            }
            // If it is gone meanwhile, there is nothing to wait for.
            if let Some((_, _, watch)) = state.pool.watch_data(&[before]).await?.pop().flatten() {
                tokio::select! {
                    _ = watch.changed() => {}
                    () = acquisition.wait.over() => return self.leave(&own).await,
                }
            }
            children = self.list().await?;
        }
    }

    /// Puts a node into the queue, and looks who is in it.
    async fn enqueue(&self) -> Result<(OwnEntry, Vec<String>)> {
        let state = &self.state;
        let prefix = self.prefix();
        let (queue, path) = (self.queue(), &*self.path(&prefix));
        let (data, options) =
            (state.member.as_bytes(), &state.config.node(CreateMode::EphemeralSequential));
        let mut lost = false;
        loop {
            if lost && let Some(own) = self.find().await? {
                return Ok((own, self.list().await?));
            }
            let made = state.client.once(|client| async move {
                let (made, seen) =
                    (client.create(path, data, options), client.list_children(queue));
                Ok((made.await?, seen.await))
            });
            match made.await {
                Ok(((stat, number), seen)) => {
                    state.must_own(&stat)?;
                    let own = self.own_entry(format!("{prefix}{number}"), stat.czxid);
                    let children = match seen {
                        Ok(children) => children,
                        Err(_) => self.list().await?,
                    };
                    return Ok((own, children));
                }
                Err(Cause::NoNode) => self.make_queue().await?,
                Err(Cause::ConnectionLoss) if lost => return Err(broke_twice()),
                Err(Cause::ConnectionLoss) => lost = true,
                Err(cause) => return Err(translate(cause)),
            }
        }
    }

    fn own_entry(&self, name: String, czxid: i64) -> OwnEntry {
        let token = FencingToken(czxid.cast_unsigned());
        OwnEntry { name, token, lease: self.state.lease.child(), watched: false }
    }

    async fn list(&self) -> Result<Vec<String>> {
        match self.state.client.children(self.queue()).await {
            Err(Failure { cause: Cause::NoNode, .. }) => Ok(Vec::new()),
            children => Ok(children?),
        }
    }

    /// The node that an earlier request made, whose reply was lost.
    async fn find(&self) -> Result<Option<OwnEntry>> {
        let Some(name) = self.find_name().await? else { return Ok(None) };
        let Some(stat) = self.state.client.stat(&self.path(&name)).await? else { return Ok(None) };
        self.state.must_own(&stat)?;
        Ok(Some(self.own_entry(name, stat.czxid)))
    }

    async fn find_name(&self) -> Result<Option<String>> {
        match self.state.client.synced_children(self.queue()).await {
            Err(Failure { cause: Cause::NoNode, .. }) => Ok(None),
            children => Ok(made_by(&children?, &self.prefix()).map(str::to_owned)),
        }
    }

    async fn make_queue(&self) -> Result<()> {
        let (client, options) =
            (&self.state.client, &self.state.config.node(CreateMode::Persistent));
        let Some(group) = &self.acquisition.target.group else {
            return Ok(client.mkdir(self.queue(), options).await?);
        };
        // Not the group with it.
        match client.create(self.queue(), b"", options).await {
            Ok(_) | Err(Failure { cause: Cause::NodeExists, .. }) => Ok(()),
            Err(Failure { cause: Cause::NoNode, .. }) => Err(Error::group_not_created(group)),
            Err(failure) => Err(failure.into()),
        }
    }

    fn granted(&self, own: OwnEntry) -> Arc<dyn Hold> {
        let path = self.path(&own.name);
        let OwnEntry { token, lease, watched, .. } = own;
        if !watched {
            let (state, path, lease) = (self.state.clone(), path.clone(), lease.clone());
            tokio::spawn(async move {
                tokio::select! {
                    _ = lease.lost() => {}
                    () = tokio::time::sleep(UNWATCHED) => watch_over(&state, path, lease),
                }
            });
        }
        Arc::new(ZooKeeperHold { state: self.state.clone(), path, token, lease })
    }

    /// Leaves the queue without what was waited for.
    async fn leave(&self, own: &OwnEntry) -> Result<Option<Arc<dyn Hold>>> {
        match hold::delete(&self.state.client, &self.path(&own.name)).await {
            // With its session, the entry in the queue is gone.
            Err(error) if error.kind() != ErrorKind::SessionLost => Err(error),
            _ => Ok(None),
        }
    }

    /// Deletes what the acquisition left in the queue.
    async fn cancel(&self) -> Result<()> {
        if let Some(name) = self.find_name().await? {
            hold::delete(&self.state.client, &self.path(&name)).await?;
        }
        Ok(())
    }
}

/// Where in the queue an entry is.
#[derive(Debug, PartialEq, Eq)]
enum Position<'a> {
    /// It holds.
    First,
    /// It holds when this one is gone, or is to look again.
    Behind(&'a str),
    /// It is not there.
    Missing,
}

/// The entries, in the order in which the server made them.
///
/// The number counts the node's children in 32 bits. After 2^31 of them servers give the last
/// number again and again, or negative ones, or both by turns. From there on the order is that of
/// the transactions that made the nodes, which no peer in Python knows.
#[derive(Debug)]
pub(crate) struct Queue(Vec<Entry>);

impl Queue {
    /// From the children of `node`. It asks the server where their numbers do not tell.
    pub(crate) async fn of(
        client: &SessionClient,
        node: &str,
        children: Vec<String>,
    ) -> Result<Self> {
        let queue = Self::by_number(children);
        if queue.is_in_order() { Ok(queue) } else { queue.by_transaction(client, node).await }
    }

    fn by_number(children: Vec<String>) -> Self {
        let mut all: Vec<_> = children.into_iter().filter_map(Entry::read).collect();
        all.sort_unstable_by_key(|entry| entry.number);
        Self(all)
    }

    fn is_in_order(&self) -> bool {
        self.0.len() < 2 || self.0.iter().all(|entry| (0..i32::MAX).contains(&entry.number))
    }

    /// What is gone meanwhile is left out: all that was asked for is whether somebody is before us.
    async fn by_transaction(self, client: &SessionClient, node: &str) -> Result<Self> {
        let entries = &self.0;
        let made = client.call(|client| async move {
            let stat = |entry: &Entry| client.check_stat(&format!("{node}/{}", entry.name));
            let mut made = Vec::new();
            for stat in entries.iter().map(stat).collect::<Vec<_>>() {
                made.push(stat.await?.map(|stat| stat.czxid));
            }
            Ok(made)
        });
        let made = made.await?;
        let mut found: Vec<_> =
            made.into_iter().zip(self.0).filter_map(|(made, entry)| Some((made?, entry))).collect();
        found.sort_unstable_by_key(|(made, _)| *made);
        Ok(Self(found.into_iter().map(|(_, entry)| entry).collect()))
    }

    fn position(&self, own: &str, mode: Mode) -> Position<'_> {
        let Some(at) = self.0.iter().position(|entry| entry.name == own) else {
            return Position::Missing;
        };
        let in_the_way = |other: &&Entry| !(mode == Mode::Shared && other.shared);
        let before = self.0[..at].iter().rev().find(in_the_way);
        before.map_or(Position::First, |before| Position::Behind(&before.name))
    }

    /// The entries that hold: the first, or those that share before any that does not.
    pub(crate) fn holders(&self) -> impl Iterator<Item = &str> {
        let sharing = self.0.iter().take_while(|entry| entry.shared).count();
        self.0.iter().take(sharing.max(1)).map(|entry| &*entry.name)
    }
}

/// The child that an acquisition made, whatever its number.
fn made_by<'a>(children: &'a [String], prefix: &str) -> Option<&'a str> {
    children.iter().map(String::as_str).find(|child| child.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use tooz_core::OperationId;

    use super::*;

    fn queue(names: &[&str]) -> Queue {
        Queue::by_number(names.iter().map(|name| (*name).to_owned()).collect())
    }

    const A: &str = "a__lock__0000000001";
    const B: &str = "b-shared__lock__0000000002";
    const C: &str = "c-shared__lock__0000000003";
    const D: &str = "d__lock__0000000004";
    const E: &str = "e-shared__lock__0000000005";

    #[test]
    fn an_exclusive_one_waits_for_the_next_before_it() {
        let all = queue(&[D, B, "x__rlock__0000000000", "x__lock__12", "leader", C]);
        assert_eq!(all.position(D, Mode::Exclusive), Position::Behind(C));
        assert_eq!(all.position(A, Mode::Exclusive), Position::Missing);
        assert_eq!(queue(&[D]).position(D, Mode::Exclusive), Position::First);
    }

    #[test]
    fn a_shared_one_waits_for_exclusive_ones_alone() {
        let all = queue(&[E, B, C, D]);
        assert_eq!(all.position(C, Mode::Shared), Position::First);
        assert_eq!(all.position(E, Mode::Shared), Position::Behind(D));
    }

    #[test]
    fn holders_are_the_first_or_all_that_share_it() {
        let holders = |names| queue(names).holders().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(holders(&[D, A, B]), [A]);
        assert_eq!(holders(&[E, D, C, B]), [B, C]);
        assert!(holders(&["x"]).is_empty());
    }

    #[test]
    fn numbers_tell_the_order_only_while_they_rise() {
        let last = "a__lock__2147483647";
        for untold in [last, "b__lock__-2147483648", "c__lock__-000000001"] {
            assert!(keys::is_entry(untold), "{untold}");
            assert!(queue(&[untold]).is_in_order(), "one alone is");
            assert!(!queue(&[A, untold]).is_in_order(), "{untold}");
        }
        assert!(queue(&[A, B, "b__lock__2147483646"]).is_in_order());
        for no in ["a__lock__2147483648", "a__lock__-00000001", "a__lock__000000001", "a__lock__+"]
        {
            assert!(!keys::is_entry(no), "{no}");
        }
    }

    #[test]
    fn an_acquisition_finds_its_node_by_its_id() {
        let id = OperationId::random();
        let (exclusive, shared) =
            (keys::entry_prefix(id, Mode::Exclusive), keys::entry_prefix(id, Mode::Shared));
        let name = format!("{shared}0000000007");
        assert!(keys::is_entry(&name) && name.contains("-shared__lock__"));
        let all = [A.to_owned(), name.clone()];
        assert_eq!(made_by(&all, &shared), Some(&*name));
        assert_eq!(made_by(&all, &exclusive), None);
    }
}
