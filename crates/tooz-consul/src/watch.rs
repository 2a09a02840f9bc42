//! Keys that are looked at again and again, whenever they may have changed.

use std::time::Duration;

use tokio::time::timeout;
use tooz_core::Result;
use tooz_http::Request;

use crate::client::{Polled, entries};
use crate::keys::path;
use crate::poll::{Poller, pause_after, wait};
use crate::transaction::Entry;

/// The least time between two answers that tell nothing new.
const PAUSE: Duration = Duration::from_millis(100);

/// How often a group is looked at when too many are watched for a blocking query each.
const LOOK: Duration = Duration::from_millis(500);

/// One key.
#[derive(Debug)]
pub(crate) struct KeyWatch<'a> {
    poller: &'a Poller,
    key: &'a str,
    index: u64,
    last: Option<Option<Entry>>,
}

impl<'a> KeyWatch<'a> {
    pub(crate) fn new(poller: &'a Poller, key: &'a str) -> Self {
        Self { poller, key, index: 0, last: None }
    }

    /// The key: first at once, then when it has changed, and after `wait` in any case.
    pub(crate) async fn next(&mut self, wait: Duration) -> Result<Option<Entry>> {
        let client = &self.poller.client;
        let Polled { value, index } = loop {
            let permit = client.connections.try_wait();
            if let (None, Some(last)) = (&permit, &self.last) {
                let known = last.as_ref().map(|entry| entry.changed);
                let waited_for = self.poller.waited_for();
                let value = timeout(wait, waited_for.differs(self.key, known)).await;
                // What was known then may not be the newest, so the next look starts again.
                break Polled { value: value.unwrap_or_else(|_| last.clone()), index: 0 };
            }
            let read = |response: &_| Ok(entries(response)?.pop());
            match client.poll(Request::get(path(self.key)), self.index, wait, read).await {
                Ok(polled) => break polled,
                Err(error) if error.is_retryable() => {
                    pause_after(&error).await;
                    self.index = 0;
                }
                Err(error) => return Err(error),
            }
        };
        // Queries about a key that is not there are answered when others change too.
        if self.last.as_ref() == Some(&value) && value.is_none() {
            tokio::time::sleep(PAUSE.min(wait)).await;
        }
        self.index = index;
        self.last = Some(value.clone());
        Ok(value)
    }
}

/// All keys that begin with the same.
#[derive(Debug)]
pub(crate) struct TreeWatch<'a> {
    poller: &'a Poller,
    prefix: &'a str,
    index: u64,
    last: Option<Vec<Entry>>,
}

impl<'a> TreeWatch<'a> {
    pub(crate) fn new(poller: &'a Poller, prefix: &'a str) -> Self {
        Self { poller, prefix, index: 0, last: None }
    }

    /// The keys: first at once, then when they have changed.
    pub(crate) async fn next(&mut self) -> Result<&[Entry]> {
        let client = &self.poller.client;
        loop {
            let permit = client.connections.try_watch();
            if permit.is_none() && self.last.is_some() {
                tokio::time::sleep(LOOK).await;
                self.index = 0;
            }
            let request = Request::get(path(self.prefix)).query("recurse", "");
            match client.poll(request, self.index, wait(), entries).await {
                Ok(polled) => {
                    self.index = polled.index;
                    if self.last.as_ref() != Some(&polled.value) {
                        return Ok(self.last.insert(polled.value));
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) if error.is_retryable() => {
                    pause_after(&error).await;
                    self.index = 0;
                }
                Err(error) => return Err(error),
            }
        }
    }
}
