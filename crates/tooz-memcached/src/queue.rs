//! Who of ours waits for a lock, over all processes, in the order of arrival.
//!
//! The queue is advice that keeps turns fair: exclusion rests on the lock's own item alone. Each
//! process stands in it at most once for each lock; its own waiters take turns behind that.

use std::time::Duration;

use tooz_core::{Mode, Result};

use crate::life::Life;
use crate::wire::{Change, How, Item, RAW, Request, Seconds};

/// How long a lock must have been free before it is taken past somebody who stands before: longer
/// than the longest pause between two looks of whoever stands first.
pub(crate) const GRACE: Duration = Duration::from_millis(400);

/// A queue as it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Queue {
    /// `None` if there is none.
    cas: Option<u64>,
    places: Vec<Place>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    operation: String,
    shared: bool,
}

impl Queue {
    pub(crate) fn read(item: Option<Item>) -> Self {
        let Some(item) = item else { return Self::default() };
        // Text that makes no sense is nobody's place.
        let text = String::from_utf8_lossy(&item.value).into_owned();
        let place = |text: &str| {
            let (operation, mode) = text.split_once(':')?;
            Some(Place { operation: operation.to_owned(), shared: mode == "s" })
        };
        Self { cas: Some(item.cas), places: text.split(',').filter_map(place).collect() }
    }

    fn write(&self) -> Vec<u8> {
        let mode = |place: &Place| if place.shared { 's' } else { 'x' };
        let places = self.places.iter().map(|p| format!("{}:{}", p.operation, mode(p)));
        places.collect::<Vec<_>>().join(",").into_bytes()
    }

    pub(crate) fn contains(&self, operation: &str) -> bool {
        self.places.iter().any(|place| place.operation == operation)
    }

    pub(crate) fn has_others(&self, operation: &str) -> bool {
        self.places.iter().any(|place| place.operation != operation)
    }

    /// Whom this acquisition has to wait for: those before it, of which shared ones do not bother
    /// another.
    pub(crate) fn before(&self, operation: &str, mode: Mode) -> Vec<String> {
        let before = self.places.iter().take_while(|place| place.operation != operation);
        let mut before: Vec<_> = before.collect();
        if mode == Mode::Shared {
            let last_exclusive = before.iter().rposition(|place| !place.shared);
            before.truncate(last_exclusive.map_or(0, |index| index + 1));
        }
        before.into_iter().map(|place| place.operation.clone()).collect()
    }

    fn request(&self, key: &[u8], life: Seconds) -> Option<Request> {
        match (self.cas, self.places.is_empty()) {
            (None, true) => None,
            (Some(cas), true) => Some(Request::Delete(key.to_vec(), cas)),
            (None, false) => Some(Request::store(key, How::Add, RAW, life, self.write())),
            (Some(cas), false) => {
                Some(Request::store(key, How::Swap(cas), RAW, life, self.write()))
            }
        }
    }
}

/// How long a queue is kept that nobody looks at.
pub(crate) fn life_of(life: &Life) -> Seconds {
    Seconds::at_least(life.config.lock_timeout)
}

/// Stands at the end, unless it stands there already.
pub(crate) async fn join(
    life: &Life,
    key: &[u8],
    queue: Queue,
    operation: &str,
    mode: Mode,
) -> Result<()> {
    let shared = mode == Mode::Shared;
    change(life, key, queue, |places| {
        if !places.iter().any(|place| place.operation == operation) {
            places.push(Place { operation: operation.to_owned(), shared });
        }
    })
    .await
}

/// Removes places: one's own, and those that were passed.
pub(crate) async fn leave(
    life: &Life,
    key: &[u8],
    queue: Queue,
    operations: &[String],
) -> Result<()> {
    change(life, key, queue, |places| places.retain(|p| !operations.contains(&p.operation))).await
}

async fn change(
    life: &Life,
    key: &[u8],
    mut queue: Queue,
    edit: impl Fn(&mut Vec<Place>),
) -> Result<()> {
    loop {
        let before = queue.places.clone();
        edit(&mut queue.places);
        if queue.places == before {
            return Ok(());
        }
        let Some(request) = queue.request(key, life_of(life)) else { return Ok(()) };
        let (mut replies, _) = life.link.call(&[request, Request::get(key)]).await?;
        let (item, changed) = (replies.pop(), replies.pop());
        let (Some(item), Some(changed)) = (item, changed) else { return Ok(()) };
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
    fn places_are_in_order_and_shared_ones_go_together() {
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
