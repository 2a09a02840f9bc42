//! Calls that survive the server's troubles: another server, a new token, once more.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tooz_core::kit::locked;
use tooz_core::{Error, ErrorKind, Lease, Moment, OperationId, Outcome, Result, RetryPolicy};
use tracing::debug;

use crate::config::Config;
use crate::connection::{Attached, Connector, Events, Transport};
use crate::errors::{Failure, Remedy, code};
use crate::txn::{Event, KeyValue, Range, Txn, TxnReply};

/// The first pause between attempts and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(300));

/// How many answers in a row may fail to come in time over the connection to an only server, the
/// last of which costs the connection. It may just be slow, and a new connection with new watches
/// would be more to do for it; but that two heartbeats go unanswered and a third is answered over a
/// new connection must fit into a time to live: see [`Config::heartbeat_timeout`].
const SILENCES: u32 = 2;

/// How long the opening of a session goes on. With what is under way then, it is over before the
/// engine gives up, which would not know why.
const OPENING: Duration = Duration::from_secs(15);

/// A session's connection to its cluster.
#[derive(Debug)]
pub(crate) struct Client {
    config: Arc<Config>,
    connector: Arc<dyn Connector>,
    connection: Mutex<Option<Arc<Connection>>>,
    /// Locked while a connection is made, so that one is made for all who need it.
    connecting: tokio::sync::Mutex<()>,
    /// The endpoint to try next.
    next: AtomicUsize,
    token: Mutex<Option<Arc<str>>>,
    /// Locked while somebody logs in for all, and how that failed last. A login is expensive: the server
    /// hashes the password.
    login: tokio::sync::Mutex<Option<(Moment, Failure)>>,
    /// The session's, which is in doubt while there is no connection.
    lease: OnceLock<Lease>,
    /// When to give up on the session that is being opened; `None` once it is.
    opening: Mutex<Option<Moment>>,
    /// From then on nothing is repeated.
    ended: CancellationToken,
}

/// A connection, until something goes wrong with it.
#[derive(Debug)]
struct Connection {
    transport: Arc<dyn Transport>,
    endpoint: usize,
    /// Whether it has ever answered.
    answers: AtomicBool,
    /// How many answers in a row did not come in time.
    silences: AtomicU32,
    broken: CancellationToken,
}

/// The answer to a call.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    pub(crate) value: T,
    /// The moment before the request was sent.
    sent: Moment,
    /// Whether an earlier attempt may have been carried out.
    pub(crate) again: bool,
    connection: Arc<Connection>,
}

/// One of the methods of a transport.
type Method<A, T> = for<'a> fn(&'a dyn Transport, Option<&'a str>, &'a A) -> Reply<'a, T>;
type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'a>>;

impl Client {
    pub(crate) fn new(config: Arc<Config>, connector: Arc<dyn Connector>) -> Self {
        Self {
            config,
            connector,
            connection: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            next: AtomicUsize::new(0),
            token: Mutex::default(),
            login: tokio::sync::Mutex::default(),
            lease: OnceLock::new(),
            opening: Mutex::default(),
            ended: CancellationToken::new(),
        }
    }

    /// A session is being opened, or is open now. While it is being opened, calls fail once each
    /// server was tried without success, and an answer takes no longer than a connection may:
    /// somebody waits for it, who can try again.
    pub(crate) fn set_opening(&self, opening: bool) {
        *locked(&self.opening) = opening.then(|| Moment::now() + OPENING);
    }

    /// The session whose calls these are.
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

    /// Reads keys, all at one moment.
    pub(crate) async fn read<const N: usize>(
        &self,
        keys: [Vec<u8>; N],
    ) -> Result<[Option<KeyValue>; N]> {
        let reads = keys.into_iter().map(|key| Range::key(key).get()).collect();
        Ok(self.txn(&Txn::of(reads)).await?.value.keys())
    }

    /// Makes a lease of the session's time to live: its number, and a moment before it was made. At
    /// least what is asked for is granted, so that much can be relied on.
    pub(crate) async fn grant(&self) -> Result<(i64, Moment)> {
        let (lease, began) = (random_lease(), Moment::now());
        match self.call(&(lease, self.config.ttl), |to, token, lease| to.grant(token, lease)).await
        {
            Ok(answer) => Ok((lease, answer.sent)),
            // Nobody else has its number, so an earlier attempt of this call made it.
            Err(error) if error.outcome() == Outcome::Unknown && exists_already(&error) => {
                Ok((lease, began))
            }
            Err(error) => Err(error),
        }
    }

    /// Renews a lease: the moment before the request was sent; `None` if there is no such lease.
    pub(crate) async fn keep_alive(&self, lease: i64) -> Result<Option<Moment>> {
        let limit = self.config.heartbeat_timeout();
        let renewed = self.attempt(&lease, |to, token, lease| to.keep_alive(token, lease), limit);
        let renewed = renewed.await?;
        Ok((renewed.value > 0).then_some(renewed.sent))
    }

    /// A lease that is gone already counts as revoked.
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
        let Answer { value: events, connection, .. } = watched.await?;
        Ok(Watch { events, broken: connection.broken.clone(), ended: self.ended.clone() })
    }

    async fn call<A, T>(&self, arguments: &A, method: Method<A, T>) -> Result<Answer<T>> {
        self.attempt(arguments, method, self.config.response_timeout).await
    }

    /// Repeats a call for as long as that can help and there is time. `limit` is how long an answer
    /// may take; after [`SILENCES`] it is no less than what any answer may take.
    async fn attempt<A, T>(
        &self,
        arguments: &A,
        method: Method<A, T>,
        mut limit: Duration,
    ) -> Result<Answer<T>> {
        let opening = *locked(&self.opening);
        let until = Moment::now() + self.config.request_timeout;
        let until = opening.map_or(until, |opening| opening.min(until));
        limit = limit.min(self.answer_timeout());
        let (mut again, mut refused, mut out_of_reach, mut silences) = (false, 0, 0, 0);
        let mut pauses = RetryPolicy::new(PAUSE.0, PAUSE.1).backoff();
        loop {
            let sent = Moment::now();
            let failure = match self.attempt_once(arguments, method, limit).await {
                Ok((value, connection)) => return Ok(Answer { value, sent, again, connection }),
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
            // A token that has expired is replaced at once; a server that refuses new ones, too, gets
            // time to come to itself.
            if failure.remedy() != Remedy::Authenticate || refused > 1 {
                tokio::select! {
                    () = pauses.pause() => {}
                    () = self.ended.cancelled() => {}
                }
            }
        }
    }

    async fn attempt_once<A, T>(
        &self,
        arguments: &A,
        method: Method<A, T>,
        limit: Duration,
    ) -> Result<(T, Arc<Connection>), Failure> {
        let connection = self.connection().await?;
        let server = || self.config.endpoints[connection.endpoint].authority();
        let token = self.token(&connection).await.map_err(|failure| failure.at(server()))?;
        let call = method(&*connection.transport, token.as_deref(), arguments);
        match within(limit, call).await {
            Ok(value) => {
                connection.silences.store(0, Ordering::Relaxed);
                connection.answers.store(true, Ordering::Relaxed);
                Ok((value, connection))
            }
            Err(failure) => {
                let mut failure = failure.at(server());
                if failure.is_refusal() {
                    self.give_up(&connection);
                    // The certificates were accepted before, so there may be others by now, which a
                    // new connection reads.
                    if connection.answers.load(Ordering::Relaxed) {
                        failure = Failure::unreachable(failure);
                    }
                }
                match failure.remedy() {
                    Remedy::Elsewhere if self.tolerates(&connection, &failure) => self.suspend(),
                    Remedy::Elsewhere => self.give_up(&connection),
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
        let is_opening = locked(&self.opening).is_some();
        if is_opening { limit.min(self.config.connect_timeout) } else { limit }
    }

    /// How long a login may take. A server may have to check many passwords, each of which takes its
    /// processor a tenth of a second by default, and a login that is given up is begun anew. While
    /// nothing depends on the session yet, it has all the time that is left, if each server has as
    /// much.
    fn login_timeout(&self) -> Duration {
        let left = locked(&self.opening).map(Moment::remaining).unwrap_or_default();
        let servers = u32::try_from(self.config.endpoints.len()).unwrap_or(u32::MAX);
        self.answer_timeout().max(left / servers.max(1))
    }

    // ---- The connection.

    /// The present connection, or a new one to the first server that can be reached.
    async fn connection(&self) -> Result<Arc<Connection>, Failure> {
        let _connecting = match self.present() {
            Some(connection) => return Ok(connection),
            None => self.connecting.lock().await,
        };
        if let Some(connection) = self.present() {
            return Ok(connection);
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
                    let connection = Arc::new(Connection {
                        transport,
                        endpoint,
                        answers: AtomicBool::new(false),
                        silences: AtomicU32::new(0),
                        broken: CancellationToken::new(),
                    });
                    *locked(&self.connection) = Some(connection.clone());
                    return Ok(connection);
                }
                Err(failure) => last = Some(failure.at(endpoints[endpoint].authority())),
            }
        }
        self.suspend();
        Err(last.unwrap_or_else(|| Failure::unreachable("there is no server")))
    }

    fn present(&self) -> Option<Arc<Connection>> {
        locked(&self.connection).clone()
    }

    /// Something is wrong with the connection: the next call takes another, to the next server, and
    /// its watches end.
    fn give_up(&self, connection: &Arc<Connection>) {
        let mut present = locked(&self.connection);
        if present.as_ref().is_some_and(|present| Arc::ptr_eq(present, connection)) {
            *present = None;
            let next = (connection.endpoint + 1) % self.config.endpoints.len();
            self.next.store(next, Ordering::Relaxed);
            self.suspend();
        }
        connection.broken.cancel();
    }

    /// Whether the connection is kept in spite of the failure.
    fn tolerates(&self, connection: &Connection, failure: &Failure) -> bool {
        let is_only = self.config.endpoints.len() == 1;
        is_only
            && failure.is_timeout()
            && connection.silences.fetch_add(1, Ordering::Relaxed) + 1 < SILENCES
    }

    fn suspend(&self) {
        if let Some(lease) = self.lease.get() {
            lease.suspend();
        }
    }

    // ---- The user.

    async fn token(&self, connection: &Arc<Connection>) -> Result<Option<Arc<str>>, Failure> {
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
        let login = connection.transport.authenticate(user, password.expose());
        match within(self.login_timeout(), login).await {
            Ok(token) => {
                let token: Arc<str> = token.into();
                *locked(&self.token) = Some(token.clone());
                Ok(Some(token))
            }
            Err(failure) => {
                if failure.remedy() == Remedy::Elsewhere {
                    self.give_up(connection);
                }
                *last = Some((Moment::now(), failure.clone()));
                Err(failure)
            }
        }
    }

    fn present_token(&self) -> Option<Arc<str>> {
        locked(&self.token).clone()
    }

    fn forget_token(&self, refused: Option<&Arc<str>>) {
        let mut token = locked(&self.token);
        if token.as_ref().zip(refused).is_some_and(|(token, refused)| Arc::ptr_eq(token, refused)) {
            *token = None;
        }
    }
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::time::timeout(limit, call).await.unwrap_or_else(|_| Err(Failure::timed_out()))
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
            () = self.broken.cancelled() => Err(over("the connection was abandoned")),
            () = self.ended.cancelled() => Err(over("the session is over")),
        }
    }
}

fn over(why: &str) -> Error {
    Error::new(ErrorKind::Connection, why).outcome_is(Outcome::NotApplied)
}

/// A number for a lease that nobody else has.
fn random_lease() -> i64 {
    let [bytes @ .., _, _, _, _, _, _, _, _] = *OperationId::random().as_bytes();
    // 0 and below are not numbers of leases.
    (i64::from_be_bytes(bytes) & i64::MAX).max(1)
}

/// Whether a lease could not be made because there is one of its number.
fn exists_already(error: &Error) -> bool {
    error.cause::<Failure>().is_some_and(|failure| failure.is(code::FAILED_PRECONDITION))
}

#[cfg(test)]
mod tests {
    use tooz_core::{Options, async_trait};

    use super::*;
    use crate::config::{Defaults, Endpoint};

    /// A server that makes a lease, and whose first answer is lost.
    #[derive(Debug, Default)]
    struct Lossy {
        made: OnceLock<Moment>,
    }

    #[async_trait]
    impl Connector for Arc<Lossy> {
        async fn connect(&self, _: &Endpoint) -> Result<Arc<dyn Transport>, Failure> {
            Ok(Arc::new(self.clone()))
        }
    }

    #[async_trait]
    impl Transport for Arc<Lossy> {
        async fn grant(&self, _: Option<&str>, _: &(i64, u64)) -> Result<(), Failure> {
            match self.made.set(Moment::now()) {
                Ok(()) => Err(Failure::broken("the connection is cut")),
                Err(_) => Err(Failure::status(code::FAILED_PRECONDITION, "lease already exists")),
            }
        }

        async fn authenticate(&self, _: &str, _: &str) -> Result<String, Failure> {
            Err(Failure::unexpected_answer())
        }

        async fn txn(&self, _: Option<&str>, _: &Txn) -> Result<TxnReply, Failure> {
            Err(Failure::unexpected_answer())
        }

        async fn keep_alive(&self, _: Option<&str>, _: &i64) -> Result<u64, Failure> {
            Err(Failure::unexpected_answer())
        }

        async fn revoke(&self, _: Option<&str>, _: &i64) -> Result<(), Failure> {
            Err(Failure::unexpected_answer())
        }

        async fn attached(&self, _: Option<&str>, _: &i64) -> Result<Attached, Failure> {
            Err(Failure::unexpected_answer())
        }

        async fn watch(&self, _: Option<&str>, _: &Range) -> Result<Box<dyn Events>, Failure> {
            Err(Failure::unexpected_answer())
        }
    }

    #[tokio::test]
    async fn a_lease_counts_from_before_the_request_that_made_it() {
        let url = "etcd3://".parse().unwrap();
        let defaults = Defaults { backend: "etcd3", tls: false };
        let config = Config::read(&url, &mut Options::of(&url), defaults).unwrap();
        let server = Arc::new(Lossy::default());
        let client = Client::new(Arc::new(config), Arc::new(server.clone()));
        let (_, sent) = client.grant().await.unwrap();
        assert!(sent <= *server.made.get().unwrap());
    }
}
