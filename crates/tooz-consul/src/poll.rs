//! Waiting for changes by blocking queries.

use std::time::Duration;

use tokio::time::timeout;
use tooz_core::{Error, OperationId, Result};
use tracing::debug;

use crate::api::{Api, Polled};
use crate::lookout::Lookout;
use crate::transaction::Entry;

/// How long one query waits, and by how much more at most, so that not all ask at once.
const WAIT: (Duration, Duration) = (Duration::from_secs(50), Duration::from_secs(20));

/// The least time between two answers that tell nothing new.
const PAUSE: Duration = Duration::from_millis(100);

/// How often a group is looked at when too many are watched for a blocking query each.
const LOOK: Duration = Duration::from_millis(500);

/// How long to wait when the servers are in trouble, and twice that at most.
const TROUBLE: Duration = Duration::from_millis(150);

/// How long a blocking query may wait.
pub(crate) fn wait() -> Duration {
    WAIT.0 + WAIT.1.mul_f64(random_fraction())
}

/// A fraction from 0 to 1, for jitter.
pub(crate) fn random_fraction() -> f64 {
    let [byte, ..] = *OperationId::random().as_bytes();
    f64::from(byte) / 255.0
}

/// Waits a little after what passes, such as an election among the servers; from where to go on. Who
/// watches stops when its session is lost.
pub(crate) async fn ride_out(error: Error) -> Result<u64> {
    if !error.is_retryable() {
        return Err(error);
    }
    debug!(%error, "nothing can be watched at the moment");
    tokio::time::sleep(TROUBLE + TROUBLE.mul_f64(random_fraction())).await;
    Ok(0)
}

/// One key, looked at again and again.
#[derive(Debug)]
pub(crate) struct KeyWatch<'a> {
    api: &'a Api,
    key: &'a str,
    index: u64,
    last: Option<Option<Entry>>,
}

impl<'a> KeyWatch<'a> {
    pub(crate) fn new(api: &'a Api, key: &'a str) -> Self {
        Self { api, key, index: 0, last: None }
    }

    /// The key: first at once, then when it has changed, and after `wait` in any case.
    pub(crate) async fn next(&mut self, wait: Duration) -> Result<Option<Entry>> {
        let polled = loop {
            let permit = self.api.agent().try_wait();
            if let (None, Some(last)) = (&permit, &self.last) {
                let known = last.as_ref().map(|entry| entry.changed);
                let lookout = Lookout::of(self.api);
                let value = timeout(wait, lookout.differs(self.key, known)).await;
                // What was known then may not be the newest, so the next look begins anew.
                break Polled { value: value.unwrap_or_else(|_| last.clone()), index: 0 };
            }
            match self.api.poll(self.key, self.index, wait).await {
                Ok(polled) => break polled,
                Err(error) => self.index = ride_out(error).await?,
            }
        };
        let Polled { value, index } = polled;
        // Queries about a key that is not there are answered when others change, too.
        if self.last.as_ref() == Some(&value) && value.is_none() {
            tokio::time::sleep(PAUSE.min(wait)).await;
        }
        self.index = index;
        self.last = Some(value.clone());
        Ok(value)
    }
}

/// All keys that begin with the same, looked at again and again.
#[derive(Debug)]
pub(crate) struct TreeWatch<'a> {
    api: &'a Api,
    prefix: &'a str,
    index: u64,
    last: Option<Vec<Entry>>,
}

impl<'a> TreeWatch<'a> {
    pub(crate) fn new(api: &'a Api, prefix: &'a str) -> Self {
        Self { api, prefix, index: 0, last: None }
    }

    /// The keys: first at once, then when they have changed.
    pub(crate) async fn next(&mut self) -> Result<&[Entry]> {
        loop {
            let permit = self.api.agent().try_watch();
            if permit.is_none() && self.last.is_some() {
                tokio::time::sleep(LOOK).await;
                self.index = 0;
            }
            let polled = match self.api.poll_tree(self.prefix, self.index, wait()).await {
                Ok(polled) => polled,
                Err(error) => {
                    self.index = ride_out(error).await?;
                    continue;
                }
            };
            self.index = polled.index;
            if self.last.as_ref() != Some(&polled.value) {
                return Ok(self.last.insert(polled.value));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
