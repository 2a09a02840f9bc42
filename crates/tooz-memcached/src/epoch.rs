//! The epoch of a server's run: what it forgets when it restarts, and where its tokens begin.

use std::time::SystemTime;

use tooz_core::{Error, ErrorKind, FencingToken, OperationId, Result};

use crate::keys::Keys;
use crate::wire::{How, Item, RAW, Reply, Request, Seconds};

/// An epoch begins when a coordinator finds none: on a server that has just started, was flushed, or
/// evicted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Epoch {
    id: String,
    /// When it began, in microseconds. CAS ids count the changes of a run, so base and CAS id
    /// together rise within an epoch, and from one to the next as long as the server makes less than
    /// a million changes a second and clocks are not set back.
    base: u64,
}

impl Epoch {
    /// What begins an epoch unless there is one, and asks for the one there is then. It is later
    /// than that of `last`.
    pub(crate) fn begin(keys: &Keys, last: Option<&Self>) -> Result<[Request; 2]> {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_micros();
        let base = u64::try_from(now).unwrap_or(u64::MAX);
        let base = match last {
            Some(last) => base.max(last.base.checked_add(1).ok_or_else(used_up)?),
            None => base,
        };
        let value = format!("{base}:{}", OperationId::random()).into_bytes();
        let key = keys.epoch();
        Ok([Request::store(&key, How::Add, RAW, Seconds::FOR_EVER, value), Request::get(&key)])
    }

    /// What the server says to [`begin`](Self::begin).
    pub(crate) fn begun([stored, item]: [Reply; 2]) -> Result<Self> {
        match stored.error() {
            Some(error) => Err(error),
            None => Self::read(&item.item()?.ok_or_else(Error::unexpected_answer)?),
        }
    }

    pub(crate) fn read(item: &Item) -> Result<Self> {
        let text = std::str::from_utf8(&item.value).map_err(|_| Error::unexpected_answer())?;
        let (base, id) = text.split_once(':').ok_or_else(Error::unexpected_answer)?;
        let base = base.parse().map_err(|_| Error::unexpected_answer())?;
        Ok(Self { id: id.to_owned(), base })
    }

    /// The token of an acquisition whose item has this CAS id.
    pub(crate) fn token(&self, cas: u64) -> Result<FencingToken> {
        self.base.checked_add(cas).map(FencingToken).ok_or_else(used_up)
    }
}

fn used_up() -> Error {
    Error::new(ErrorKind::Backend, "the epoch's item leaves no room for a higher fencing token")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(request: &Request) -> Item {
        let Request::Store(store) = request else { panic!("{request:?}") };
        Item { cas: 1, flags: RAW, value: store.value.clone(), left: None }
    }

    #[test]
    fn a_later_epoch_has_the_higher_tokens() {
        let keys = Keys::new("").unwrap();
        let first = Epoch::read(&value(&Epoch::begin(&keys, None).unwrap()[0])).unwrap();
        // Another host's clock is ahead.
        let ahead = Epoch { id: "x".into(), base: first.base + 60_000_000 };
        let second = Epoch::read(&value(&Epoch::begin(&keys, Some(&ahead)).unwrap()[0])).unwrap();
        let token = |epoch: &Epoch| epoch.token(1).unwrap();
        assert!(token(&second) > token(&ahead) && token(&ahead) > token(&first));
        let last = Epoch { id: "x".into(), base: u64::MAX };
        assert!(last.token(1).is_err() && Epoch::begin(&keys, Some(&last)).is_err());
        assert_ne!(first.id, second.id);
    }
}
