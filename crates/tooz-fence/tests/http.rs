//! The layer before a service.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::convert::Infallible;
use std::future::Future as _;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::task::{Context, Waker};

use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use tokio::sync::{Semaphore, mpsc};
use tooz_fence::http::{FenceLayer, FenceStore, HEADER, MemoryStore};
use tooz_fence::{Error, Fence, FenceName, Stale};
use tower::{Layer as _, Service, ServiceExt as _};

fn fence(token: u64) -> Fence {
    Fence::new(FenceName::of_lock("inventory"), token)
}

fn protected(request: &Parts) -> Option<FenceName> {
    (!request.method.is_safe()).then(|| fence(0).name())
}

/// A write.
fn put(header: &str) -> Request<()> {
    let request = Request::builder().method(Method::PUT).header(HEADER, header);
    request.body(()).unwrap()
}

/// Answers with the token that it was called with.
fn service<S: FenceStore>(
    store: S,
) -> impl Service<Request<()>, Response = Response<String>, Error = Infallible, Future: Send> + Clone
{
    let inner = tower::service_fn(async |request: Request<()>| {
        let token = request.extensions().get::<Fence>().map(|fence| fence.token().to_string());
        Ok::<_, Infallible>(Response::new(token.unwrap_or_default()))
    });
    FenceLayer::new(store, protected).layer(inner)
}

async fn answer(
    service: impl Service<Request<()>, Response = Response<String>, Error = Infallible> + Clone,
    request: Request<()>,
) -> (StatusCode, String, Option<String>) {
    let answer = service.oneshot(request).await.unwrap();
    let highest = answer.headers().get(HEADER).map(|value| value.to_str().unwrap().to_owned());
    (answer.status(), answer.into_body(), highest)
}

#[tokio::test]
async fn a_lower_token_is_refused_and_told_the_highest() {
    let service = service(MemoryStore::default());
    for token in [5, 5, 7] {
        let (status, body, _) = answer(service.clone(), put(&fence(token).to_string())).await;
        assert_eq!((status, body), (StatusCode::OK, token.to_string()));
    }
    let refused = answer(service.clone(), put(&fence(6).to_string())).await;
    let highest = Some(fence(7).to_string());
    assert_eq!(refused, (StatusCode::PRECONDITION_FAILED, String::new(), highest));
    let read = Request::new(());
    assert_eq!(answer(service, read).await.0, StatusCode::OK);
}

#[tokio::test]
async fn what_is_missing_or_of_another_lock_is_refused() {
    let service = service(MemoryStore::default());
    let missing = Request::builder().method(Method::PUT).body(()).unwrap();
    assert_eq!(answer(service.clone(), missing).await.0, StatusCode::PRECONDITION_REQUIRED);
    let mut twice = put(&fence(1).to_string());
    twice.headers_mut().append(HEADER, tooz_fence::http::value(fence(2)));
    assert_eq!(answer(service.clone(), twice).await.0, StatusCode::BAD_REQUEST);
    let other = Fence::new(FenceName::of_lock("another"), 9);
    for header in ["", "9", &other.to_string(), &format!("{} ", other)] {
        let (status, ..) = answer(service.clone(), put(header)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{header}");
    }
}

/// Another process of the service has seen a higher token, or the store fails.
#[derive(Clone, Default)]
struct Shared(Arc<AtomicU64>);

impl FenceStore for Shared {
    type Error = &'static str;

    async fn raise(&self, fence: Fence) -> Result<(), Error<&'static str>> {
        match self.0.fetch_max(fence.token(), SeqCst) {
            u64::MAX => Err(Error::Resource("down")),
            highest if highest > fence.token() => {
                let store = MemoryStore::default();
                let _ = store.raise(Fence::new(fence.name(), highest)).await;
                match store.raise(fence).await {
                    Err(Error::Stale(stale)) => Err(Error::Stale(stale)),
                    _ => Err(Error::Resource("no memory")),
                }
            }
            _ => Ok(()),
        }
    }
}

#[tokio::test]
async fn the_store_is_asked_each_time() {
    let store = Shared::default();
    let service = service(store.clone());
    let write = || put(&fence(5).to_string());
    assert_eq!(answer(service.clone(), write()).await.0, StatusCode::OK);
    store.0.store(8, SeqCst);
    let (status, _, highest) = answer(service.clone(), write()).await;
    assert_eq!((status, highest), (StatusCode::PRECONDITION_FAILED, Some(fence(8).to_string())));
    store.0.store(u64::MAX, SeqCst);
    assert_eq!(answer(service, write()).await.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_later_holder_waits_until_the_earlier_ones_are_answered() {
    let (entered, mut entering) = mpsc::unbounded_channel();
    let may_answer = Arc::new(Semaphore::new(0));
    let inner = tower::service_fn({
        let may_answer = may_answer.clone();
        move |request: Request<()>| {
            let (entered, may_answer) = (entered.clone(), may_answer.clone());
            async move {
                let token = request.extensions().get::<Fence>().unwrap().token();
                entered.send(token).unwrap();
                may_answer.acquire().await.unwrap().forget();
                Ok::<_, Infallible>(Response::new(String::new()))
            }
        }
    });
    let service = FenceLayer::new(MemoryStore::default(), protected).layer(inner);
    let call = |token: u64| service.clone().oneshot(put(&fence(token).to_string()));

    // Two of one holder are within the service at once.
    let (mut one, mut two) = (pin!(call(5)), pin!(call(5)));
    let mut context = Context::from_waker(Waker::noop());
    assert!(one.as_mut().poll(&mut context).is_pending());
    assert!(two.as_mut().poll(&mut context).is_pending());
    assert_eq!((entering.recv().await, entering.recv().await), (Some(5), Some(5)));
    // The next holder is not, and neither is anyone behind it.
    let (mut later, mut stale) = (pin!(call(6)), pin!(call(5)));
    assert!(later.as_mut().poll(&mut context).is_pending());
    assert!(stale.as_mut().poll(&mut context).is_pending());
    assert!(entering.is_empty());

    may_answer.add_permits(2);
    assert_eq!(one.await.unwrap().status(), StatusCode::OK);
    assert!(later.as_mut().poll(&mut context).is_pending());
    assert!(entering.is_empty(), "one of them is still within");
    assert_eq!(two.await.unwrap().status(), StatusCode::OK);
    may_answer.add_permits(1);
    assert_eq!(later.await.unwrap().status(), StatusCode::OK);
    assert_eq!(entering.recv().await, Some(6));
    assert_eq!(stale.await.unwrap().status(), StatusCode::PRECONDITION_FAILED);
    let _: fn(&Stale) -> u64 = |stale| stale.highest;
}
