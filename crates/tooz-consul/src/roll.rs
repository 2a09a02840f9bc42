//! The sessions of a node: one blocking query for all coordinators of the process.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tooz_http::{Request, encode};

use crate::agent::lock;
use crate::api::{Api, SessionInfo};
use crate::poll;

/// How long to wait between answers when there are many, and how many come without.
const PAUSE: Duration = Duration::from_millis(50);
const AT_ONCE: usize = 8;

/// Which sessions live, as long as anybody wants to know.
#[derive(Debug)]
pub(crate) struct Roll {
    living: watch::Receiver<Option<HashSet<String>>>,
    _query: DropGuard,
}

impl Roll {
    /// The one of a node.
    pub(crate) fn of(api: &Api, node: &str) -> Arc<Self> {
        let mut rolls = lock(&api.agent().rolls);
        rolls.retain(|_, roll| roll.strong_count() > 0);
        if let Some(roll) = rolls.get(node).and_then(Weak::upgrade) {
            return roll;
        }
        let (tell, living) = watch::channel(None);
        let over = CancellationToken::new();
        let (api, path) = (api.clone(), format!("/v1/session/node/{}", encode(node.as_bytes())));
        let query = over.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = follow(&api, &path, &tell) => {}
                () = query.cancelled() => {}
            }
        });
        let roll = Arc::new(Self { living, _query: over.drop_guard() });
        rolls.insert(node.to_owned(), Arc::downgrade(&roll));
        roll
    }

    /// The sessions, once they are known.
    pub(crate) fn living(&self) -> watch::Receiver<Option<HashSet<String>>> {
        self.living.clone()
    }
}

async fn follow(api: &Api, path: &str, tell: &watch::Sender<Option<HashSet<String>>>) {
    let (mut index, mut quick) = (0, 0);
    loop {
        let request = Request::get(path);
        let asked = Instant::now();
        match api.poll_json::<Vec<SessionInfo>>(request, index, poll::wait()).await {
            Ok(polled) => {
                index = polled.index;
                tell.send_replace(Some(polled.value.into_iter().map(|s| s.id).collect()));
                // A change is told at once; if they come one after the other, some at a time.
                quick = if asked.elapsed() < PAUSE { quick + 1 } else { 0 };
                if quick > AT_ONCE {
                    tokio::time::sleep(PAUSE).await;
                }
            }
            // Whatever it is: the heartbeats tell if it is serious.
            Err(error) => index = poll::ride_out(error.retryable(true)).await.unwrap_or(0),
        }
    }
}
