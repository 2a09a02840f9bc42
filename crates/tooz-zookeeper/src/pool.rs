//! Watches, over as many connections as they need.
//!
//! After a reconnection the client sets its watches again, in requests of 128 KiB of paths each,
//! whose answers it cannot tell apart: with two of them it gets no session. So no connection has
//! that many. What the session's own has no room for is watched by spare sessions, which do nothing
//! else.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use tooz_core::kit::locked;
use tooz_core::{MemberId, Result};
use tracing::debug;
use zookeeper_client::{Client, Error as Cause, EventType, OneshotWatcher, Stat};

use crate::client::SessionClient;
use crate::config::Config;
use crate::connection;
use crate::errors::{Failure, translate};

/// What a request has for each path beside its text, in bytes.
const LENGTH: usize = 4;

/// Where a session's watches are.
#[derive(Debug)]
pub(crate) struct Pool {
    config: Arc<Config>,
    member: MemberId,
    client: Arc<SessionClient>,
    /// How many bytes of paths the session's own connection watches.
    taken: Arc<AtomicUsize>,
    spares: Mutex<Vec<Spare>>,
    opening: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Spare {
    client: Client,
    /// How many bytes of paths it watches.
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

/// Room for some watches on one connection.
struct Reservation {
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
    pub(crate) fn new(config: Arc<Config>, member: MemberId, client: Arc<SessionClient>) -> Self {
        let (taken, spares, opening) = <_>::default();
        Self { config, member, client, taken, spares, opening }
    }

    /// Ends the spare sessions.
    pub(crate) fn close(&self) {
        locked(&self.spares).clear();
    }

    /// Where the first of these paths can be watched, and as many more as there is room for.
    async fn reserve(&self, paths: &[String]) -> Result<Reservation> {
        if let Some(reservation) = self.find(paths) {
            return Ok(reservation);
        }
        let _opening = self.opening.lock().await;
        loop {
            if let Some(reservation) = self.find(paths) {
                return Ok(reservation);
            }
            debug!(member = %self.member, "one more connection for watches");
            let client = tokio::select! {
                client = connection::open(&self.config) => client?,
                () = self.client.closed() => return Err(translate(Cause::ClientClosed)),
            };
            locked(&self.spares).push(Spare { client, taken: Arc::default() });
        }
    }

    fn find(&self, paths: &[String]) -> Option<Reservation> {
        let rooms = self.take(&self.taken, paths);
        if !rooms.is_empty() {
            return Some(Reservation { spare: None, rooms });
        }
        let mut spares = locked(&self.spares);
        spares.retain(|spare| !spare.client.state().is_terminated());
        spares.iter().find_map(|spare| {
            let rooms = self.take(&spare.taken, paths);
            (!rooms.is_empty()).then(|| Reservation { spare: Some(spare.client.clone()), rooms })
        })
    }

    /// Rooms for the first of the paths, until it is full.
    fn take(&self, taken: &Arc<AtomicUsize>, paths: &[String]) -> Vec<Room> {
        let room = |path: &String| {
            let bytes = self.config.chroot.len() + path.len() + LENGTH;
            let room = Room { taken: taken.clone(), bytes };
            let all = taken.fetch_add(bytes, SeqCst) + bytes;
            (all <= self.config.watch_room()).then_some(room)
        };
        paths.iter().map_while(room).collect()
    }

    /// A request over a connection. The answer is as new as what the session's own would give.
    async fn call<T, F>(
        &self,
        reservation: &Reservation,
        path: &str,
        request: impl Fn(Client) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Cause>>,
    {
        let Some(spare) = &reservation.spare else { return self.client.call(request).await };
        let request = &request;
        let synced = |client: Client| async move {
            client.sync(path).await?;
            request(client).await
        };
        self.client.call_over(spare, synced).await
    }

    /// Whether the session, a spare one, is over, and ours is not: another can be had.
    fn is_lost(&self, reservation: &Reservation, failure: &Failure) -> bool {
        use Cause::{ClientClosed, SessionExpired, SessionMoved};
        let over = matches!(failure.cause, ClientClosed | SessionExpired | SessionMoved);
        over && reservation.spare.is_some() && !self.client.is_over()
    }

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
            let mut reservation = self.reserve(&paths).await?;
            match self.call(&reservation, path, &request).await {
                Ok((answer, watcher)) => {
                    let spare = reservation.spare.is_some();
                    let watch = |_room| (answer, Watch { watcher, spare, _room });
                    return Ok(reservation.rooms.pop().map(watch));
                }
                Err(Failure { cause: Cause::NoNode, .. }) => return Ok(None),
                Err(failure) if self.is_lost(&reservation, &failure) => {}
                Err(failure) => return Err(failure.into()),
            }
        }
    }

    /// The data of nodes, watched; nothing of those that are gone. One round trip for each
    /// connection that it takes.
    pub(crate) async fn watch_data(&self, mut paths: &[String]) -> Result<Vec<Option<Watched>>> {
        let mut all = Vec::with_capacity(paths.len());
        while let Some(first) = paths.first() {
            let reservation = self.reserve(paths).await?;
            let (now, rest) = paths.split_at(reservation.rooms.len());
            let read = self.call(&reservation, first, |client| async move {
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
                Err(failure) if self.is_lost(&reservation, &failure) => continue,
                Err(failure) => return Err(failure.into()),
            };
            let spare = reservation.spare.is_some();
            all.extend(found.into_iter().zip(reservation.rooms).map(|(found, _room)| {
                let (data, stat, watcher) = found?;
                Some((data, stat, Watch { watcher, spare, _room }))
            }));
            paths = rest;
        }
        Ok(all)
    }
}
