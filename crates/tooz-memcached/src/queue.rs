//! Which of ours wait for a lock, over all processes, in the order of arrival.
//!
//! The queue is advice that keeps turns fair: exclusion rests on the lock's own item alone. Each
//! process stands in it at most once for each lock; its own waiters take turns behind that.

use std::time::Duration;

use tooz_core::{Mode, Result};

use crate::state::State;
use crate::wire::{Change, How, Item, RAW, Request, Seconds};

/// How long a lock must have been free before it is taken past an entry that stands before: longer
/// than the longest pause between two looks of the first in the queue.
pub(crate) const GRACE: Duration = Duration::from_millis(400);

/// A queue as it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Queue {
    /// `None` if there is none.
    cas: Option<u64>,
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    operation: String,
    shared: bool,
}

impl Queue {
    pub(crate) fn read(item: Option<Item>) -> Self {
        let Some(item) = item else { return Self::default() };
        // Text that makes no sense is nobody's entry.
        let text = String::from_utf8_lossy(&item.value).into_owned();
        let entry = |text: &str| {
            let (operation, mode) = text.split_once(':')?;
            Some(Entry { operation: operation.to_owned(), shared: mode == "s" })
        };
        Self { cas: Some(item.cas), entries: text.split(',').filter_map(entry).collect() }
    }

    fn write(&self) -> Vec<u8> {
        let mode = |entry: &Entry| if entry.shared { 's' } else { 'x' };
        let entries = self.entries.iter().map(|e| format!("{}:{}", e.operation, mode(e)));
        entries.collect::<Vec<_>>().join(",").into_bytes()
    }

    pub(crate) fn contains(&self, operation: &str) -> bool {
        self.entries.iter().any(|entry| entry.operation == operation)
    }

    pub(crate) fn has_others(&self, operation: &str) -> bool {
        self.entries.iter().any(|entry| entry.operation != operation)
    }

    /// Those that this acquisition has to wait for: those before it, of which shared ones do not bother
    /// another.
    pub(crate) fn before(&self, operation: &str, mode: Mode) -> Vec<String> {
        let before = self.entries.iter().take_while(|entry| entry.operation != operation);
        let mut before: Vec<_> = before.collect();
        if mode == Mode::Shared {
            let last_exclusive = before.iter().rposition(|entry| !entry.shared);
            before.truncate(last_exclusive.map_or(0, |index| index + 1));
        }
        before.into_iter().map(|entry| entry.operation.clone()).collect()
    }

    fn request(&self, key: &[u8], ttl: Seconds) -> Option<Request> {
        match (self.cas, self.entries.is_empty()) {
            (None, true) => None,
            (Some(cas), true) => Some(Request::Delete(key.to_vec(), cas)),
            (None, false) => Some(Request::store(key, How::Add, RAW, ttl, self.write())),
            (Some(cas), false) => Some(Request::store(key, How::Swap(cas), RAW, ttl, self.write())),
        }
    }
}

/// How long a queue is kept when nobody looks at it.
pub(crate) fn ttl(state: &State) -> Seconds {
    Seconds::at_least(state.config.lock_timeout)
}

/// Adds an acquisition at the end, unless it is already in the queue.
pub(crate) async fn join(
    state: &State,
    key: &[u8],
    queue: Queue,
    operation: &str,
    mode: Mode,
) -> Result<()> {
    let shared = mode == Mode::Shared;
    change(state, key, queue, |entries| {
        if !entries.iter().any(|entry| entry.operation == operation) {
            entries.push(Entry { operation: operation.to_owned(), shared });
        }
    })
    .await
}

/// Removes entries: one's own, and those that were passed.
pub(crate) async fn leave(
    state: &State,
    key: &[u8],
    mut queue: Queue,
    operations: &[String],
) -> Result<()> {
    // It may have been seen before all of them entered it.
    if !operations.iter().all(|operation| queue.contains(operation)) {
        queue = Queue::read(state.client.get(key).await?);
    }
    change(state, key, queue, |entries| entries.retain(|e| !operations.contains(&e.operation)))
        .await
}

async fn change(
    state: &State,
    key: &[u8],
    mut queue: Queue,
    edit: impl Fn(&mut Vec<Entry>),
) -> Result<()> {
    loop {
        let before = queue.entries.clone();
        edit(&mut queue.entries);
        if queue.entries == before {
            return Ok(());
        }
        let Some(request) = queue.request(key, ttl(state)) else { return Ok(()) };
        let [changed, item] = state.client.call_each([request, Request::get(key)]).await?;
        if changed.change()? == Change::Done {
            return Ok(());
        }
        queue = Queue::read(item.item()?);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(text: &str) -> Queue {
        let value = text.as_bytes().to_vec();
        Queue::read(Some(Item { cas: 1, flags: RAW, value, left: None }))
    }

    #[test]
    fn entries_are_in_order_and_shared_ones_go_together() {
        let queue = queue("a:s,b:s,c:x,d:s");
        assert_eq!(queue.write(), b"a:s,b:s,c:x,d:s");
        assert!(queue.before("b", Mode::Shared).is_empty());
        assert_eq!(queue.before("c", Mode::Exclusive), ["a", "b"]);
        assert_eq!(queue.before("d", Mode::Shared), ["a", "b", "c"]);
        assert_eq!(queue.before("new", Mode::Exclusive).len(), 4);
        assert!(queue.contains("d") && queue.has_others("d"));
        assert!(!Queue::default().has_others("d"));
    }
}
