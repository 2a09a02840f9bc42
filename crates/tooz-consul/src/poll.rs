//! Blocking queries about what many want to know: all coordinators of a process that use the servers
//! alike share them.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tooz_core::kit::{locked, random_part};
use tooz_core::{Error, Result};
use tooz_http::{Request, Response, encode};
use tracing::debug;

use crate::client::{Client, SessionInfo};
use crate::config::Access;
use crate::keys::path;
use crate::transaction::Entry;
use crate::weak_table::WeakTable;

/// How long one query waits, and by how much more at most, so that not all ask at once.
const WAIT: (Duration, Duration) = (Duration::from_secs(50), Duration::from_secs(20));

/// How long to wait when the servers are in trouble, and twice that at most.
const TROUBLE: Duration = Duration::from_millis(150);

/// The least time between two answers of a query when there are many.
const PAUSE: Duration = Duration::from_millis(50);

/// How many answers about a node's sessions come without such a pause.
const AT_ONCE: usize = 8;

/// How long a blocking query may wait.
pub(crate) fn wait() -> Duration {
    WAIT.0 + random_part(WAIT.1)
}

/// Waits a little after what passes, such as an election among the servers.
pub(crate) async fn pause_after(error: &Error) {
    debug!(%error, "nothing can be watched at the moment");
    tokio::time::sleep(TROUBLE + random_part(TROUBLE)).await;
}

/// The servers, and the blocking queries that many share.
#[derive(Debug)]
pub(crate) struct Poller {
    pub(crate) client: Client,
    waited_for: WeakTable<(), WaitedFor>,
    nodes: WeakTable<String, NodeSessions>,
}

impl Poller {
    /// The one of all coordinators that use the servers alike: only for the engine, whose runtime
    /// outlives them all.
    pub(crate) fn shared(access: &Access) -> Result<Arc<Self>> {
        static POLLERS: WeakTable<Access, Poller> = WeakTable::new();
        let client = Client::new(access.clone())?;
        let (waited_for, nodes) = (WeakTable::new(), WeakTable::new());
        Ok(POLLERS.get_or_make(access.clone(), || Self { client, waited_for, nodes }))
    }

    /// The keys that many wait for.
    pub(crate) fn waited_for(&self) -> Arc<WaitedFor> {
        self.waited_for.get_or_make((), || WaitedFor::new(&self.client))
    }

    /// The sessions of a node.
    pub(crate) fn sessions_of(&self, node: &str) -> Arc<NodeSessions> {
        let client = self.client.for_heartbeats();
        self.nodes.get_or_make(node.to_owned(), || NodeSessions::new(client, node))
    }
}

/// Runs until the returned guard is dropped.
fn spawn(task: impl Future<Output = ()> + Send + 'static) -> DropGuard {
    let over = CancellationToken::new();
    tokio::spawn(over.clone().run_until_cancelled_owned(task));
    over.drop_guard()
}

// ---- Keys.

/// Keys that many wait for: they are looked at together, when something has changed.
///
/// A blocking query tells of any change below the namespace and has next to no answer; then all keys
/// are read that somebody waits for, 64 in a request.
#[derive(Debug)]
pub(crate) struct WaitedFor {
    waiters: Arc<Waiters>,
    _query: DropGuard,
}

#[derive(Debug, Default)]
struct Waiters {
    of_keys: Mutex<HashMap<String, Vec<Waiter>>>,
    news: Notify,
}

/// Somebody who knows a key as it was at an index, or that there was none.
#[derive(Debug)]
struct Waiter {
    known: Option<u64>,
    tell: oneshot::Sender<Option<Entry>>,
}

impl WaitedFor {
    fn new(client: &Client) -> Self {
        let waiters = Arc::<Waiters>::default();
        let _query = spawn(waiters.clone().run(client.clone()));
        Self { waiters, _query }
    }

    /// The key as soon as it is another than was known.
    pub(crate) async fn differs(&self, key: &str, known: Option<u64>) -> Option<Entry> {
        let (tell, told) = oneshot::channel();
        let waiter = Waiter { known, tell };
        locked(&self.waiters.of_keys).entry(key.to_owned()).or_default().push(waiter);
        self.waiters.news.notify_one();
        match told.await {
            Ok(entry) => entry,
            // Only if the runtime ends.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Waiters {
    async fn run(self: Arc<Self>, client: Client) {
        let mut change = Box::pin(change(&client, 0));
        loop {
            // What cannot be read now is read again: each waiter has a limit of its own.
            let looked = self.look(&client).await;
            if let Err(error) = &looked {
                pause_after(error).await;
            }
            tokio::time::sleep(PAUSE).await;
            if looked.is_ok() {
                tokio::select! {
                    index = &mut change => change.set(self::change(&client, index)),
                    () = self.news.notified() => {}
                }
            }
        }
    }

    async fn look(&self, client: &Client) -> Result<()> {
        let taken = {
            let mut of_keys = locked(&self.of_keys);
            of_keys.retain(|_, waiters| {
                waiters.retain(|waiter| !waiter.tell.is_closed());
                !waiters.is_empty()
            });
            std::mem::take(&mut *of_keys)
        };
        let names: Vec<_> = taken.keys().map(String::as_str).collect();
        let found = client.get_each(&names).await;
        for (key, waiters) in taken {
            for waiter in waiters {
                match found.as_ref().map(|found| found.get(&key)) {
                    Ok(entry) if entry.map(|entry| entry.changed) != waiter.known => {
                        // A waiter that is gone needs no answer.
                        let _ = waiter.tell.send(entry.cloned());
                    }
                    _ => locked(&self.of_keys).entry(key.clone()).or_default().push(waiter),
                }
            }
        }
        found.map(drop)
    }
}

/// Waits for a change of anything; returns where to continue.
async fn change(client: &Client, index: u64) -> u64 {
    // All keys are the same up to the first slash, so there is hardly an answer.
    let all = path(&client.connections.access.namespace);
    let request = Request::get(all).query("keys", "").query("separator", "/");
    match client.poll(request, index, wait(), |_| Ok(())).await {
        Ok(polled) => polled.index,
        Err(error) => {
            pause_after(&error).await;
            0
        }
    }
}

// ---- Sessions.

/// The sessions of a node: one blocking query for all coordinators of the process.
#[derive(Debug)]
pub(crate) struct NodeSessions {
    living: watch::Receiver<Option<HashSet<String>>>,
    _query: DropGuard,
}

impl NodeSessions {
    fn new(client: Client, node: &str) -> Self {
        let (tell, living) = watch::channel(None);
        let path = format!("/v1/session/node/{}", encode(node.as_bytes()));
        let _query = spawn(async move { follow(&client, &path, &tell).await });
        Self { living, _query }
    }

    /// Those that live, once they are known.
    pub(crate) fn living(&self) -> watch::Receiver<Option<HashSet<String>>> {
        self.living.clone()
    }
}

async fn follow(client: &Client, path: &str, tell: &watch::Sender<Option<HashSet<String>>>) {
    let (mut index, mut quick) = (0, 0);
    loop {
        let asked = Instant::now();
        let read = Response::json::<Vec<SessionInfo>>;
        match client.poll(Request::get(path), index, wait(), read).await {
            Ok(polled) => {
                index = polled.index;
                tell.send_replace(Some(polled.value.into_iter().map(|s| s.id).collect()));
                // A change is reported at once; if they come in quick succession, several together.
                quick = if asked.elapsed() < PAUSE { quick + 1 } else { 0 };
                if quick > AT_ONCE {
                    tokio::time::sleep(PAUSE).await;
                }
            }
            // Whatever it is: the heartbeats tell if it is serious.
            Err(error) => {
                pause_after(&error).await;
                index = 0;
            }
        }
    }
}
