//! Calls that survive the server's troubles: another server, a new token, once more.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tooz_core::{Error, ErrorKind, Lease, Moment, Outcome, Result};
use tracing::debug;

use crate::config::Config;
use crate::failure::{Failure, Remedy, code};
use crate::transport::{Attached, Connector, Event, Events, Range, Transport, Txn, TxnReply};

/// The pauses between attempts double from the first to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(300));

/// How many answers in a row may fail to come in time over the connection to an only server, the
/// last of which costs the connection. It may just be slow, and a new connection with new watches
/// would be more to do for it; but that two heartbeats go unanswered and a third is answered over a
/// new connection must fit into a time to live: see [`Config::heartbeat_timeout`].
const SILENCES: u32 = 2;

/// How long the opening of a session goes on. With what is under way then, it is over before the
/// engine gives up, which would not know why.
const OPENING: Duration = Duration::from_secs(15);

/// The way to a cluster.
#[derive(Debug)]
pub(crate) struct Client {
    config: Arc<Config>,
    connector: Arc<dyn Connector>,
    line: Mutex<Option<Arc<Line>>>,
    /// Locked while a connection is made, so that one is made for all who need it.
    dialing: tokio::sync::Mutex<()>,
    /// The endpoint to try next.
    next: AtomicUsize,
    token: Mutex<Option<Arc<str>>>,
    /// Locked while somebody logs in for all, and how that failed last. A login is dear: the server
    /// hashes the password.
    login: tokio::sync::Mutex<Option<(Moment, Failure)>>,
    /// The session's, which is in doubt while there is no connection.
    lease: OnceLock<Lease>,
    /// When to give up on the session that is being opened; `None` once it is.
    opening: Mutex<Option<Moment>>,
    /// Nothing is repeated any more.
    ended: CancellationToken,
}

/// A connection, until something goes wrong with it.
#[derive(Debug)]
struct Line {
    transport: Arc<dyn Transport>,
    endpoint: usize,
    /// Whether it has ever answered.
    answers: AtomicBool,
    /// How many answers in a row did not come in time.
    silences: AtomicU32,
    broken: CancellationToken,
}

/// What a call gave.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    pub(crate) value: T,
    /// The moment before the request was sent.
    pub(crate) sent: Moment,
    /// Whether an earlier attempt may have been carried out.
    pub(crate) again: bool,
}

/// One of the methods of a transport.
type Method<A, T> = for<'a> fn(&'a dyn Transport, Option<&'a str>, &'a A) -> Reply<'a, T>;
type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'a>>;

impl Client {
    pub(crate) fn new(config: Arc<Config>, connector: Arc<dyn Connector>) -> Self {
        Self {
            config,
            connector,
            line: Mutex::default(),
            dialing: tokio::sync::Mutex::default(),
            next: AtomicUsize::new(0),
            token: Mutex::default(),
            login: tokio::sync::Mutex::default(),
            lease: OnceLock::new(),
            opening: Mutex::default(),
            ended: CancellationToken::new(),
        }
    }

    /// A session is being opened, or is open now. Meanwhile servers out of reach are told when each
    /// was tried, and an answer takes no longer than a connection may: somebody waits for it, who
    /// can try again.
    pub(crate) fn opens(&self, opens: bool) {
        *lock(&self.opening) = opens.then(|| Moment::now() + OPENING);
    }

    /// The session that the connection is for.
    pub(crate) fn serve(&self, lease: &Lease) {
        // Each client serves one session.
        let _ = self.lease.set(lease.clone());
    }

    /// From now on each call is tried once, and watches end.
    pub(crate) fn end(&self) {
        self.ended.cancel();
    }

    // ---- Calls.

    pub(crate) async fn txn(&self, txn: &Txn) -> Result<Answer<TxnReply>> {
        self.fits(txn)?;
        self.call(txn, |to, token, txn| to.txn(token, txn)).await
    }

    /// Refuses a transaction that the server would refuse for its size. Nothing of it is sent: the
    /// connection has other things to carry.
    pub(crate) fn fits(&self, txn: &Txn) -> Result<()> {
        let (size, limit) = (txn.size(), self.config.max_request_bytes);
        if size <= limit {
            return Ok(());
        }
        Err(Error::invalid("the name or the capabilities are too large for a request to etcd")
            .with("bytes", size)
            .with("max_request_bytes", limit)
            .on(self.config.backend))
    }

    pub(crate) async fn grant(&self, lease: i64, ttl: u64) -> Result<Answer<()>> {
        self.call(&(lease, ttl), |to, token, lease| to.grant(token, lease)).await
    }

    pub(crate) async fn keep_alive(&self, lease: i64) -> Result<Answer<u64>> {
        let limit = self.config.heartbeat_timeout();
        let renewed = self.attempt(&lease, |to, token, lease| to.keep_alive(token, lease), limit);
        Ok(renewed.await?.0)
    }

    /// What is gone already counts as revoked.
    pub(crate) async fn revoke(&self, lease: i64) -> Result<()> {
        match self.call(&lease, |to, token, lease| to.revoke(token, lease)).await {
            Err(error) if error.kind() != ErrorKind::SessionLost => Err(error),
            _ => Ok(()),
        }
    }

    pub(crate) async fn attached(&self, lease: i64) -> Result<Attached> {
        Ok(self.call(&lease, |to, token, lease| to.attached(token, lease)).await?.value)
    }

    /// Watches a range from now on. What is read after this returned and changes later comes as an
    /// event.
    pub(crate) async fn watch(&self, range: Range) -> Result<Watch> {
        let limit = self.config.response_timeout;
        let watched = self.attempt(&range, |to, token, range| to.watch(token, range), limit);
        let (events, line) = watched.await?;
        let (broken, ended) = (line.broken.clone(), self.ended.clone());
        Ok(Watch { events: events.value, broken, ended })
    }

    async fn call<A, T>(&self, arguments: &A, method: Method<A, T>) -> Result<Answer<T>> {
        Ok(self.attempt(arguments, method, self.config.response_timeout).await?.0)
    }

    /// Repeats a call for as long as that can help and there is time; which connection answered.
    /// `limit` is how long an answer may take; when the silences of a connection are over, it is
    /// no less than what any answer may take.
    async fn attempt<A, T>(
        &self,
        arguments: &A,
        method: Method<A, T>,
        mut limit: Duration,
    ) -> Result<(Answer<T>, Arc<Line>)> {
        let opening = *lock(&self.opening);
        let until = Moment::now() + self.config.patience;
        let until = opening.map_or(until, |opening| opening.min(until));
        limit = limit.min(self.answer_timeout());
        let (mut again, mut refused, mut out_of_reach, mut silences) = (false, 0, 0, 0);
        let mut pause = PAUSE.0;
        loop {
            let sent = Moment::now();
            let failure = match self.attempt_once(arguments, method, limit).await {
                Ok((value, line)) => return Ok((Answer { value, sent, again }, line)),
                Err(failure) => failure,
            };
            again |= failure.may_have_been_applied();
            refused += u32::from(failure.remedy() == Remedy::Authenticate);
            out_of_reach += usize::from(failure.is_out_of_reach());
            silences += u32::from(failure.is_timeout());
            if silences >= SILENCES && opening.is_none() {
                // A server that is slow rather than out of reach gets its chance.
                limit = limit.max(self.config.response_timeout);
            }
            let hopeless = failure.remedy() == Remedy::None
                || refused > 2
                || opening.is_some() && out_of_reach >= self.config.endpoints.len();
            // A lease that the request was to make is there if an earlier attempt made it.
            if hopeless || until.has_passed() || self.ended.is_cancelled() {
                return Err(failure.into_error(again).on(self.config.backend));
            }
            debug!(%failure, "trying again");
            if failure.remedy() != Remedy::Authenticate {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = self.ended.cancelled() => {}
                }
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }

    async fn attempt_once<A, T>(
        &self,
        arguments: &A,
        method: Method<A, T>,
        limit: Duration,
    ) -> Result<(T, Arc<Line>), Failure> {
        let line = self.line().await?;
        let server = || self.config.endpoints[line.endpoint].authority();
        let token = self.token(&line).await.map_err(|failure| failure.at(server()))?;
        let call = method(&*line.transport, token.as_deref(), arguments);
        match self.within(limit, call).await {
            Ok(value) => {
                line.silences.store(0, Ordering::Relaxed);
                line.answers.store(true, Ordering::Relaxed);
                Ok((value, line))
            }
            Err(failure) => {
                let mut failure = failure.at(server());
                if failure.is_refusal() {
                    self.leave(&line);
                    // The certificates were accepted before, so there may be others by now, which a
                    // new connection reads.
                    if line.answers.load(Ordering::Relaxed) {
                        failure = Failure::unreachable(failure);
                    }
                }
                match failure.remedy() {
                    Remedy::Elsewhere if self.bears(&line, &failure) => self.suspend(),
                    Remedy::Elsewhere => self.leave(&line),
                    Remedy::Authenticate => self.forget_token(token.as_ref()),
                    Remedy::Wait | Remedy::None => {}
                }
                Err(failure)
            }
        }
    }

    /// How long any answer may take.
    fn answer_timeout(&self) -> Duration {
        let limit = self.config.response_timeout;
        let is_opening = lock(&self.opening).is_some();
        if is_opening { limit.min(self.config.connect_timeout) } else { limit }
    }

    async fn within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::time::timeout(limit, call).await.unwrap_or_else(|_| Err(Failure::timed_out()))
    }

    // ---- The connection.

    /// The present connection, or a new one to the first server that can be reached.
    async fn line(&self) -> Result<Arc<Line>, Failure> {
        let _dialing = match self.present() {
            Some(line) => return Ok(line),
            None => self.dialing.lock().await,
        };
        if let Some(line) = self.present() {
            return Ok(line);
        }
        let endpoints = &self.config.endpoints;
        let first = self.next.load(Ordering::Relaxed);
        let mut last = None;
        for step in 0..endpoints.len() {
            let endpoint = (first + step) % endpoints.len();
            let connect = self.connector.connect(&endpoints[endpoint]);
            let connected = tokio::time::timeout(self.config.connect_timeout, connect).await;
            match connected.unwrap_or_else(|_| Err(Failure::unreachable("no answer in time"))) {
                Ok(transport) => {
                    self.next.store(endpoint, Ordering::Relaxed);
                    let line = Arc::new(Line {
                        transport,
                        endpoint,
                        answers: AtomicBool::new(false),
                        silences: AtomicU32::new(0),
                        broken: CancellationToken::new(),
                    });
                    *lock(&self.line) = Some(line.clone());
                    return Ok(line);
                }
                Err(failure) => last = Some(failure.at(endpoints[endpoint].authority())),
            }
        }
        self.suspend();
        Err(last.unwrap_or_else(|| Failure::unreachable("there is no server")))
    }

    fn present(&self) -> Option<Arc<Line>> {
        lock(&self.line).clone()
    }

    /// Something is wrong with the connection: the next call takes another, to the next server, and
    /// its watches end.
    fn leave(&self, line: &Arc<Line>) {
        let mut present = lock(&self.line);
        if present.as_ref().is_some_and(|present| Arc::ptr_eq(present, line)) {
            *present = None;
            let next = (line.endpoint + 1) % self.config.endpoints.len();
            self.next.store(next, Ordering::Relaxed);
            self.suspend();
        }
        line.broken.cancel();
    }

    /// Whether the connection is kept all the same.
    fn bears(&self, line: &Line, failure: &Failure) -> bool {
        let is_only = self.config.endpoints.len() == 1;
        is_only
            && failure.is_timeout()
            && line.silences.fetch_add(1, Ordering::Relaxed) + 1 < SILENCES
    }

    fn suspend(&self) {
        if let Some(lease) = self.lease.get() {
            lease.suspend();
        }
    }

    // ---- The user.

    async fn token(&self, line: &Arc<Line>) -> Result<Option<Arc<str>>, Failure> {
        let Some((user, password)) = &self.config.login else { return Ok(None) };
        let asked = Moment::now();
        let mut last = match self.present_token() {
            Some(token) => return Ok(Some(token)),
            None => self.login.lock().await,
        };
        if let Some(token) = self.present_token() {
            return Ok(Some(token));
        }
        if let Some((_, failure)) = last.as_ref().filter(|(failed, _)| *failed > asked) {
            // Somebody else's login, which we waited for: ours would fail too.
            return Err(failure.clone());
        }
        let login = line.transport.authenticate(user, password.expose());
        match self.within(self.answer_timeout(), login).await {
            Ok(token) => {
                let token: Arc<str> = token.into();
                *lock(&self.token) = Some(token.clone());
                Ok(Some(token))
            }
            Err(failure) => {
                if failure.remedy() == Remedy::Elsewhere {
                    self.leave(line);
                }
                *last = Some((Moment::now(), failure.clone()));
                Err(failure)
            }
        }
    }

    fn present_token(&self) -> Option<Arc<str>> {
        lock(&self.token).clone()
    }

    fn forget_token(&self, refused: Option<&Arc<str>>) {
        let mut token = lock(&self.token);
        if token.as_ref().zip(refused).is_some_and(|(token, refused)| Arc::ptr_eq(token, refused)) {
            *token = None;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is locked, so it is whole even if poisoned.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The events of a range. Dropping it ends the watch.
#[derive(Debug)]
pub(crate) struct Watch {
    events: Box<dyn Events>,
    broken: CancellationToken,
    ended: CancellationToken,
}

impl Watch {
    /// The next events; an error when the watch is over. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Vec<Event>> {
        tokio::select! {
            events = self.events.next() => events.map_err(|failure| failure.into_error(false)),
            () = self.broken.cancelled() => Err(over("the connection was given up")),
            () = self.ended.cancelled() => Err(over("the session is over")),
        }
    }
}

fn over(why: &str) -> Error {
    Error::new(ErrorKind::Connection, why).outcome_is(Outcome::NotApplied)
}

/// Whether a lease could not be made because there is one of its id.
pub(crate) fn exists_already(error: &Error) -> bool {
    error.cause::<Failure>().is_some_and(|failure| failure.is(code::FAILED_PRECONDITION))
}
