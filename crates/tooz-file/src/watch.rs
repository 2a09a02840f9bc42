//! Being told of changes: inotify, one instance for all sessions of a thread.
//!
//! It is used without a watcher crate, because the choice of events is the point: the processes
//! that contend for a lock must not wake each other by opening its file or writing its counter.
//!
//! A mount raises no such event, though what is mounted over a path leads it elsewhere. The kernel
//! tells those who poll the list of mounts.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
pub(crate) use nix::sys::inotify::AddWatchFlags as Changes;
use nix::sys::inotify::{InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tooz_core::kit::{locked, random_part};
use tracing::{debug, warn};

/// A file was removed, replaced or moved away. A removed file that is still open shows only as a
/// change of its attributes.
pub(crate) const GONE: Changes =
    Changes::IN_ATTRIB.union(Changes::IN_DELETE_SELF).union(Changes::IN_MOVE_SELF);

/// Somebody who could have held the lock of a file is done with it.
pub(crate) const CLOSED: Changes = Changes::IN_CLOSE_WRITE;

/// The mounts that this process sees.
const MOUNTS: &str = "/proc/self/mountinfo";

/// How many links a path may lead through: as many as the kernel follows.
const LINKS: usize = 40;

/// How often to look where changes are not told, give or take a quarter.
const SLOW_POLL: Duration = Duration::from_millis(100);

/// The inotify instance of a thread.
#[derive(Debug)]
pub(crate) struct Hub {
    /// None if the system gave none.
    inotify: Option<Arc<AsyncFd<Source>>>,
    table: Arc<Table>,
    readers: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Source(Inotify);

impl Source {
    #[expect(deprecated, reason = "what replaces it is unsafe; this owns its descriptor for good")]
    fn register(self) -> io::Result<AsyncFd<Self>> {
        AsyncFd::new(self)
    }
}

impl AsRawFd for Source {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

#[derive(Debug, Default)]
struct Table {
    watched: Mutex<HashMap<WatchDescriptor, Vec<Listener>>>,
    /// Events no longer come: everybody must look for himself.
    broken: AtomicBool,
}

#[derive(Debug)]
struct Listener {
    changes: Changes,
    signal: Arc<Signal>,
}

/// What one [`Watch`] has been told and has not looked at yet.
#[derive(Debug, Default)]
struct Signal {
    seen: AtomicU32,
    wake: Notify,
}

thread_local! {
    static HUB: RefCell<Weak<Hub>> = const { RefCell::new(Weak::new()) };
}

impl Hub {
    /// The one of this thread, on which a runtime runs.
    pub(crate) fn of_this_thread() -> Arc<Self> {
        HUB.with_borrow_mut(|weak| {
            weak.upgrade().unwrap_or_else(|| {
                let hub = Arc::new(Self::new());
                *weak = Arc::downgrade(&hub);
                hub
            })
        })
    }

    fn new() -> Self {
        let table = Arc::new(Table::default());
        match Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
            .map_err(io::Error::from)
            .and_then(|inotify| Source(inotify).register())
        {
            Ok(inotify) => {
                let inotify = Arc::new(inotify);
                let readers = vec![
                    tokio::spawn(listen(inotify.clone(), table.clone())),
                    tokio::spawn(listen_to_mounts(table.clone())),
                ];
                Self { inotify: Some(inotify), table, readers }
            }
            Err(error) => {
                warn!(%error, "no inotify: looking for changes every {SLOW_POLL:?}");
                table.broken.store(true, Ordering::Relaxed);
                Self { inotify: None, table, readers: Vec::new() }
            }
        }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.readers.iter().for_each(JoinHandle::abort);
    }
}

async fn listen(inotify: Arc<AsyncFd<Source>>, table: Arc<Table>) {
    let error = loop {
        let mut ready = match inotify.readable().await {
            Ok(ready) => ready,
            Err(error) => break error,
        };
        match ready.try_io(|source| source.get_ref().0.read_events().map_err(io::Error::from)) {
            Ok(Ok(events)) => table.tell(&events),
            Ok(Err(error)) => break error,
            Err(_would_block) => {}
        }
    };
    warn!(%error, "inotify failed: looking for changes every {SLOW_POLL:?}");
    table.broken.store(true, Ordering::Relaxed);
    table.tell_all();
}

async fn listen_to_mounts(table: Arc<Table>) {
    let told = async {
        #[expect(deprecated, reason = "what replaces it is unsafe; this owns the file for good")]
        let mounts = AsyncFd::with_interest(File::open(MOUNTS)?, Interest::PRIORITY)?;
        loop {
            mounts.ready(Interest::PRIORITY).await?.clear_ready();
            table.tell_who_may_be_gone();
        }
    };
    let ended: io::Result<()> = told.await;
    debug!(?ended, "a mount over a directory will be noticed with the next heartbeat");
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, HashMap<WatchDescriptor, Vec<Listener>>> {
        locked(&self.watched)
    }

    fn tell(&self, events: &[InotifyEvent]) {
        for event in events {
            if event.mask.contains(Changes::IN_Q_OVERFLOW) {
                self.tell_all();
            } else if event.mask.intersects(Changes::IN_IGNORED | Changes::IN_UNMOUNT) {
                // The file is gone, and the kernel has dropped its watch.
                for listener in self.lock().remove(&event.wd).into_iter().flatten() {
                    listener.signal.tell(Changes::IN_DELETE_SELF);
                }
            } else if let Some(listeners) = self.lock().get(&event.wd) {
                for listener in listeners.iter().filter(|l| l.changes.intersects(event.mask)) {
                    listener.signal.tell(event.mask);
                }
            }
        }
    }

    /// Any path may lead elsewhere.
    fn tell_who_may_be_gone(&self) {
        for listener in self.lock().values().flatten().filter(|l| l.changes.intersects(GONE)) {
            listener.signal.tell(GONE);
        }
    }

    /// Anything may have happened.
    fn tell_all(&self) {
        for listener in self.lock().values().flatten() {
            listener.signal.tell(Changes::all());
        }
    }
}

impl Signal {
    fn tell(&self, changes: Changes) {
        self.seen.fetch_or(changes.bits(), Ordering::Relaxed);
        self.wake.notify_one();
    }
}

/// One listener, on any number of paths. What happens while nobody waits is kept, as a sum.
#[derive(Debug)]
pub(crate) struct Watch {
    hub: Arc<Hub>,
    signal: Arc<Signal>,
    watched: Vec<WatchDescriptor>,
    /// Changes are not told, or not all of them.
    polls: bool,
}

impl Watch {
    /// A watch on nothing yet. With `polls`, it looks even where inotify works.
    pub(crate) fn new(hub: Arc<Hub>, polls: bool) -> Self {
        Self { hub, signal: Arc::default(), watched: Vec::new(), polls }
    }

    /// Watches for `changes` of the file or directory that is at `path` now, instead of others of
    /// the same file. Whether there is one.
    pub(crate) fn on(&mut self, path: &Path, changes: Changes) -> bool {
        let Some(inotify) = &self.hub.inotify else { return path.exists() };
        // Locked before, so that no event comes between the watch and its entry.
        let mut watched = self.hub.table.lock();
        // The kernel keeps one watch for each file: ours is added to what others want of it.
        let wanted = changes | Changes::from_bits_retain(libc::IN_MASK_ADD);
        let descriptor = match inotify.get_ref().0.add_watch(path, wanted) {
            Ok(descriptor) => descriptor,
            Err(Errno::ENOENT | Errno::ENOTDIR) => return false,
            Err(error) => {
                if !std::mem::replace(&mut self.polls, true) {
                    warn!(path = %path.display(), %error, "not watched: looking every {SLOW_POLL:?}");
                }
                return true;
            }
        };
        let listeners = watched.entry(descriptor).or_default();
        match listeners.iter_mut().find(|l| Arc::ptr_eq(&l.signal, &self.signal)) {
            Some(listener) => listener.changes = changes,
            None => {
                listeners.push(Listener { changes, signal: self.signal.clone() });
                self.watched.push(descriptor);
            }
        }
        true
    }

    /// Watches everything on the path below `top`, which may be moved and take the
    /// file at the path along: the directories, and links with where they lead.
    pub(crate) fn on_way(&mut self, path: &Path, top: &Path) {
        for step in path.parent().into_iter().flat_map(|dir| way(dir, top, LINKS)) {
            // What is missing shows at the end of the way.
            self.on(&step, GONE | Changes::IN_DONT_FOLLOW);
        }
    }

    /// Waits for changes, and returns their sum since the last call: empty if it is just time to
    /// look. Dropping the future loses none.
    pub(crate) async fn changed(&self) -> Changes {
        loop {
            let polls = self.polls || self.hub.table.broken.load(Ordering::Relaxed);
            tokio::select! {
                () = self.signal.wake.notified() => {}
                () = tokio::time::sleep(slow_poll()), if polls => return Changes::empty(),
            }
            let seen = self.signal.seen.swap(0, Ordering::Relaxed);
            if seen != 0 {
                return Changes::from_bits_truncate(seen);
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watched = self.hub.table.lock();
        for descriptor in &self.watched {
            let Some(listeners) = watched.get_mut(descriptor) else { continue };
            listeners.retain(|listener| !Arc::ptr_eq(&listener.signal, &self.signal));
            if listeners.is_empty() {
                watched.remove(descriptor);
                if let Some(inotify) = &self.hub.inotify {
                    // It fails only for a file that is gone, and the watch with it.
                    let _ = inotify.get_ref().0.rm_watch(*descriptor);
                }
            }
        }
    }
}

/// That directory, all above it below `top`, and the same of where links among them lead.
fn way(dir: &Path, top: &Path, links: usize) -> Vec<PathBuf> {
    let mut steps = Vec::new();
    for step in dir.ancestors().take_while(|step| *step != top && *step != Path::new("/")) {
        steps.push(step.to_owned());
        if links > 0
            && let Ok(target) = fs::read_link(step)
        {
            let target = step.parent().unwrap_or(step).join(target);
            steps.extend(way(&target, Path::new("/"), links - 1));
        }
    }
    steps
}

/// With jitter, so that many waiters do not look all at once.
fn slow_poll() -> Duration {
    SLOW_POLL * 3 / 4 + random_part(SLOW_POLL / 2)
}

/// The pauses after a process was reported to end: the kernel reports it just before it gives up
/// the locks, so look again shortly after. They double from 1 ms to 256 ms, then end.
#[derive(Debug, Default)]
pub(crate) struct Aftermath {
    next: Option<Duration>,
}

impl Aftermath {
    const FIRST: Duration = Duration::from_millis(1);
    const LAST: Duration = Duration::from_millis(256);

    pub(crate) fn begin(&mut self) {
        self.next = Some(Self::FIRST);
    }

    pub(crate) fn skip_to_last(&mut self) {
        self.next = Some(Self::LAST);
    }

    /// The next pause; forever after the last. A pause that is dropped is made again.
    pub(crate) async fn pause(&mut self) {
        match self.next {
            None => std::future::pending().await,
            Some(pause) => {
                tokio::time::sleep(pause).await;
                self.next = Some(pause * 2).filter(|next| *next <= Self::LAST);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::Instant;

    #[tokio::test]
    async fn each_is_told_what_it_listens_for() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let hub = Hub::of_this_thread();
        let (mut closed, mut gone) = (Watch::new(hub.clone(), false), Watch::new(hub, false));
        assert!(closed.on(&file, CLOSED) && gone.on(&file, GONE));
        fs::write(&file, "x").unwrap();
        assert_eq!(closed.changed().await, CLOSED);
        drop(closed);
        fs::remove_file(&file).unwrap();
        assert!(gone.changed().await.intersects(GONE));
        assert!(!gone.on(&file, GONE));
    }

    #[tokio::test]
    async fn what_is_not_told_is_looked_for() {
        let table = Arc::new(Table::default());
        table.broken.store(true, Ordering::Relaxed);
        let broken = Arc::new(Hub { inotify: None, table, readers: Vec::new() });
        for mut watch in [Watch::new(broken, false), Watch::new(Hub::of_this_thread(), true)] {
            assert!(watch.on(Path::new("/"), CLOSED));
            let began = Instant::now();
            assert_eq!(watch.changed().await, Changes::empty());
            assert!(began.elapsed() >= SLOW_POLL * 3 / 4);
        }
    }

    #[tokio::test]
    async fn a_listener_loses_nothing_when_events_were_lost() {
        let hub = Hub::of_this_thread();
        let mut watch = Watch::new(hub.clone(), false);
        assert!(watch.on(Path::new("/"), GONE));
        hub.table.tell_all();
        assert_eq!(watch.changed().await, Changes::all());
    }
}
