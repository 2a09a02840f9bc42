//! An HTTP service: a `tower` layer that refuses requests of stale holders.
//!
//! A client sends the header `Tooz-Fencing-Token` with the fence's text, `NAME:TOKEN`, in each request
//! that the lock protects. The layer answers for the service:
//!
//! | Status | When |
//! |---|---|
//! | 428 Precondition Required | the request is protected, and has no such header |
//! | 400 Bad Request | the header is no fence, or that of another lock |
//! | 412 Precondition Failed | the token is stale; the answer's header has the highest one |
//! | 503 Service Unavailable | the store of the tokens failed |
//!
//! Why it is correct: requests with one token run side by side, and one with a higher token waits until
//! those with a lower one have been answered. So none of them writes after the later holder has read.
//! The store keeps the highest token over restarts, and between processes.
//!
//! What it cannot know: work that the service goes on with after its answer, or after the client is gone;
//! and requests that another process of the service still has. Where there is either, let the service pass
//! the [`Fence`], which is in the request's extensions, to the store that it writes to, and raise there.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use tokio::sync::{OwnedRwLockReadGuard, RwLock};
use tower_layer::Layer;
use tower_service::Service;

use crate::{Error, Fence, FenceName, Stale};

/// `Tooz-Fencing-Token`.
pub const HEADER: HeaderName = HeaderName::from_static("tooz-fencing-token");

/// The header's value for a request.
///
/// ```
/// use tooz_fence::{Fence, FenceName, http};
/// let fence = Fence::new(FenceName::of_lock("inventory"), 42);
/// let mut headers = ::http::HeaderMap::new();
/// headers.insert(http::HEADER, http::value(fence));
/// assert_eq!(http::fence(&headers), Some(Ok(fence)));
/// ```
pub fn value(fence: Fence) -> HeaderValue {
    HeaderValue::try_from(fence.to_string())
        .unwrap_or_else(|_| unreachable!("hexadecimal digits, a colon and a number"))
}

/// The fence in a request's headers, if there is one. Two of them are none.
pub fn fence(headers: &HeaderMap) -> Option<Result<Fence, crate::ParseError>> {
    let mut values = headers.get_all(HEADER).iter();
    let first = values.next()?;
    let text = if values.next().is_none() { first.to_str().unwrap_or_default() } else { "" };
    Some(text.parse())
}

/// Where the highest tokens are kept.
pub trait FenceStore: Send + Sync + 'static {
    /// What can go wrong.
    type Error: Send;

    /// Keeps the token if it is higher than that of its name, in one step.
    ///
    /// # Errors
    /// [`Error::Stale`] if a higher one is there.
    fn raise(&self, fence: Fence) -> impl Future<Output = Result<(), Error<Self::Error>>> + Send;
}

/// Keeps the highest tokens for as long as this process runs: of use where the protected state ends with
/// it too.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<HashMap<FenceName, u64>>);

impl FenceStore for MemoryStore {
    type Error = Infallible;

    async fn raise(&self, fence: Fence) -> Result<(), Error<Infallible>> {
        // Nothing panics while it is locked, so it is whole even if poisoned.
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let highest = tokens.entry(fence.name()).or_default();
        *highest = fence.token().max(*highest);
        Stale::check(fence, *highest).map_err(Error::Stale)
    }
}

/// Refuses the requests of stale holders.
///
/// ```
/// use tooz_fence::FenceName;
/// use tooz_fence::http::{FenceLayer, MemoryStore};
///
/// // Writes are protected by the lock `inventory`; what reads passes.
/// let layer = FenceLayer::new(MemoryStore::default(), |request: &http::request::Parts| {
///     (!request.method.is_safe()).then(|| FenceName::of_lock("inventory"))
/// });
/// ```
pub struct FenceLayer<S, P> {
    gates: Arc<Gates<S>>,
    protected_by: P,
}

/// A service behind a [`FenceLayer`].
pub struct FenceService<I, S, P> {
    inner: I,
    layer: FenceLayer<S, P>,
}

impl<S: FenceStore, P: Fn(&Parts) -> Option<FenceName>> FenceLayer<S, P> {
    /// A layer that keeps the highest tokens in `store`. `protected_by` says by which lock or term a
    /// request is protected, and `None` lets it pass. It is the service that says so, and never the
    /// client: else the token of any lock would do.
    pub fn new(store: S, protected_by: P) -> Self {
        Self { gates: Arc::new(Gates { store, gates: Mutex::default() }), protected_by }
    }
}

/// One gate for each lock or term.
struct Gates<S> {
    store: S,
    gates: Mutex<HashMap<FenceName, Arc<RwLock<u64>>>>,
}

/// Lets no higher token in while it is there.
type Pass = OwnedRwLockReadGuard<u64>;

impl<S: FenceStore> Gates<S> {
    async fn pass(&self, fence: Fence) -> Result<Pass, Error<S::Error>> {
        let gate = {
            let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
            gates.entry(fence.name()).or_default().clone()
        };
        let inside = gate.clone().read_owned().await;
        let pass = if *inside == fence.token() {
            inside
        } else {
            Stale::check(fence, *inside).map_err(Error::Stale)?;
            drop(inside);
            // Those with a lower token are answered first.
            let mut inside = gate.write_owned().await;
            Stale::check(fence, *inside).map_err(Error::Stale)?;
            *inside = fence.token();
            inside.downgrade()
        };
        // Another process may have seen a higher one meanwhile.
        self.store.raise(fence).await?;
        Ok(pass)
    }
}

/// What a request is answered that does not pass.
fn refusal<E>(error: &Error<E>) -> (StatusCode, Option<Fence>) {
    match error {
        Error::Stale(stale) => {
            let highest = Fence::new(stale.fence.name(), stale.highest);
            (StatusCode::PRECONDITION_FAILED, Some(highest))
        }
        Error::TooLarge(_) => (StatusCode::BAD_REQUEST, None),
        Error::Resource(_) => (StatusCode::SERVICE_UNAVAILABLE, None),
    }
}

fn answer<B: Default>(status: StatusCode, highest: Option<Fence>) -> Response<B> {
    let mut response = Response::new(B::default());
    *response.status_mut() = status;
    if let Some(highest) = highest {
        response.headers_mut().insert(HEADER, value(highest));
    }
    response
}

impl<I, S, P, B, R> Service<Request<B>> for FenceService<I, S, P>
where
    I: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    I::Future: Send,
    I::Error: Send,
    S: FenceStore,
    P: Fn(&Parts) -> Option<FenceName>,
    B: Send + 'static,
    R: Default + Send + 'static,
{
    type Response = Response<R>;
    type Error = I::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, I::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), I::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        // The one that is ready is called, and its clone becomes ready next.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let Some(name) = (self.layer.protected_by)(&parts) else {
            return Box::pin(inner.call(Request::from_parts(parts, body)));
        };
        let fence = match fence(&parts.headers) {
            Some(Ok(fence)) if fence.name() == name => fence,
            wrong => {
                let missing = wrong.is_none();
                let status = match missing {
                    true => StatusCode::PRECONDITION_REQUIRED,
                    false => StatusCode::BAD_REQUEST,
                };
                return Box::pin(async move { Ok(answer(status, None)) });
            }
        };
        parts.extensions.insert(fence);
        let gates = self.layer.gates.clone();
        Box::pin(async move {
            let _pass = match gates.pass(fence).await {
                Ok(pass) => pass,
                Err(error) => {
                    let (status, highest) = refusal(&error);
                    return Ok(answer(status, highest));
                }
            };
            inner.call(Request::from_parts(parts, body)).await
        })
    }
}

impl<I, S, P: Clone> Layer<I> for FenceLayer<S, P> {
    type Service = FenceService<I, S, P>;

    fn layer(&self, inner: I) -> Self::Service {
        FenceService { inner, layer: self.clone() }
    }
}

impl<S, P: Clone> Clone for FenceLayer<S, P> {
    fn clone(&self) -> Self {
        Self { gates: self.gates.clone(), protected_by: self.protected_by.clone() }
    }
}

impl<I: Clone, S, P: Clone> Clone for FenceService<I, S, P> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), layer: self.layer.clone() }
    }
}

impl<S, P> fmt::Debug for FenceLayer<S, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FenceLayer").finish_non_exhaustive()
    }
}

impl<I: fmt::Debug, S, P> fmt::Debug for FenceService<I, S, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FenceService").field("inner", &self.inner).finish_non_exhaustive()
    }
}
