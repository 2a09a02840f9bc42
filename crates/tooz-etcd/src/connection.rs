//! The connections to the servers, which are remade when they have gone silent.

use std::sync::{Arc, Mutex};

use tokio_util::sync::CancellationToken;
use tooz_core::kit::locked;
use tooz_core::{Error, ErrorKind, Outcome, Result};
use tooz_http::{Http, Request, Response};
use tracing::debug;

use crate::config::Config;

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
    broken: CancellationToken,
}

impl Present {
    fn new(http: Http) -> Arc<Self> {
        Arc::new(Self { http, broken: CancellationToken::new() })
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
            // The client no longer uses the connections of before, and asks another server next
            // if there is one; the long polls continue there too.
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                self.replace(&present, present.http.clone());
            }
            // The certificates may have been replaced since they were read.
            Err(error) if is_refusal(error) && self.renew(&present) => {
                return self.present().http.send(request).await;
            }
            _ => {}
        }
        answer
    }

    /// Sends a request that is answered when something happens. It fails when the connections have
    /// gone silent, over which it would wait for ever.
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
        locked(&self.0.present).clone()
    }

    /// Makes a new client, with the certificates as they are now; whether it could.
    fn renew(&self, old: &Arc<Present>) -> bool {
        match self.0.config.settings().and_then(Http::new) {
            Ok(http) => self.replace(old, http),
            Err(error) => {
                debug!(%error, "the old connections stay in use");
                return false;
            }
        }
        true
    }

    /// Unless somebody else has done so.
    fn replace(&self, old: &Arc<Present>, http: Http) {
        let mut present = locked(&self.0.present);
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
