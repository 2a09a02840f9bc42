use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;
use tooz_core::kit::locked;
use tooz_core::{Error, ErrorKind, GroupId, Loss, MemberId, Moment, Outcome, Result};

use crate::store::{SessionId, Store};

/// The shared state of the coordinators of one URL, and the means to make it misbehave.
///
/// ```
/// use tooz_memory::World;
///
/// let world = World::named("tests"); // what memory://tests connects to
/// world.pause(); // no answers from here on, as from a stopped server
/// world.resume();
/// world.drop_replies(1); // the next request is carried out, and its answer is lost
/// # world.drop_replies(0);
/// ```
#[derive(Clone)]
pub struct World(Arc<Shared>);

struct Shared {
    name: String,
    store: Mutex<Store>,
    /// The version of the store: what watches wake up by.
    changes: watch::Sender<u64>,
    faults: watch::Sender<Faults>,
    requests: AtomicU64,
    hanging: AtomicU64,
}

#[derive(Clone, Debug, Default)]
struct Faults {
    paused: bool,
    refusing: bool,
    delay: Duration,
    dropping: u64,
    hanging: HashSet<GroupId>,
}

static WORLDS: Mutex<Option<HashMap<String, World>>> = Mutex::new(None);

impl World {
    /// The world of `memory://NAME`. It lives as long as the process.
    pub fn named(name: &str) -> Self {
        let mut worlds = locked(&WORLDS);
        let new = || {
            Self(Arc::new(Shared {
                name: name.to_owned(),
                store: Mutex::default(),
                changes: watch::Sender::new(0),
                faults: watch::Sender::default(),
                requests: AtomicU64::new(0),
                hanging: AtomicU64::new(0),
            }))
        };
        worlds.get_or_insert_default().entry(name.to_owned()).or_insert_with(new).clone()
    }

    // ---- Faults.

    /// Gives no answers until [`resume`](Self::resume). Sessions still expire, and nobody is
    /// told.
    pub fn pause(&self) {
        self.0.faults.send_modify(|faults| faults.paused = true);
    }

    /// Ends a [`pause`](Self::pause).
    pub fn resume(&self) {
        self.0.faults.send_modify(|faults| faults.paused = false);
        self.expire_due();
    }

    /// Refuses every request, as a server that is down, or serves again.
    pub fn refuse(&self, refusing: bool) {
        self.0.faults.send_modify(|faults| faults.refusing = refusing);
    }

    /// Delays every answer by that long.
    pub fn delay(&self, delay: Duration) {
        self.0.faults.send_modify(|faults| faults.delay = delay);
    }

    /// Carries out the next `count` requests and loses their answers.
    pub fn drop_replies(&self, count: u64) {
        self.0.faults.send_modify(|faults| faults.dropping = count);
    }

    /// Leaves the joins of one group unanswered, or answers them again.
    pub fn hang_joins(&self, group: &GroupId, hanging: bool) {
        self.0.faults.send_modify(|faults| match hanging {
            true => drop(faults.hanging.insert(group.clone())),
            false => drop(faults.hanging.remove(group)),
        });
    }

    /// Ends the sessions of a member, as after a silence longer than their time to live. Whether
    /// there was one.
    pub fn expire_session(&self, member: &MemberId) -> bool {
        let sessions = self.store().sessions_of(member);
        for session in &sessions {
            self.end_session(*session);
        }
        !sessions.is_empty()
    }

    /// Forgets everything, as a server without persistence that was restarted.
    pub fn wipe(&self) {
        let sessions = self.store().all_sessions();
        for session in sessions {
            self.end_session(session);
        }
        self.change(Store::wipe);
    }

    // ---- What can be seen.

    /// How many requests were made.
    pub fn requests(&self) -> u64 {
        self.0.requests.load(Relaxed)
    }

    /// How many joins are left unanswered now.
    pub fn joins_hanging(&self) -> u64 {
        self.0.hanging.load(Relaxed)
    }

    /// What coordinators have left: sessions, locks held and waited for, members.
    pub fn residue(&self) -> Vec<String> {
        self.store().residue()
    }

    // ---- The driver's side.

    fn store(&self) -> MutexGuard<'_, Store> {
        locked(&self.0.store)
    }

    /// Reads or changes the store; a change wakes the watches.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let (result, version) = {
            let mut store = self.store();
            (change(&mut store), store.version())
        };
        self.0.changes.send_if_modified(|seen| version > std::mem::replace(seen, version));
        result
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Waits until joins of a group are answered.
    pub(crate) async fn answers_joins(&self, group: &GroupId) {
        let mut faults = self.0.faults.subscribe();
        self.0.hanging.fetch_add(1, Relaxed);
        // The sender lives in `self`: the wait cannot fail.
        let _ = faults.wait_for(|faults| !faults.hanging.contains(group)).await;
        self.0.hanging.fetch_sub(1, Relaxed);
    }

    /// One round trip: what the server does with a request, with all that can go wrong on the way.
    pub(crate) async fn request<T>(
        &self,
        limit: Duration,
        serve: impl FnOnce(&mut Store) -> Result<T>,
    ) -> Result<T> {
        self.0.requests.fetch_add(1, Relaxed);
        let mut faults = self.0.faults.subscribe();
        if faults.borrow().refusing {
            return Err(Error::new(ErrorKind::Connection, "the connection was refused"));
        }
        let answering = faults.wait_for(|faults| !faults.paused);
        if tokio::time::timeout(limit, answering).await.is_err() {
            return Err(Error::new(ErrorKind::TimedOut, "no answer within the time limit"));
        }
        let delay = faults.borrow().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let answer = self.change(serve);
        let dropped = self.0.faults.send_if_modified(|faults| {
            let drops = faults.dropping > 0;
            faults.dropping = faults.dropping.saturating_sub(1);
            drops
        });
        if dropped {
            return Err(Error::new(ErrorKind::Connection, "the connection broke")
                .outcome_is(Outcome::Unknown));
        }
        answer
    }

    /// Ends the sessions whose time is over.
    pub(crate) fn expire_due(&self) {
        let due = self.store().sessions_due(Moment::now());
        for session in due {
            self.end_session(session);
        }
    }

    /// Ends a session at the server, and tells the client unless nothing gets through.
    pub(crate) fn end_session(&self, session: SessionId) {
        let lease = self.change(|store| store.end_session(session));
        if let Some(lease) = lease
            && !self.0.faults.borrow().paused
        {
            lease.lose(Loss::SessionEnded);
        }
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("name", &self.0.name).finish_non_exhaustive()
    }
}
