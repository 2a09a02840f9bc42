//! Locks and terms: one queue of ephemeral nodes each. See `queue.rs`.

use std::sync::Arc;
use std::time::Duration;

use tooz_core::{
    Acquisition, Error, ErrorKind, FencingToken, GroupId, Hold, Lease, LockName, Locks, Mode,
    OperationId, Outcome, Release, Result, Waiting, async_trait,
};
use tracing::debug;
use zookeeper_client::{CreateMode, Error as Cause};

use crate::errors::{Failure, broke_twice, translate};
use crate::queue::{self, Queue, Standing};
use crate::session::{Life, PAUSE, ZooKeeperSession};

#[async_trait]
impl Locks for ZooKeeperSession {
    async fn acquire(&self, acquisition: Acquisition<LockName>) -> Result<Option<Arc<dyn Hold>>> {
        let Acquisition { id, target, mode, wait: waiting, .. } = acquisition;
        let (queue, group) = (self.0.paths().lock(&target)?, None);
        acquire(&self.0, Attempt { id, queue, group, mode, waiting }).await
    }

    async fn break_lock(&self, name: &LockName) -> Result<bool> {
        take_away(&self.0, &self.0.paths().lock(name)?).await
    }
}

/// How long a lock that was free is held before its node is watched: what is given back sooner costs
/// no watch, and what is taken away sooner is told that much later.
const UNWATCHED: Duration = Duration::from_millis(10);

/// One acquisition.
pub(crate) struct Attempt {
    pub(crate) id: OperationId,
    /// The node whose children queue.
    pub(crate) queue: String,
    /// The group that must exist, if it is for its leadership.
    pub(crate) group: Option<GroupId>,
    pub(crate) mode: Mode,
    pub(crate) waiting: Waiting,
}

/// A node in the queue.
struct Place {
    name: String,
    token: FencingToken,
    /// Lost when the node is gone, from when it is watched.
    lease: Lease,
    watched: bool,
}

/// One round trip if it is free. A waiter watches the next before it, and looks again when that is
/// gone.
pub(crate) async fn acquire(life: &Arc<Life>, attempt: Attempt) -> Result<Option<Arc<dyn Hold>>> {
    let acquired = attempt.acquire(life).await;
    if acquired.is_err() {
        // A stop ends its waits and its session at the same time.
        if life.link.is_closed() && attempt.waiting.is_over() {
            return Ok(None);
        }
        attempt.withdraw(life.clone());
    }
    acquired
}

impl Attempt {
    async fn acquire(&self, life: &Arc<Life>) -> Result<Option<Arc<dyn Hold>>> {
        let (mut place, mut children) = self.enqueue(life).await?;
        loop {
            let queue = Queue::of(life, &self.queue, children).await?;
            let before = match queue.standing(&place.name, self.mode) {
                Standing::First => return Ok(Some(self.hold(life, place))),
                Standing::Behind(before) => format!("{}/{before}", self.queue),
                Standing::Missing => {
                    (place, children) = self.enqueue(life).await?;
                    continue;
                }
            };
            if self.waiting.is_over() {
                return self.leave(life, &place).await;
            }
            if !place.watched {
                // While there is time: a hand-off is not the moment for it.
                life.watch_over(format!("{}/{}", self.queue, place.name), place.lease.clone());
                place.watched = true;
            }
            // If it is gone meanwhile, there is nothing to wait for.
            if let Some((_, _, watch)) = life.watch_data(&[before]).await?.pop().flatten() {
                tokio::select! {
                    _ = watch.changed() => {}
                    () = self.waiting.over() => return self.leave(life, &place).await,
                }
            }
            children = list(life, &self.queue).await?;
        }
    }

    /// Puts a node into the queue, and sees who is in it.
    async fn enqueue(&self, life: &Arc<Life>) -> Result<(Place, Vec<String>)> {
        let prefix = queue::prefix(self.id, self.mode);
        let (queue, path) = (&*self.queue, format!("{}/{prefix}", self.queue));
        let (path, data) = (&*path, life.member.as_bytes());
        let mut lost = false;
        loop {
            if lost && let Some(place) = self.find(life, &prefix).await? {
                return Ok((place, list(life, queue).await?));
            }
            let options = life.config.node(CreateMode::EphemeralSequential);
            let options = &options;
            let made = life.link.once(|client| async move {
                let (made, seen) =
                    (client.create(path, data, options), client.list_children(queue));
                Ok((made.await?, seen.await))
            });
            match made.await {
                Ok(((stat, number), seen)) => {
                    life.must_own(&stat)?;
                    let name = format!("{prefix}{number}");
                    let place = self.place(life, name, stat.czxid);
                    let children = match seen {
                        Ok(children) => children,
                        Err(_) => list(life, queue).await?,
                    };
                    return Ok((place, children));
                }
                Err(Cause::NoNode) => self.make_queue(life).await?,
                Err(Cause::ConnectionLoss) if lost => return Err(broke_twice()),
                Err(Cause::ConnectionLoss) => lost = true,
                Err(cause) => return Err(translate(cause)),
            }
        }
    }

    fn place(&self, life: &Life, name: String, czxid: i64) -> Place {
        let token = FencingToken(czxid.cast_unsigned());
        Place { name, token, lease: life.lease.child(), watched: false }
    }

    /// The node that an earlier request made, whose reply was lost.
    async fn find(&self, life: &Life, prefix: &str) -> Result<Option<Place>> {
        let children = match synced_list(life, &self.queue).await {
            Ok(children) => children,
            Err(Failure { cause: Cause::NoNode, .. }) => return Ok(None),
            Err(failure) => return Err(failure.into()),
        };
        let Some(name) = queue::made_by(&children, prefix) else { return Ok(None) };
        let path = &*format!("{}/{name}", self.queue);
        let stat = life.link.call(|client| async move { client.check_stat(path).await }).await?;
        match stat {
            Some(stat) => {
                life.must_own(&stat)?;
                Ok(Some(self.place(life, name.to_owned(), stat.czxid)))
            }
            None => Ok(None),
        }
    }

    async fn make_queue(&self, life: &Life) -> Result<()> {
        let (queue, options) = (&*self.queue, life.config.node(CreateMode::Persistent));
        let options = &options;
        match &self.group {
            None => {
                life.link.call(|client| async move { client.mkdir(queue, options).await }).await?;
                Ok(())
            }
            // Not the group with it.
            Some(group) => {
                let made = life
                    .link
                    .call(|client| async move { client.create(queue, b"", options).await })
                    .await;
                match made {
                    Ok(_) | Err(Failure { cause: Cause::NodeExists, .. }) => Ok(()),
                    Err(Failure { cause: Cause::NoNode, .. }) => {
                        Err(Error::group_not_created(group))
                    }
                    Err(failure) => Err(failure.into()),
                }
            }
        }
    }

    fn hold(&self, life: &Arc<Life>, place: Place) -> Arc<dyn Hold> {
        let path = format!("{}/{}", self.queue, place.name);
        let (token, lease) = (place.token, place.lease);
        if !place.watched {
            let (life, path, lease) = (life.clone(), path.clone(), lease.clone());
            tokio::spawn(async move {
                tokio::select! {
                    _ = lease.lost() => {}
                    () = tokio::time::sleep(UNWATCHED) => life.watch_over(path, lease),
                }
            });
        }
        Arc::new(ZooKeeperHold { life: life.clone(), path, token, lease })
    }

    /// Leaves the queue without what was waited for.
    async fn leave(&self, life: &Life, place: &Place) -> Result<Option<Arc<dyn Hold>>> {
        match delete(life, &format!("{}/{}", self.queue, place.name)).await {
            // With its session, the place in the queue is gone.
            Err(error) if error.kind() != ErrorKind::SessionLost => Err(error),
            _ => Ok(None),
        }
    }

    /// Takes back what a failed acquisition may have left, in the background: as soon as the server
    /// can be reached, unless the session ends before.
    fn withdraw(self, life: Arc<Life>) {
        tokio::spawn(async move {
            while life.lease.is_held() {
                match self.take_back(&life).await {
                    Err(error) if error.kind() != ErrorKind::SessionLost => {
                        debug!(%error, "what is left of an acquisition is not withdrawn yet");
                    }
                    _ => return,
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
    }

    /// Deletes what the acquisition left in the queue.
    async fn take_back(&self, life: &Life) -> Result<()> {
        let children = match synced_list(life, &self.queue).await {
            Ok(children) => children,
            Err(Failure { cause: Cause::NoNode, .. }) => return Ok(()),
            Err(failure) => return Err(failure.into()),
        };
        if let Some(name) = queue::made_by(&children, &queue::prefix(self.id, self.mode)) {
            delete(life, &format!("{}/{name}", self.queue)).await?;
        }
        Ok(())
    }
}

pub(crate) async fn take_away(life: &Life, queue: &str) -> Result<bool> {
    let children = match synced_list(life, queue).await {
        Ok(children) => children,
        Err(Failure { cause: Cause::NoNode, .. }) => return Ok(false),
        Err(failure) => return Err(failure.into()),
    };
    let mut broken = false;
    for holder in Queue::of(life, queue, children).await?.holders() {
        broken |= delete(life, &format!("{queue}/{holder}")).await?;
    }
    Ok(broken)
}

/// Whether it was there. After a lost reply the first request has deleted it.
async fn delete(life: &Life, path: &str) -> Result<bool> {
    match life.link.call(|client| async move { client.delete(path, None).await }).await {
        Ok(_) | Err(Failure { cause: Cause::NoNode, again: true }) => Ok(true),
        Err(Failure { cause: Cause::NoNode, .. }) => Ok(false),
        Err(failure) => Err(failure.into()),
    }
}

async fn list(life: &Life, queue: &str) -> Result<Vec<String>> {
    let children = life.link.call(|client| async move { client.list_children(queue).await }).await;
    match children {
        Ok(children) => Ok(children),
        Err(Failure { cause: Cause::NoNode, .. }) => Ok(Vec::new()),
        Err(failure) => Err(failure.into()),
    }
}

/// With everything that was done before it was asked for, by whatever server.
async fn synced_list(life: &Life, queue: &str) -> Result<Vec<String>, Failure> {
    let children = life.link.call(|client| async move {
        let (synced, children) = (client.sync(queue), client.list_children(queue));
        synced.await?;
        children.await
    });
    children.await
}

/// A lock or a term that is ours.
pub(crate) struct ZooKeeperHold {
    life: Arc<Life>,
    path: String,
    token: FencingToken,
    lease: Lease,
}

#[async_trait]
impl Hold for ZooKeeperHold {
    fn token(&self) -> FencingToken {
        self.token
    }

    fn lease(&self) -> &Lease {
        &self.lease
    }

    async fn verify(&self) -> Result<bool> {
        let path = &*self.path;
        let stat = self.life.link.call(|client| async move {
            let (synced, stat) = (client.sync(path), client.check_stat(path));
            synced.await?;
            stat.await
        });
        Ok(stat.await?.is_some_and(|stat| self.life.owns(&stat)))
    }

    async fn release(&self) -> Result<Release> {
        if self.life.lease.loss().is_some() {
            return Err(Error::new(ErrorKind::SessionLost, "the session is over")
                .outcome_is(Outcome::NotApplied));
        }
        let released = delete(&self.life, &self.path).await?;
        Ok(if released { Release::Released } else { Release::WasLost })
    }
}

impl std::fmt::Debug for ZooKeeperHold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ZooKeeperHold")
            .field("path", &self.path)
            .field("token", &self.token)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}
