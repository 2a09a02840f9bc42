use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tooz_core::kit::locked;
use tooz_core::{Error, ErrorKind, Moment, Outcome, Result};

use crate::error;
use crate::lines::Lines;
use crate::request::Request;
use crate::response::Response;
use crate::settings::{Endpoint, Settings, Tls, TlsFiles};

/// How many bytes the body of an answer may have, or a line of it: 64 MiB, which is more than any
/// right answer to a driver (10,000 members with 6 KiB of capabilities each) and no danger to a
/// process.
pub const LARGEST_ANSWER: usize = 64 << 20;

/// A connection that nobody uses is closed after this time.
const IDLE: Duration = Duration::from_secs(30);
/// A peer whose machine is gone is noticed by the probes of TCP after 5 + 3 x 2 s, so that a long
/// poll does not wait out its time for nothing.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(5), Duration::from_secs(2), 3);

/// How often the files of certificates are looked at, if anything is asked.
const LOOK: Duration = Duration::from_secs(1);

#[cfg(feature = "tls")]
type Connector = hyper_rustls::HttpsConnector<HttpConnector>;
#[cfg(not(feature = "tls"))]
type Connector = HttpConnector;

/// A client of one or more servers that are the same service. Clones share their connections.
///
/// Use it within a Tokio runtime. Dropping the future of a call closes its connection; whether the
/// server carried out the request is unknown then.
#[derive(Clone)]
pub struct Http(Arc<Inner>);

struct Inner {
    settings: Settings,
    connections: Mutex<Connections>,
    /// The endpoint to ask first.
    preferred: AtomicUsize,
}

/// With the certificates that were read last.
struct Connections {
    connector: Connector,
    client: Client<Connector, Full<Bytes>>,
    /// Since when the client makes them.
    since: Moment,
    tls: Option<Tls>,
    /// When the files were looked at.
    looked: Moment,
}

impl Http {
    /// A client. It connects when it is asked something.
    ///
    /// Fails if there is no endpoint, or if a certificate or key cannot be used.
    pub fn new(settings: Settings) -> Result<Self> {
        if settings.endpoints.is_empty() {
            return Err(Error::invalid("there is no server to connect to"));
        }
        let tls = settings.tls.clone();
        let connector = connector(&settings, tls.as_ref())?;
        let (client, since) = (client(&settings, &connector), Moment::now());
        let connections = Connections { connector, client, since, tls, looked: since };
        let connections = Mutex::new(connections);
        Ok(Self(Arc::new(Inner { settings, connections, preferred: AtomicUsize::new(0) })))
    }

    /// The endpoints, in the order given.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.0.settings.endpoints
    }

    /// Sends a request and waits for the whole answer, whatever its status.
    ///
    /// Every endpoint is tried at most once, each attempt within the request's time limit. An error
    /// has [`Outcome::NotApplied`] only if none of the attempts can have reached a server.
    pub async fn send(&self, request: &Request) -> Result<Response> {
        self.try_each(request, |endpoint| async move {
            let (head, sent) = self.attempt(request, endpoint).await?;
            whole(head, sent, endpoint).await
        })
        .await
    }

    /// Sends a request and gives the answer's body line by line; the answer itself as an error if
    /// its status is not 2xx.
    pub async fn open(&self, request: &Request) -> Result<Lines> {
        self.try_each(request, |endpoint| async move {
            let (head, sent) = self.attempt(request, endpoint).await?;
            if head.status().is_success() {
                return Ok(Lines::new(head.into_body(), sent, endpoint));
            }
            Err(whole(head, sent, endpoint).await?.error())
        })
        .await
    }

    /// Asks another endpoint first from now on, if this one is still the first: a server that
    /// answers can be of no use even so.
    pub fn avoid(&self, endpoint: usize) {
        let next = (endpoint + 1) % self.endpoints().len();
        let order = Ordering::Relaxed;
        // Fails if somebody else has moved on already.
        let _ = self.0.preferred.compare_exchange(endpoint, next, order, order);
    }

    /// Uses no connection again that there was at that moment, when a request was sent that got no
    /// answer: the others may be dead too. Requests under way continue.
    pub fn reconnect(&self, sent: Moment) {
        let mut connections = self.connections();
        if connections.since <= sent {
            connections.client = client(&self.0.settings, &connections.connector);
            connections.since = Moment::now();
        }
    }

    /// Makes an attempt, within the request's time limit, at one endpoint after the other.
    async fn try_each<T, F: Future<Output = Result<T>>>(
        &self,
        request: &Request,
        attempt: impl Fn(usize) -> F,
    ) -> Result<T> {
        let count = self.endpoints().len();
        let (first, attempts) = match request.endpoint {
            Some(endpoint) if endpoint < count => (endpoint, 1),
            Some(_) => return Err(Error::new(ErrorKind::Internal, "there is no such endpoint")),
            None => (self.0.preferred.load(Ordering::Relaxed) % count, count),
        };
        let limit = request.limit.unwrap_or(self.0.settings.response_timeout);
        let mut outcome = Outcome::NotApplied;
        let mut endpoints = (0..attempts).map(|step| (first + step) % count).peekable();
        loop {
            let Some(endpoint) = endpoints.next() else {
                return Err(Error::new(ErrorKind::Internal, "there is no endpoint"));
            };
            let begun = Moment::now();
            let attempted = tokio::time::timeout(limit, attempt(endpoint)).await;
            let attempted = attempted.unwrap_or_else(|_| {
                self.reconnect(begun);
                Err(error::timed_out())
            });
            match attempted {
                Ok(done) => return Ok(done),
                Err(error) => {
                    if request.endpoint.is_none() {
                        self.avoid(endpoint);
                    }
                    if error.outcome() != Outcome::NotApplied {
                        outcome = error.outcome();
                    }
                    let may_go_on = request.repeatable || outcome == Outcome::NotApplied;
                    if !may_go_on || endpoints.peek().is_none() {
                        let server = &self.endpoints()[endpoint];
                        return Err(error.outcome_is(outcome).with("server", server));
                    }
                }
            }
        }
    }

    /// Sends the request to one endpoint; the head of the answer.
    async fn attempt(
        &self,
        request: &Request,
        endpoint: usize,
    ) -> Result<(hyper::Response<Incoming>, Moment)> {
        let settings = &self.0.settings;
        let scheme = if settings.tls.is_some() { "https" } else { "http" };
        let uri = format!("{scheme}://{}{}", settings.endpoints[endpoint], request.target());
        let mut built = hyper::Request::builder().method(&request.method).uri(uri);
        if let Some(headers) = built.headers_mut() {
            headers.extend(settings.headers.iter().cloned());
            headers.extend(request.headers.iter().cloned());
        }
        let built = built.body(Full::new(request.body.clone())).map_err(|e| {
            Error::invalid("the server's name or the path cannot be part of a URL").caused_by(e)
        })?;
        let client = self.client().await;
        let sent = Moment::now();
        let head = client.request(built).await.map_err(error::failed)?;
        Ok((head, sent))
    }
}

impl Http {
    /// The connections, remade if the certificates have changed.
    async fn client(&self) -> Client<Connector, Full<Bytes>> {
        let settings = &self.0.settings;
        let server_name = {
            let mut connections = self.connections();
            let is_due = settings.tls_files != TlsFiles::default()
                && (connections.looked + LOOK).has_passed();
            if !is_due {
                return connections.client.clone();
            }
            connections.looked = Moment::now();
            connections.tls.as_ref().and_then(|tls| tls.server_name.clone())
        };
        let files = settings.tls_files.clone();
        // Files may be on a slow disk.
        let read = tokio::task::spawn_blocking(move || files.read(server_name)).await;
        let mut connections = self.connections();
        if let Ok(Ok(tls)) = read
            && connections.tls.as_ref().is_some_and(|old| *old != tls)
            && let Ok(connector) = connector(settings, Some(&tls))
        {
            let client = client(settings, &connector);
            let since = Moment::now();
            *connections = Connections { connector, client, since, tls: Some(tls), ..*connections };
        }
        connections.client.clone()
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        locked(&self.0.connections)
    }
}

fn client(settings: &Settings, connector: &Connector) -> Client<Connector, Full<Bytes>> {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(settings.most_idle)
        .build(connector.clone())
}

fn connector(settings: &Settings, tls: Option<&Tls>) -> Result<Connector> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(settings.connect_timeout));
    http.set_keepalive(Some(KEEPALIVE.0));
    http.set_keepalive_interval(Some(KEEPALIVE.1));
    http.set_keepalive_retries(Some(KEEPALIVE.2));
    #[cfg(feature = "tls")]
    return crate::tls::connector(http, tls);
    #[cfg(not(feature = "tls"))]
    match tls {
        None => Ok(http),
        Some(_) => Err(Error::not_implemented("TLS (the feature tls of tooz-http)")),
    }
}

/// The answer with its whole body.
async fn whole(head: hyper::Response<Incoming>, sent: Moment, endpoint: usize) -> Result<Response> {
    let (head, body) = head.into_parts();
    let body = Limited::new(body, LARGEST_ANSWER).collect().await.map_err(error::unread)?;
    let (status, headers) = (head.status.as_u16(), head.headers);
    Ok(Response { status, headers, body: body.to_bytes(), sent, endpoint })
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("settings", &self.0.settings).finish_non_exhaustive()
    }
}
