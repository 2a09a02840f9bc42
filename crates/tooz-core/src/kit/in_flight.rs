use std::sync::Arc;

use tokio::sync::watch;

/// What is under way in a session, such as acquisitions and their cancellation: closing the session
/// waits for it, so that nothing is granted afterwards.
#[derive(Clone, Debug)]
pub struct InFlight(Arc<watch::Sender<usize>>);

/// Something that is under way, until this is dropped.
#[derive(Debug)]
#[must_use = "it is over as soon as this is dropped"]
pub struct Underway(Arc<watch::Sender<usize>>);

impl InFlight {
    /// Notes that something begins.
    pub fn begin(&self) -> Underway {
        self.0.send_modify(|count| *count += 1);
        Underway(self.0.clone())
    }

    /// Whether nothing is under way.
    pub fn is_none(&self) -> bool {
        *self.0.borrow() == 0
    }

    /// Waits until nothing is under way.
    pub async fn none(&self) {
        // The sender lives in `self`: the wait cannot fail.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Default for InFlight {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_one_ends_the_wait() {
        let in_flight = InFlight::default();
        in_flight.none().await;
        let (one, two) = (in_flight.begin(), in_flight.begin());
        drop(one);
        assert!(!in_flight.is_none());
        let waiting = tokio::spawn({
            let in_flight = in_flight.clone();
            async move { in_flight.none().await }
        });
        drop(two);
        waiting.await.unwrap();
        assert!(in_flight.is_none());
    }
}
