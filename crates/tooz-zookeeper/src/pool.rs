//! Watches, over as many connections as they need.
//!
//! After a reconnection the client sets its watches again, in requests of 128 KiB of paths each,
//! whose answers it cannot tell apart: with two of them it gets no session any more. So no
//! connection has that many. What the session's own has no room for is watched by spare sessions,
//! which do nothing else.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tooz_core::Result;
use tracing::debug;
use zookeeper_client::{Client, Error as Cause, EventType, OneshotWatcher, Stat};

use crate::connection;
use crate::errors::{Failure, translate};
use crate::link::Link;
use crate::session::Life;

/// What a request has for each path beside its text, in bytes.
const LENGTH: usize = 4;

/// Where a session's watches are.
#[derive(Debug)]
pub(crate) struct Pool {
    own: Arc<AtomicUsize>,
    spares: Mutex<Vec<Spare>>,
    opening: tokio::sync::Mutex<()>,
    /// How many bytes of paths one connection watches.
    room: usize,
    /// What precedes each path.
    chroot: usize,
}

#[derive(Debug)]
struct Spare {
    client: Client,
    taken: Arc<AtomicUsize>,
}

/// Room on a connection, for one watch.
#[derive(Debug)]
struct Room {
    taken: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.bytes, SeqCst);
    }
}

/// A connection with room for some watches.
struct Place {
    /// `None` is the session's own.
    spare: Option<Client>,
    rooms: Vec<Room>,
}

/// What is in a node, and what tells that it changes.
type Watched = (Vec<u8>, Stat, Watch);

/// A watch that is set. It is taken off the server when it is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    watcher: OneshotWatcher,
    spare: bool,
    _room: Room,
}

impl Watch {
    /// Waits until it is time to look again; whether the session is over instead.
    pub(crate) async fn changed(self) -> bool {
        let over = self.watcher.changed().await.event_type == EventType::Session;
        // Another connection will do as well as a spare one that is gone.
        over && !self.spare
    }
}

impl Pool {
    pub(crate) fn new(room: usize, chroot: usize) -> Self {
        let (own, spares, opening) = <_>::default();
        Self { own, spares, opening, room, chroot }
    }

    /// Ends the spare sessions.
    pub(crate) fn close(&self) {
        self.spares().clear();
    }

    fn spares(&self) -> MutexGuard<'_, Vec<Spare>> {
        // Nothing panics while it is locked, so it is whole even if poisoned.
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the first of these paths can be watched, and as many more as there is room for.
    async fn place(&self, life: &Life, paths: &[String]) -> Result<Place> {
        if let Some(place) = self.find(paths) {
            return Ok(place);
        }
        let _opening = self.opening.lock().await;
        loop {
            if let Some(place) = self.find(paths) {
                return Ok(place);
            }
            debug!(member = %life.member, "one more connection for watches");
            let client = tokio::select! {
                client = connection::open(&life.config) => client?,
                () = life.link.closed() => return Err(translate(Cause::ClientClosed)),
            };
            self.spares().push(Spare { client, taken: Arc::default() });
        }
    }

    fn find(&self, paths: &[String]) -> Option<Place> {
        let rooms = self.take(&self.own, paths);
        if !rooms.is_empty() {
            return Some(Place { spare: None, rooms });
        }
        let mut spares = self.spares();
        spares.retain(|spare| !spare.client.state().is_terminated());
        spares.iter().find_map(|spare| {
            let rooms = self.take(&spare.taken, paths);
            (!rooms.is_empty()).then(|| Place { spare: Some(spare.client.clone()), rooms })
        })
    }

    /// Rooms for the first of the paths, until it is full.
    fn take(&self, taken: &Arc<AtomicUsize>, paths: &[String]) -> Vec<Room> {
        let room = |path: &String| {
            let bytes = self.chroot + path.len() + LENGTH;
            let room = Room { taken: taken.clone(), bytes };
            (taken.fetch_add(bytes, SeqCst) + bytes <= self.room).then_some(room)
        };
        paths.iter().map_while(room).collect()
    }
}

impl Place {
    /// Over its connection. The answer is as new as what the session's own would give.
    async fn call<T, F>(
        &self,
        link: &Link,
        path: &str,
        request: impl Fn(Client) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Cause>>,
    {
        let Some(spare) = &self.spare else { return link.call(request).await };
        let request = &request;
        let synced = |client: Client| async move {
            client.sync(path).await?;
            request(client).await
        };
        link.call_over(spare, synced).await
    }

    /// Whether its session, a spare one, is over, and ours is not: another can be had.
    fn is_lost(&self, life: &Life, failure: &Failure) -> bool {
        use Cause::{ClientClosed, SessionExpired, SessionMoved};
        let over = matches!(failure.cause, ClientClosed | SessionExpired | SessionMoved);
        over && self.spare.is_some() && life.lease.is_held() && !life.link.is_closed()
    }

    fn watch(spare: bool, room: Room, watcher: OneshotWatcher) -> Watch {
        Watch { watcher, spare, _room: room }
    }
}

impl Life {
    /// A request that sets one watch, on `path`; `None` if there is no such node.
    pub(crate) async fn watch<T, F>(
        &self,
        path: &str,
        request: impl Fn(Client) -> F,
    ) -> Result<Option<(T, Watch)>>
    where
        F: Future<Output = Result<(T, OneshotWatcher), Cause>>,
    {
        let paths = [path.to_owned()];
        loop {
            let mut place = self.pool.place(self, &paths).await?;
            match place.call(&self.link, path, &request).await {
                Ok((answer, watcher)) => {
                    let spare = place.spare.is_some();
                    let watch = |room| (answer, Place::watch(spare, room, watcher));
                    return Ok(place.rooms.pop().map(watch));
                }
                Err(Failure { cause: Cause::NoNode, .. }) => return Ok(None),
                Err(failure) if place.is_lost(self, &failure) => {}
                Err(failure) => return Err(failure.into()),
            }
        }
    }

    /// The data of nodes, watched; nothing of those that are gone. One round trip for each
    /// connection that it takes.
    pub(crate) async fn watch_data(&self, mut paths: &[String]) -> Result<Vec<Option<Watched>>> {
        let mut all = Vec::with_capacity(paths.len());
        while let Some(first) = paths.first() {
            let place = self.pool.place(self, paths).await?;
            let (now, rest) = paths.split_at(place.rooms.len());
            let read = place.call(&self.link, first, |client| async move {
                let data: Vec<_> = now.iter().map(|path| client.get_and_watch_data(path)).collect();
                let mut found = Vec::new();
                for data in data {
                    found.push(match data.await {
                        Ok(data) => Some(data),
                        Err(Cause::NoNode) => None,
                        Err(cause) => return Err(cause),
                    });
                }
                Ok(found)
            });
            let found = match read.await {
                Ok(found) => found,
                Err(failure) if place.is_lost(self, &failure) => continue,
                Err(failure) => return Err(failure.into()),
            };
            let spare = place.spare.is_some();
            all.extend(found.into_iter().zip(place.rooms).map(|(found, room)| {
                let (data, stat, watcher) = found?;
                Some((data, stat, Place::watch(spare, room, watcher)))
            }));
            paths = rest;
        }
        Ok(all)
    }
}
