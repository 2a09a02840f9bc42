//! The way to the servers, which is made anew when it has gone silent.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;
use tooz_core::{Error, ErrorKind, Outcome, Result};
use tooz_http::{Http, Request, Response, Settings};
use tracing::debug;

/// How many answers of an only server in a row may fail to come in time, the last of which costs the
/// connections. It may just be slow; but that two heartbeats go unanswered and a third is answered
/// over a new connection must fit into a time to live. Of several servers the next is asked at once.
const SILENCES: u32 = 2;

/// Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Connection(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    settings: Settings,
    present: Mutex<Arc<Present>>,
}

/// A client with its connections, until something goes wrong with them.
#[derive(Debug)]
struct Present {
    http: Http,
    silences: AtomicU32,
    broken: CancellationToken,
}

impl Present {
    fn new(http: Http) -> Arc<Self> {
        let (silences, broken) = (AtomicU32::new(0), CancellationToken::new());
        Arc::new(Self { http, silences, broken })
    }
}

impl Connection {
    pub(crate) fn new(settings: Settings) -> Result<Self> {
        let present = Mutex::new(Present::new(Http::new(settings.clone())?));
        Ok(Self(Arc::new(Shared { settings, present })))
    }

    /// Sends a request that is answered soon.
    pub(crate) async fn send(&self, request: &Request) -> Result<Response> {
        let present = self.present();
        let answer = present.http.send(request).await;
        match &answer {
            Ok(_) => present.silences.store(0, Ordering::Relaxed),
            Err(error) if error.kind() == ErrorKind::TimedOut => self.bear(&present),
            Err(_) => {}
        }
        answer
    }

    /// Sends a request that is answered when something happens. It fails when the connections have
    /// gone silent, on which it would wait for ever.
    pub(crate) async fn poll(&self, request: &Request) -> Result<Response> {
        let present = self.present();
        tokio::select! {
            answer = present.http.send(request) => answer,
            () = present.broken.cancelled() => {
                Err(Error::new(ErrorKind::Connection, "the connection went silent")
                    .outcome_is(Outcome::NotApplied))
            }
        }
    }

    fn present(&self) -> Arc<Present> {
        self.0.present.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts a silence, and gives the connections up when it was the last one.
    fn bear(&self, silent: &Arc<Present>) {
        let is_only = silent.http.endpoints().len() == 1;
        if is_only && silent.silences.fetch_add(1, Ordering::Relaxed) + 1 < SILENCES {
            return;
        }
        // An only server's other idle connections are as dead. Of several, the client has gone on
        // to the next already.
        let http = match is_only {
            true => Http::new(self.0.settings.clone()),
            false => Ok(silent.http.clone()),
        };
        match http {
            Ok(http) => self.replace(silent, http),
            Err(error) => debug!(%error, "the connections stay as they are"),
        }
    }

    /// Unless somebody else has done so.
    fn replace(&self, old: &Arc<Present>, http: Http) {
        let mut present = self.0.present.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&present, old) {
            *present = Present::new(http);
        }
        old.broken.cancel();
    }
}
