//! Requests on the session's client, with a time limit, and over connections that break.

use std::future::Future;
use std::sync::Mutex;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tooz_core::kit::locked;
use tooz_core::{Lease, Moment};
use zookeeper_client::{Client, CreateOptions, CreateSequence, Error as Cause, Stat, StateWatcher};

use crate::errors::{Failure, normalize};

/// The session's client. While the connection is gone, it keeps the requests and sends them, in
/// their order, on the next one.
#[derive(Debug)]
pub(crate) struct SessionClient {
    /// `None` once the session is closed. The session ends when the last clone is dropped.
    client: Mutex<Option<Client>>,
    closed: CancellationToken,
    lease: Lease,
    /// How long one call may take.
    limit: Duration,
}

impl SessionClient {
    pub(crate) fn new(client: Client, lease: Lease) -> Self {
        let limit = client.session_timeout();
        Self { client: Mutex::new(Some(client)), closed: CancellationToken::new(), lease, limit }
    }

    /// Follows the state of the connection.
    pub(crate) fn states(&self) -> Option<StateWatcher> {
        locked(&self.client).as_ref().map(Client::state_watcher)
    }

    /// No request follows, and those under way are given up.
    pub(crate) fn close(&self) -> Option<Client> {
        self.closed.cancel();
        locked(&self.client).take()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    pub(crate) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Whether the session is closed or lost.
    pub(crate) fn is_over(&self) -> bool {
        self.is_closed() || self.lease.loss().is_some()
    }

    // ---- Requests, sent once again when their reply was lost.

    pub(crate) async fn create(
        &self,
        path: &str,
        data: &[u8],
        options: &CreateOptions<'_>,
    ) -> Result<(Stat, CreateSequence), Failure> {
        self.call(|client| async move { client.create(path, data, options).await }).await
    }

    /// Creates a node with what is missing above it.
    pub(crate) async fn mkdir(
        &self,
        path: &str,
        options: &CreateOptions<'_>,
    ) -> Result<(), Failure> {
        self.call(|client| async move { client.mkdir(path, options).await }).await
    }

    pub(crate) async fn delete(&self, path: &str, version: Option<i32>) -> Result<(), Failure> {
        self.call(|client| async move { client.delete(path, version).await }).await
    }

    pub(crate) async fn data(&self, path: &str) -> Result<(Vec<u8>, Stat), Failure> {
        self.call(|client| async move { client.get_data(path).await }).await
    }

    pub(crate) async fn stat(&self, path: &str) -> Result<Option<Stat>, Failure> {
        self.call(|client| async move { client.check_stat(path).await }).await
    }

    /// With everything that was done before it was asked for, by whatever server.
    pub(crate) async fn synced_stat(&self, path: &str) -> Result<Option<Stat>, Failure> {
        self.call(|client| async move {
            let (synced, stat) = (client.sync(path), client.check_stat(path));
            synced.await?;
            stat.await
        })
        .await
    }

    pub(crate) async fn children(&self, path: &str) -> Result<Vec<String>, Failure> {
        self.call(|client| async move { client.list_children(path).await }).await
    }

    /// With everything that was done before they were asked for, by whatever server.
    pub(crate) async fn synced_children(&self, path: &str) -> Result<Vec<String>, Failure> {
        self.call(|client| async move {
            let (synced, children) = (client.sync(path), client.list_children(path));
            synced.await?;
            children.await
        })
        .await
    }

    // ---- Any request.

    /// One request, sent once. What it sends before its first await is sent in this order.
    pub(crate) async fn once<T, F>(&self, request: impl FnOnce(Client) -> F) -> Result<T, Cause>
    where
        F: Future<Output = Result<T, Cause>>,
    {
        let client = self.own()?;
        self.until(Moment::now() + self.limit, request(client)).await
    }

    fn own(&self) -> Result<Client, Cause> {
        locked(&self.client).clone().ok_or(Cause::ClientClosed)
    }

    async fn until<T>(
        &self,
        end: Moment,
        answer: impl Future<Output = Result<T, Cause>>,
    ) -> Result<T, Cause> {
        tokio::select! {
            biased;
            answer = answer => answer.map_err(normalize),
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
                // A second time it may be the request itself that the server cannot take.
                Err(Cause::ConnectionLoss) if !again && !end.has_passed() => again = true,
                Err(cause) => return Err(Failure { cause, again }),
            }
        }
    }
}
