//! Keys that many wait for: they are looked at together, when something has changed.
//!
//! A blocking query tells of any change below the namespace and has next to no answer; then all keys
//! are read that somebody waits for, 64 in a request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};
use tooz_core::Result;
use tooz_http::Request;

use crate::agent::lock;
use crate::api::Api;
use crate::keys::path;
use crate::poll;
use crate::transaction::Entry;

/// The least time between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Lives as long as anybody waits.
#[derive(Debug)]
pub(crate) struct Lookout {
    wanted: Arc<Wanted>,
    _query: DropGuard,
}

#[derive(Debug, Default)]
struct Wanted {
    keys: Mutex<HashMap<String, Vec<Want>>>,
    news: Notify,
}

/// Somebody who knows a key as it was at an index, or that there was none.
#[derive(Debug)]
struct Want {
    known: Option<u64>,
    tell: oneshot::Sender<Option<Entry>>,
}

impl Lookout {
    /// The one of a namespace.
    pub(crate) fn of(api: &Api) -> Arc<Self> {
        let mut lookout = lock(&api.agent().lookout);
        if let Some(lookout) = lookout.upgrade() {
            return lookout;
        }
        let (wanted, over) = (Arc::<Wanted>::default(), CancellationToken::new());
        let (api, all, query) = (api.clone(), wanted.clone(), over.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = keep(&api, &all) => {}
                () = query.cancelled() => {}
            }
        });
        let new = Arc::new(Self { wanted, _query: over.drop_guard() });
        *lookout = Arc::downgrade(&new);
        new
    }

    /// The key as soon as it is another than was known.
    pub(crate) async fn differs(&self, key: &str, known: Option<u64>) -> Option<Entry> {
        let (tell, told) = oneshot::channel();
        let want = Want { known, tell };
        lock(&self.wanted.keys).entry(key.to_owned()).or_default().push(want);
        self.wanted.news.notify_one();
        match told.await {
            Ok(entry) => entry,
            // Only if the runtime ends.
            Err(_) => std::future::pending().await,
        }
    }
}

async fn keep(api: &Api, wanted: &Wanted) {
    let mut ring = Box::pin(ring(api, 0));
    loop {
        // What cannot be read now is read again: who waits has a limit of its own.
        let looked = look(api, wanted).await;
        let is_well = looked.is_ok();
        if let Err(error) = looked {
            let _ = poll::ride_out(error.retryable(true)).await;
        }
        tokio::time::sleep(PAUSE).await;
        if is_well {
            tokio::select! {
                index = &mut ring => ring.set(self::ring(api, index)),
                () = wanted.news.notified() => {}
            }
        }
    }
}

/// Waits for a change of anything; where to go on.
async fn ring(api: &Api, index: u64) -> u64 {
    // What comes before the first slash is all the same, so there is hardly an answer.
    let request = Request::get(path(api.namespace())).query("keys", "").query("separator", "/");
    match api.poll_any(request, index, poll::wait()).await {
        Ok(index) => index,
        Err(error) => poll::ride_out(error.retryable(true)).await.unwrap_or(0),
    }
}

async fn look(api: &Api, wanted: &Wanted) -> Result<()> {
    let taken = {
        let mut keys = lock(&wanted.keys);
        keys.retain(|_, wants| {
            wants.retain(|want| !want.tell.is_closed());
            !wants.is_empty()
        });
        std::mem::take(&mut *keys)
    };
    let names: Vec<_> = taken.keys().map(String::as_str).collect();
    let found = api.get_each(&names).await;
    for (key, wants) in taken {
        for want in wants {
            let entry = found.as_ref().ok().map(|found| found.get(&key));
            match entry {
                Some(entry) if entry.map(|entry| entry.changed) != want.known => {
                    // Who is gone needs no answer.
                    let _ = want.tell.send(entry.cloned());
                }
                _ => lock(&wanted.keys).entry(key.clone()).or_default().push(want),
            }
        }
    }
    found.map(drop)
}
