//! Transactions over keys: all of it or nothing, in one request.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use tooz_core::{Error, ErrorKind, Result};

use crate::errors;

/// How many operations a server takes at once.
pub(crate) const LIMIT: usize = 64;

/// How large a transaction may be as servers are by default, in bytes (`txn_max_req_len` and
/// `kv_max_value_size`). They break the connection over a larger one.
pub(crate) const LARGEST: usize = 524_288;

/// One operation of a transaction.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Op {
    #[serde(rename = "KV")]
    kv: Kv,
}

#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Kv {
    verb: &'static str,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flags: Option<u64>,
}

impl Op {
    fn new(verb: &'static str, key: &str) -> Self {
        Self { kv: Kv { verb, key: key.to_owned(), ..Kv::default() } }
    }

    fn value(mut self, value: &[u8]) -> Self {
        self.kv.value = Some(STANDARD.encode(value));
        self
    }

    fn session(mut self, session: &str) -> Self {
        self.kv.session = Some(session.to_owned());
        self
    }

    /// Locks the key for a session that lives, unless another one has it, and sets its value. The
    /// same session may do so again.
    pub(crate) fn lock(key: &str, value: &[u8], session: &str) -> Self {
        Self::new("lock", key).value(value).session(session)
    }

    /// Unlocks the key if that session has it, and sets its value.
    pub(crate) fn unlock(key: &str, value: &[u8], session: &str) -> Self {
        Self::new("unlock", key).value(value).session(session)
    }

    /// Sets the value, whoever has the key.
    pub(crate) fn set(key: &str, value: &[u8]) -> Self {
        Self::new("set", key).value(value)
    }

    /// Sets the number that stands beside the value.
    pub(crate) fn flags(mut self, flags: u64) -> Self {
        self.kv.flags = Some(flags);
        self
    }

    /// Reads the key, which must be there.
    pub(crate) fn get(key: &str) -> Self {
        Self::new("get", key)
    }

    /// Reads all keys that begin so.
    pub(crate) fn tree(prefix: &str) -> Self {
        Self::new("get-tree", prefix)
    }

    /// Deletes the key if it is there.
    pub(crate) fn delete(key: &str) -> Self {
        Self::new("delete", key)
    }

    /// Deletes all keys that begin so.
    pub(crate) fn delete_tree(prefix: &str) -> Self {
        Self::new("delete-tree", prefix)
    }

    /// Fails unless that session has the key.
    pub(crate) fn check_session(key: &str, session: &str) -> Self {
        Self::new("check-session", key).session(session)
    }

    /// Fails unless the key was last changed at that index.
    pub(crate) fn check_index(key: &str, index: u64) -> Self {
        let mut op = Self::new("check-index", key);
        op.kv.index = Some(index);
        op
    }

    /// Fails if there is such a key.
    pub(crate) fn check_absent(key: &str) -> Self {
        Self::new("check-not-exists", key)
    }
}

/// The keys in parts of which each can be read in one transaction.
pub(crate) fn chunks<'k>(mut keys: &'k [&'k str]) -> impl Iterator<Item = &'k [&'k str]> {
    // As JSON, a byte of a key takes two at most, and an operation without its key far less than 100.
    let room = |key: &str| 2 * key.len() + 100;
    std::iter::from_fn(move || {
        let mut left = LARGEST;
        let fits = |key: &&&str| {
            let fits = left.checked_sub(room(key));
            left = fits.unwrap_or_default();
            fits.is_some()
        };
        // One that fits nowhere is refused by itself.
        let count = keys.iter().take(LIMIT).take_while(fits).count().max(1).min(keys.len());
        let (chunk, rest) = keys.split_at(count);
        keys = rest;
        (!chunk.is_empty()).then_some(chunk)
    })
}

/// A key and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) value: Vec<u8>,
    /// Whose it is.
    pub(crate) session: Option<String>,
    /// The raft index at which it was made.
    pub(crate) created: u64,
    /// The raft index at which it was last changed.
    pub(crate) changed: u64,
    pub(crate) flags: u64,
}

impl Entry {
    pub(crate) fn is_of(&self, session: &str) -> bool {
        self.session.as_deref() == Some(session)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct RawEntry {
    key: String,
    #[serde(default)]
    value: Option<String>,
    #[serde(default)]
    session: Option<String>,
    create_index: u64,
    modify_index: u64,
    #[serde(default)]
    flags: u64,
}

impl RawEntry {
    pub(crate) fn read(self) -> Result<Entry> {
        let value = STANDARD.decode(self.value.unwrap_or_default()).map_err(|e| {
            Error::new(ErrorKind::Serialization, "the server's answer is not the expected JSON")
                .caused_by(e)
        })?;
        Ok(Entry {
            key: self.key,
            value,
            session: self.session.filter(|session| !session.is_empty()),
            created: self.create_index,
            changed: self.modify_index,
            flags: self.flags,
        })
    }
}

/// What came of a transaction.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// All of it, and the keys as they are now; those written come without their values.
    Done(Done),
    /// Nothing.
    Refused(Refusal),
}

#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) entries: Vec<Entry>,
}

impl Done {
    /// The key of that very name.
    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// The raft index of the key's last change in the transaction.
    pub(crate) fn index(&self, key: &str) -> u64 {
        self.entries.iter().rev().find(|entry| entry.key == key).map_or(0, |entry| entry.changed)
    }
}

/// Which operations failed, in their order.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) failed: Vec<usize>,
}

impl Refusal {
    /// Whether that operation failed.
    pub(crate) fn has(&self, operation: usize) -> bool {
        self.failed.contains(&operation)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct RawOutcome {
    #[serde(default)]
    results: Option<Vec<RawResult>>,
    #[serde(default)]
    errors: Option<Vec<RawError>>,
}

#[derive(Deserialize)]
struct RawResult {
    #[serde(rename = "KV")]
    kv: Option<RawEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawError {
    #[serde(default)]
    op_index: usize,
    #[serde(default)]
    what: String,
}

impl RawOutcome {
    pub(crate) fn read(self) -> Result<Outcome> {
        let failures = self.errors.unwrap_or_default();
        for failure in &failures {
            if failure.what.contains("invalid session") {
                return Err(errors::session_lost());
            }
            if errors::is_denied(&failure.what) {
                return Err(errors::denied(&failure.what));
            }
        }
        if !failures.is_empty() {
            let failed = failures.iter().map(|failure| failure.op_index).collect();
            return Ok(Outcome::Refused(Refusal { failed }));
        }
        let entries = self.results.unwrap_or_default().into_iter().filter_map(|result| result.kv);
        Ok(Outcome::Done(Done { entries: entries.map(RawEntry::read).collect::<Result<_>>()? }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_fit_into_a_transaction() {
        let (short, long) = ("k".to_owned(), "\"".repeat(40_000));
        let sizes = |keys: &[&str]| chunks(keys).map(<[_]>::len).collect::<Vec<_>>();
        assert_eq!(sizes(&vec![&*short; 130]), [64, 64, 2]);
        assert_eq!(sizes(&vec![&*long; 13]), [6, 6, 1]);
        assert_eq!(sizes(&[&*"k".repeat(600_000), &*short]), [1, 1]);
        assert!(sizes(&[]).is_empty());
        let ops: Vec<_> = [&*long; 6].into_iter().map(Op::get).collect();
        assert!(serde_json::to_vec(&ops).unwrap().len() <= LARGEST);
    }
}
