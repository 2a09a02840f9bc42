//! Requests on the session's client, with a time limit, and over connections that break.

use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tooz_core::{Lease, Moment};
use zookeeper_client::{Client, Error as Cause, StateWatcher};

use crate::errors::{Failure, settle};

/// The way to the server. While the connection is gone, the client keeps the requests and sends
/// them, in their order, on the next one.
#[derive(Debug)]
pub(crate) struct Link {
    /// `None` once the session is closed. The session ends when the last clone is dropped.
    client: Mutex<Option<Client>>,
    closed: CancellationToken,
    lease: Lease,
    /// How long one call may take.
    limit: Duration,
}

impl Link {
    pub(crate) fn new(client: Client, lease: Lease) -> Self {
        let limit = client.session_timeout();
        Self { client: Mutex::new(Some(client)), closed: CancellationToken::new(), lease, limit }
    }

    /// Follows the state of the connection.
    pub(crate) fn states(&self) -> Option<StateWatcher> {
        self.client().as_ref().map(Client::state_watcher)
    }

    fn client(&self) -> MutexGuard<'_, Option<Client>> {
        // Nothing panics while it is locked, so it is whole even if poisoned.
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No request follows, and those under way are given up.
    pub(crate) fn close(&self) -> Option<Client> {
        self.closed.cancel();
        self.client().take()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    pub(crate) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// One request, sent once. What it sends before its first await is sent in this order.
    pub(crate) async fn once<T, F>(&self, request: impl FnOnce(Client) -> F) -> Result<T, Cause>
    where
        F: Future<Output = Result<T, Cause>>,
    {
        let client = self.own()?;
        self.until(Moment::now() + self.limit, request(client)).await
    }

    fn own(&self) -> Result<Client, Cause> {
        self.client().clone().ok_or(Cause::ClientClosed)
    }

    async fn until<T>(
        &self,
        end: Moment,
        answer: impl Future<Output = Result<T, Cause>>,
    ) -> Result<T, Cause> {
        tokio::select! {
            biased;
            answer = answer => answer.map_err(settle),
            () = self.closed.cancelled() => Err(Cause::ClientClosed),
            // The client learns of it later than the server.
            _ = self.lease.lost() => Err(Cause::SessionExpired),
            () = end.wait() => Err(Cause::Timeout),
        }
    }

    /// One request, sent once again when its reply was lost: it must do no more when it is carried out
    /// twice, or its sender must be able to tell.
    pub(crate) async fn call<T, F>(&self, request: impl Fn(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Cause>>,
    {
        let own = self.own().map_err(|cause| Failure { cause, again: false })?;
        self.call_over(&own, request).await
    }

    /// The same, over the connection of another client.
    pub(crate) async fn call_over<T, F>(
        &self,
        client: &Client,
        request: impl Fn(Client) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Cause>>,
    {
        let end = Moment::now() + self.limit;
        let mut again = false;
        loop {
            match self.until(end, request(client.clone())).await {
                Ok(answer) => return Ok(answer),
                // A second time it may be the request itself that the server cannot bear.
                Err(Cause::ConnectionLoss) if !again && !end.has_passed() => again = true,
                Err(cause) => return Err(Failure { cause, again }),
            }
        }
    }
}
