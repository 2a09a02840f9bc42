//! The way to an agent. All coordinators of a process share it that use the agent alike.
//!
//! An agent takes 200 connections from one host by default, from all processes together, and closes
//! the rest. So a process has few for ordinary requests, which queue for them; some that heartbeats
//! alone use, so that no burst costs a session; and some for blocking queries.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tooz_core::{Error, ErrorKind, Moment, Outcome, Result};
use tooz_http::{Endpoint, Http, Request, Response, Settings};

use crate::lookout::Lookout;
use crate::roll::Roll;
use crate::token::Token;

/// What a process may have under way with an agent at a time.
const REQUESTS: usize = 16;
const HEARTBEATS: usize = 16;
/// Blocking queries about one key each, and about a group each.
const WAITS: usize = 16;
const WATCHES: usize = 8;

/// How long a request may wait for its turn. It is for the case that the server answers nobody: a
/// burst is to get through, and who gives up and asks again is the last in the queue.
const QUEUE: Duration = Duration::from_secs(20);

/// How many connections of blocking queries are kept while nobody uses them. Of the others all are,
/// for a while: to make new ones costs more.
const IDLE_POLLS: usize = 8;

/// What agents are reached by, and how.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Access {
    pub(crate) http: Settings,
    pub(crate) token: Option<Token>,
    /// Datacenter and, with Consul Enterprise, namespace.
    pub(crate) scope: Vec<(&'static str, String)>,
    /// What all keys begin with.
    pub(crate) namespace: String,
    pub(crate) response_timeout: Duration,
    pub(crate) heartbeat_timeout: Duration,
}

/// Which connections a request may use.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lane {
    Requests,
    Heartbeats,
    /// Who asks has a [`Permit`], or asks for many.
    Polls,
}

/// The right to a blocking query of one's own.
pub(crate) type Permit = OwnedSemaphorePermit;

#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) access: Access,
    limits: Arc<Limits>,
    requests: Http,
    heartbeats: Http,
    polls: Http,
    pub(crate) rolls: Mutex<HashMap<String, Weak<Roll>>>,
    pub(crate) lookout: Mutex<Weak<Lookout>>,
}

/// Of all who use the same servers, whatever their tokens and times.
#[derive(Debug)]
struct Limits {
    requests: Semaphore,
    heartbeats: Semaphore,
    waits: Arc<Semaphore>,
    watches: Arc<Semaphore>,
}

impl Agent {
    /// A way of one's own, whose connections live within the runtime that uses it.
    pub(crate) fn new(access: Access) -> Result<Self> {
        let lane = |most_idle| access.http.clone().most_idle(most_idle);
        let requests = Http::new(lane(REQUESTS))?;
        let heartbeats = lane(HEARTBEATS).response_timeout(access.heartbeat_timeout);
        let (heartbeats, polls) = (Http::new(heartbeats)?, Http::new(lane(IDLE_POLLS))?);
        let limits = Limits::of(requests.endpoints());
        let (rolls, lookout) = Default::default();
        Ok(Self { access, limits, requests, heartbeats, polls, rolls, lookout })
    }

    /// The one that others use already, if there is such a one: for the engine alone, whose runtime
    /// outlives all.
    pub(crate) fn shared(self: Arc<Self>) -> Arc<Self> {
        static AGENTS: Mutex<Vec<Weak<Agent>>> = Mutex::new(Vec::new());
        let mut agents = lock(&AGENTS);
        agents.retain(|agent| agent.strong_count() > 0);
        let found = agents.iter().filter_map(Weak::upgrade).find(|a| a.access == self.access);
        found.unwrap_or_else(|| {
            agents.push(Arc::downgrade(&self));
            self
        })
    }

    /// How many servers there are to choose from.
    pub(crate) fn servers(&self) -> usize {
        self.requests.endpoints().len()
    }

    /// Sends a request as soon as its turn comes.
    pub(crate) async fn send(&self, lane: Lane, request: &Request) -> Result<Response> {
        let Limits { requests, heartbeats, .. } = &*self.limits;
        let (http, permits) = match lane {
            Lane::Polls => return self.polls.send(request).await,
            Lane::Requests => (&self.requests, requests),
            Lane::Heartbeats => (&self.heartbeats, heartbeats),
        };
        let turn = tokio::time::timeout(QUEUE, permits.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(busy()) };
        let sent = Moment::now();
        let answer = http.send(request).await;
        if matches!(lane, Lane::Heartbeats)
            && answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::TimedOut)
        {
            // What heartbeats find dead costs nobody else the time to find out.
            self.requests.reconnect(sent);
        }
        answer
    }

    /// Asks another server first from now on.
    pub(crate) fn avoid(&self, server: usize) {
        for http in [&self.requests, &self.heartbeats, &self.polls] {
            http.avoid(server);
        }
    }

    /// A blocking query about a key; `None` if there are enough.
    pub(crate) fn try_wait(&self) -> Option<Permit> {
        self.limits.waits.clone().try_acquire_owned().ok()
    }

    /// A blocking query about a group; `None` if there are enough.
    pub(crate) fn try_watch(&self) -> Option<Permit> {
        self.limits.watches.clone().try_acquire_owned().ok()
    }
}

impl Limits {
    fn of(servers: &[Endpoint]) -> Arc<Self> {
        static LIMITS: Mutex<Vec<(Vec<Endpoint>, Weak<Limits>)>> = Mutex::new(Vec::new());
        let mut all = lock(&LIMITS);
        all.retain(|(_, limits)| limits.strong_count() > 0);
        let same = all.iter().find(|(of, _)| of == servers);
        if let Some(limits) = same.and_then(|(_, limits)| limits.upgrade()) {
            return limits;
        }
        let limits = Arc::new(Self {
            requests: Semaphore::new(REQUESTS),
            heartbeats: Semaphore::new(HEARTBEATS),
            waits: Arc::new(Semaphore::new(WAITS)),
            watches: Arc::new(Semaphore::new(WATCHES)),
        });
        all.push((servers.to_owned(), Arc::downgrade(&limits)));
        limits
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is locked, so it is whole even if poisoned.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn busy() -> Error {
    Error::new(ErrorKind::TimedOut, "too many requests of this process wait for their turn")
        .outcome_is(Outcome::NotApplied)
}
