//! The connections to an agent. All coordinators of a process that use the agent alike share them.
//!
//! An agent takes 200 connections from one host by default, from all processes together, and closes
//! the rest. So a process has few for ordinary requests, which queue for them; some that only
//! heartbeats use, so that no burst costs a session; and some for blocking queries.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tooz_core::{Error, ErrorKind, Moment, Outcome, Result};
use tooz_http::{Endpoint, Http, Request, Response};

use crate::config::Access;
use crate::weak_table::WeakTable;

/// What a process may have under way with an agent at a time.
const REQUESTS: usize = 16;
const HEARTBEATS: usize = 16;
/// Blocking queries about one key each, and about a group each.
const WAITS: usize = 16;
const WATCHES: usize = 8;

/// How long a request may wait for its turn. It is for the case that the server answers nobody: a
/// burst is to get through, and whoever gives up and asks again is the last in the queue.
const QUEUE: Duration = Duration::from_secs(20);

/// How many connections of blocking queries are kept while nobody uses them. Of the others all are,
/// for a while: to make new ones costs more.
const IDLE_POLLS: usize = 8;

/// Which connections a request may use.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lane {
    Requests,
    Heartbeats,
    /// For those who have a [`Permit`], or who ask for many.
    Polls,
}

/// The right to a blocking query of one's own.
pub(crate) type Permit = OwnedSemaphorePermit;

#[derive(Debug)]
pub(crate) struct Connections {
    pub(crate) access: Access,
    pub(crate) token_was_accepted: AtomicBool,
    limits: Arc<Limits>,
    requests: Http,
    heartbeats: Http,
    polls: Http,
}

/// The limits of all that use the same servers, whatever their tokens and times.
#[derive(Debug)]
struct Limits {
    requests: Semaphore,
    heartbeats: Semaphore,
    waits: Arc<Semaphore>,
    watches: Arc<Semaphore>,
}

impl Connections {
    /// New ones, which live within the runtime that uses them.
    pub(crate) fn new(access: Access) -> Result<Self> {
        static LIMITS: WeakTable<Vec<Endpoint>, Limits> = WeakTable::new();
        let lane = |most_idle| access.http.clone().most_idle(most_idle);
        let requests = Http::new(lane(REQUESTS))?;
        let heartbeats = lane(HEARTBEATS).response_timeout(access.heartbeat_timeout);
        let (heartbeats, polls) = (Http::new(heartbeats)?, Http::new(lane(IDLE_POLLS))?);
        let limits = LIMITS.get_or_make(requests.endpoints().to_owned(), || Limits {
            requests: Semaphore::new(REQUESTS),
            heartbeats: Semaphore::new(HEARTBEATS),
            waits: Arc::new(Semaphore::new(WAITS)),
            watches: Arc::new(Semaphore::new(WATCHES)),
        });
        let token_was_accepted = AtomicBool::new(false);
        Ok(Self { access, token_was_accepted, limits, requests, heartbeats, polls })
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

fn busy() -> Error {
    Error::new(ErrorKind::TimedOut, "too many requests of this process are waiting")
        .outcome_is(Outcome::NotApplied)
}
