//! Streams of events that work on any runtime and never block their source.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;
use tokio::sync::Notify;

use crate::process::Process;
use crate::{GroupId, Loss};

/// How many events wait for a slow consumer before they are replaced by a summary.
const CAPACITY: usize = 1024;

/// A stream of events.
///
/// The events wait in a bounded queue: a consumer that falls behind by more than 1,024 of them gets
/// a summary instead (for a group, [`Gap`](crate::GroupEvent::Gap) and a fresh snapshot; otherwise
/// only the newest). The stream ends when the coordinator is stopped, and in a fork of the process.
/// Dropping it ends the watch.
#[must_use = "events come only to a stream that is kept"]
pub struct Events<T>(Arc<Shared<T>>);

/// The other end of an [`Events`].
pub(crate) struct EventSink<T>(Arc<Shared<T>>);

struct Shared<T> {
    process: Process,
    queue: Mutex<Queue<T>>,
    consumer_gone: Notify,
}

struct Queue<T> {
    items: VecDeque<T>,
    waker: Option<Waker>,
    ended: bool,
    consumer_gone: bool,
}

pub(crate) fn channel<T>() -> (EventSink<T>, Events<T>) {
    let queue = Queue { items: VecDeque::new(), waker: None, ended: false, consumer_gone: false };
    let shared = Arc::new(Shared {
        process: Process::current(),
        queue: Mutex::new(queue),
        consumer_gone: Notify::new(),
    });
    (EventSink(shared.clone()), Events(shared))
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Queue<T>> {
        // Nothing panics while the queue is locked, so it is whole even if poisoned.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Queue<T>)) {
        let waker = {
            let mut queue = self.lock();
            change(&mut queue);
            queue.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> EventSink<T> {
    /// Adds an event. If the queue is full, everything in it is replaced by `sum()`.
    pub(crate) fn send(&self, event: T, sum: impl FnOnce(T) -> Vec<T>) {
        self.0.change(|queue| {
            if queue.consumer_gone {
                return;
            }
            if queue.items.len() < CAPACITY {
                queue.items.push_back(event);
            } else {
                queue.items.clear();
                queue.items.extend(sum(event));
            }
        });
    }

    /// Whether nobody listens any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.lock().consumer_gone
    }

    /// Waits until nobody listens any more.
    pub(crate) async fn closed(&self) {
        loop {
            let gone = self.0.consumer_gone.notified();
            if self.is_closed() {
                return;
            }
            gone.await;
        }
    }
}

impl<T> Drop for EventSink<T> {
    fn drop(&mut self) {
        self.0.change(|queue| queue.ended = true);
    }
}

impl<T> Events<T> {
    /// The next event, or `None` at the end. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<T> {
        std::future::poll_fn(|cx| self.poll_event(cx)).await
    }

    /// The next event, if there is one already.
    pub fn try_next(&mut self) -> Option<T> {
        self.0.lock().items.pop_front()
    }

    fn poll_event(&self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        // In a fork nobody feeds it.
        if !self.0.process.is_current() {
            return Poll::Ready(None);
        }
        let mut queue = self.0.lock();
        match queue.items.pop_front() {
            Some(event) => Poll::Ready(Some(event)),
            None if queue.ended => Poll::Ready(None),
            None => {
                queue.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<T> Stream for Events<T> {
    type Item = T;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.poll_event(cx)
    }
}

impl<T> Drop for Events<T> {
    fn drop(&mut self) {
        self.0.lock().consumer_gone = true;
        self.0.consumer_gone.notify_waiters();
    }
}

impl<T> fmt::Debug for Events<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("waiting", &self.0.lock().items.len()).finish()
    }
}

/// What happened to a coordinator's session.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEvent {
    /// The connection is in trouble. Everything is held as far as anyone knows, until the deadlines.
    Suspended,
    /// The connection is well again, and the session is the same.
    Resumed,
    /// The session is lost, and with it every membership. Locks and terms that depended on it are
    /// reported lost by their guards. The engine is opening another.
    Lost(Loss),
    /// There is a new session: these groups are joined again with their capabilities, watches
    /// continue, and waiting acquisitions are queued again. Locks and terms are not reacquired.
    Rejoined(Vec<GroupId>),
    /// Somebody [removed](crate::Coordinator::remove_member) this member from a group, and it does not
    /// join again: it was built with
    /// [`rejoin_when_removed(false)`](crate::Builder::rejoin_when_removed). A term in that group
    /// is resigned.
    Removed(GroupId),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_is_replaced_by_its_sum() {
        let (sink, mut events) = channel();
        for n in 0..=CAPACITY {
            sink.send(n, |last| vec![last]);
        }
        assert_eq!(events.try_next(), Some(CAPACITY));
        assert_eq!(events.try_next(), None);
    }

    #[tokio::test]
    async fn each_end_learns_that_the_other_is_gone() {
        let (sink, mut events) = channel();
        sink.send(1, |last| vec![last]);
        drop(sink);
        assert_eq!(events.next().await, Some(1));
        assert_eq!(events.next().await, None);

        let (sink, events) = channel::<()>();
        let (closed, ()) = tokio::join!(sink.closed(), async { drop(events) });
        assert_eq!(closed, ());
        assert!(sink.is_closed());
    }
}
