//! Transactions and events, in the words that both transports translate.

/// Something happened to a key.
#[derive(Clone, Debug)]
pub enum Event {
    /// It has a value, new or another.
    Put(KeyValue),
    /// It is gone.
    Deleted {
        /// The key.
        key: Vec<u8>,
        /// The revision that deleted it.
        revision: i64,
    },
}

impl Event {
    pub(crate) fn revision(&self) -> i64 {
        match self {
            Self::Put(put) => put.mod_revision,
            Self::Deleted { revision, .. } => *revision,
        }
    }
}

/// A key and what the server knows of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
    /// The revision that created it.
    pub create_revision: i64,
    /// The revision that changed it last.
    pub mod_revision: i64,
    /// The lease that it is attached to, or 0.
    pub lease: i64,
}

/// A key, or the keys from `key` up to but without `end`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// The key, or the first.
    pub key: Vec<u8>,
    /// Where the range ends; empty for a single key.
    pub end: Vec<u8>,
}

/// Which keys of a range are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// All, by their names.
    ByKey,
    /// The newest of those that are not newer than this revision; 0 for the newest of all.
    NewestUpTo(i64),
}

/// A transaction: if all comparisons hold, the first operations, else the others.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    /// The comparisons.
    pub when: Vec<Compare>,
    /// What is done if they hold.
    pub then: Vec<Op>,
    /// What is done if they do not.
    pub or: Vec<Op>,
}

/// A comparison with each key of a range. A range without keys is compared as one key of revision 0.
#[derive(Clone, Debug)]
pub struct Compare {
    /// What is compared. For [`Test`]s of values, a single key, which must exist.
    pub range: Range,
    /// With what.
    pub test: Test,
}

/// What a comparison asks.
#[derive(Clone, Debug)]
pub enum Test {
    /// Created by this revision; 0 for a key that does not exist.
    CreatedAt(i64),
    /// Created by a later revision than this.
    CreatedAfter(i64),
    /// Last changed by this revision.
    ModifiedAt(i64),
    /// This is the value.
    Value(Vec<u8>),
    /// The value is above this, byte by byte.
    ValueAbove(Vec<u8>),
    /// The value is below this, byte by byte.
    ValueBelow(Vec<u8>),
}

/// An operation of a transaction.
#[derive(Clone, Debug)]
pub enum Op {
    /// Reads keys.
    Get(Range, Order),
    /// Sets a key.
    Put {
        /// The key.
        key: Vec<u8>,
        /// Its value.
        value: Vec<u8>,
        /// The lease that it is attached to, or 0.
        lease: i64,
    },
    /// Deletes keys.
    Delete(Range),
}

/// What a transaction did.
#[derive(Clone, Debug)]
pub struct TxnReply {
    /// The revision of the store after it: its own, if it changed something.
    pub revision: i64,
    /// Whether the comparisons held.
    pub succeeded: bool,
    /// One for each operation.
    pub replies: Vec<Reply>,
}

/// What an operation did.
#[derive(Clone, Debug)]
pub enum Reply {
    /// What was read.
    Got(Vec<KeyValue>),
    /// It was set.
    Put,
    /// So many keys were deleted.
    Deleted(i64),
}

impl Range {
    /// A single key.
    pub fn key(key: impl Into<Vec<u8>>) -> Self {
        Self { key: key.into(), end: Vec::new() }
    }

    /// All keys that start so.
    pub fn prefix(prefix: impl Into<Vec<u8>>) -> Self {
        let mut key = prefix.into();
        let mut end = key.clone();
        if key.is_empty() {
            // No key is empty, so this one is before all.
            key.push(0);
        }
        // The last byte that can be raised is; without one, the range has no end.
        while let Some(last) = end.pop() {
            if last < u8::MAX {
                end.push(last + 1);
                return Self { key, end };
            }
        }
        Self { key, end: vec![0] }
    }

    pub(crate) fn absent(self) -> Compare {
        self.is(Test::CreatedAt(0))
    }

    pub(crate) fn is(self, test: Test) -> Compare {
        Compare { range: self, test }
    }

    pub(crate) fn get(self) -> Op {
        Op::Get(self, Order::ByKey)
    }

    pub(crate) fn delete(self) -> Op {
        Op::Delete(self)
    }
}

impl Op {
    pub(crate) fn put(key: &[u8], value: impl Into<Vec<u8>>, lease: i64) -> Self {
        Self::Put { key: key.to_vec(), value: value.into(), lease }
    }
}

impl Txn {
    /// These operations, whatever is there.
    pub(crate) fn of(ops: Vec<Op>) -> Self {
        Self::when(Vec::new(), ops)
    }

    /// These operations if all comparisons hold, else none.
    pub(crate) fn when(when: Vec<Compare>, then: Vec<Op>) -> Self {
        Self { when, then, or: Vec::new() }
    }

    /// How many bytes the server counts, or a few more.
    pub(crate) fn size(&self) -> usize {
        // The codes and lengths of the parts of one operation, a few numbers among them.
        const FRAME: usize = 64;
        let of_range = |range: &Range| FRAME + range.key.len() + range.end.len();
        let of_op = |op: &Op| match op {
            Op::Get(range, _) | Op::Delete(range) => of_range(range),
            Op::Put { key, value, .. } => FRAME + key.len() + value.len(),
        };
        let of_compare = |compare: &Compare| {
            of_range(&compare.range)
                + match &compare.test {
                    Test::Value(value) | Test::ValueAbove(value) | Test::ValueBelow(value) => {
                        value.len()
                    }
                    _ => 0,
                }
        };
        let ops = self.then.iter().chain(&self.or).map(of_op);
        FRAME + self.when.iter().map(of_compare).sum::<usize>() + ops.sum::<usize>()
    }
}

impl TxnReply {
    /// What its reads found, in their order; other operations do not count.
    pub(crate) fn ranges<const N: usize>(self) -> [Vec<KeyValue>; N] {
        let mut found = self.replies.into_iter().filter_map(|reply| match reply {
            Reply::Got(found) => Some(found),
            Reply::Put | Reply::Deleted(_) => None,
        });
        std::array::from_fn(|_| found.next().unwrap_or_default())
    }

    /// The same where each read is of one key at most.
    pub(crate) fn keys<const N: usize>(self) -> [Option<KeyValue>; N] {
        self.ranges().map(|found| found.into_iter().next())
    }

    /// How many keys its first deletion deleted.
    pub(crate) fn deleted(&self) -> i64 {
        let deleted = self.replies.iter().find_map(|reply| match reply {
            Reply::Deleted(count) => Some(*count),
            Reply::Got(_) | Reply::Put => None,
        });
        deleted.unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        let end = |prefix: &[u8]| Range::prefix(prefix).end;
        assert_eq!(end(b"tooz/groups/g/"), b"tooz/groups/g0");
        assert_eq!(end(b"a\xff"), b"b");
        assert_eq!(end(b"\xff"), b"\0");
        assert_eq!(Range::prefix(b""), Range { key: vec![0], end: vec![0] });
    }
    #[test]
    fn reads_are_told_apart_by_their_order_alone() {
        let found = |key: &[u8]| KeyValue { key: key.into(), ..KeyValue::default() };
        let replies =
            vec![Reply::Got(vec![found(b"a")]), Reply::Put, Reply::Deleted(2), Reply::Got(vec![])];
        let reply = TxnReply { revision: 1, succeeded: true, replies };
        assert_eq!(reply.deleted(), 2);
        assert_eq!(reply.keys(), [Some(found(b"a")), None, None]);
    }
}
