//! The way to the servers, which is made anew when it has gone silent.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;
use tooz_core::{Error, ErrorKind, Outcome, Result};
use tooz_http::{Http, Request, Response};
use tracing::debug;

use crate::config::Config;

/// How many answers of an only server in a row may fail to come in time, the last of which costs the
/// connections. It may just be slow; but that two heartbeats go unanswered and a third is answered
/// over a new connection must fit into a time to live. Of several servers the next is asked at once.
const SILENCES: u32 = 2;

/// Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Connection(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: Arc<Config>,
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
    pub(crate) fn new(config: &Arc<Config>) -> Result<Self> {
        let present = Mutex::new(Present::new(Http::new(config.settings()?)?));
        Ok(Self(Arc::new(Shared { config: config.clone(), present })))
    }

    /// Sends a request that is answered soon.
    pub(crate) async fn send(&self, request: &Request) -> Result<Response> {
        let present = self.present();
        let answer = present.http.send(request).await;
        match &answer {
            Ok(_) => present.silences.store(0, Ordering::Relaxed),
            Err(error) if error.kind() == ErrorKind::TimedOut => self.bear(&present),
            // The certificates may have been replaced since they were read.
            Err(error) if is_refusal(error) && self.renew(&present) => {
                return self.present().http.send(request).await;
            }
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
        if is_only {
            // Its other idle connections are as dead.
            self.renew(silent);
        } else {
            // The client has gone on to the next already; the long polls go on there too.
            self.replace(silent, silent.http.clone());
        }
    }

    /// Makes a new client, with the certificates as they are now; whether it could.
    fn renew(&self, old: &Arc<Present>) -> bool {
        match self.0.config.settings().and_then(Http::new) {
            Ok(http) => self.replace(old, http),
            Err(error) => {
                debug!(%error, "the connections stay as they are");
                return false;
            }
        }
        true
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

/// Whether one side refused the other's certificate: what the server says is an answer.
fn is_refusal(error: &Error) -> bool {
    error.kind() == ErrorKind::Authentication
}
