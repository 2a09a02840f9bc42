//! The names of keys. What the Python drivers know has their names; all else is below `tooz-ext/`,
//! where they never look.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use tooz_core::{Error, GroupId, LockName, MemberId, Mode, OperationId, Result};

use crate::txn::{KeyValue, Range};

/// Kept as they are in a part of our own keys.
const PART: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

/// How the value of a lock that readers share begins; the number of their lease follows. A holder's
/// value is 16 random bytes.
const SHARED: &[u8] = b"shared:";

/// Where the locks are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Where the Python driver `etcd3+http` has them: `/tooz/locksNAME`.
    #[default]
    Gateway,
    /// Where the Python driver `etcd3`, of tooz 4.3 and before, had them: `/locks/NAME`.
    Etcd3,
}

/// The keys of a namespace.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    namespace: Vec<u8>,
    layout: Layout,
}

/// The keys of a lock, or of the leadership of a group.
#[derive(Clone, Debug)]
pub(crate) struct LockKeys {
    /// Exists while somebody has it.
    pub(crate) key: Vec<u8>,
    /// What stands in its value after the operation's id.
    suffix: Vec<u8>,
    /// The prefix of the queue's entries.
    queue: Vec<u8>,
    /// The prefix of the keys of those who share it.
    readers: Vec<u8>,
}

impl Keys {
    pub(crate) fn new(namespace: &str, layout: Layout) -> Self {
        Self { namespace: namespace.as_bytes().to_vec(), layout }
    }

    fn named(&self, parts: &[&[u8]]) -> Vec<u8> {
        let mut key = self.namespace.clone();
        parts.iter().for_each(|part| key.extend_from_slice(part));
        key
    }

    /// All keys.
    pub(crate) fn all(&self) -> Range {
        Range::prefix(self.namespace.clone())
    }

    // ---- Groups, as in Python.

    pub(crate) fn groups(&self) -> Vec<u8> {
        self.named(&[b"tooz/groups/"])
    }

    pub(crate) fn group(&self, group: &GroupId) -> Vec<u8> {
        self.named(&[b"tooz/groups/", group.as_bytes(), b"/"])
    }

    pub(crate) fn member(&self, group: &GroupId, member: &MemberId) -> Vec<u8> {
        self.named(&[b"tooz/groups/", group.as_bytes(), b"/", member.as_bytes()])
    }

    /// The members of a group, without the group's own key.
    pub(crate) fn members(&self, group: &GroupId) -> Range {
        let mut range = Range::prefix(self.group(group));
        range.key.push(0);
        range
    }

    /// The group whose own key this is.
    pub(crate) fn group_of(&self, key: &[u8]) -> Option<GroupId> {
        let group = key.strip_prefix(&self.groups()[..])?.strip_suffix(b"/")?;
        (!group.is_empty() && !group.contains(&b'/')).then(|| GroupId::from(group))
    }

    /// Whether the key is a member's.
    pub(crate) fn is_member(&self, key: &[u8]) -> bool {
        key.starts_with(&self.groups())
    }

    // ---- Sessions.

    /// Exists while the session does.
    pub(crate) fn session(&self, lease: i64) -> Vec<u8> {
        self.named(&[b"tooz-ext/sessions/", format!("{lease:016x}").as_bytes()])
    }

    pub(crate) fn sessions(&self) -> Range {
        Range::prefix(self.named(&[b"tooz-ext/sessions/"]))
    }

    /// Tells a session that a lock was broken, by the id of the operation that acquired it, or that a
    /// membership was removed, by the revision that created it.
    pub(crate) fn notice(&self, lease: i64, what: &str) -> Vec<u8> {
        [&self.session(lease), &b"/"[..], what.as_bytes()].concat()
    }

    // ---- Locks and terms.

    pub(crate) fn lock(&self, name: &LockName) -> LockKeys {
        let prefix: &[u8] = match self.layout {
            Layout::Gateway => b"/tooz/locks",
            Layout::Etcd3 => b"/locks/",
        };
        self.lock_keys(&[prefix, name.as_bytes()], Vec::new())
    }

    pub(crate) fn leader(&self, group: &GroupId, member: &MemberId) -> LockKeys {
        let name = percent_encode(group.as_bytes(), PART).to_string();
        self.lock_keys(&[b"tooz-ext/leaders/", name.as_bytes()], member.as_bytes().to_vec())
    }

    /// The operation whose entry in a queue or among readers this is, as [`OperationId`] prints it.
    pub(crate) fn operation_of<'k>(&self, key: &'k [u8]) -> Option<&'k str> {
        let rest = key.strip_prefix(&self.namespace[..])?;
        let queue = rest.strip_prefix(b"tooz-ext/queues/");
        let rest = queue.or_else(|| rest.strip_prefix(b"tooz-ext/readers/"))?;
        std::str::from_utf8(rest.rsplit(|byte| *byte == b'/').next()?).ok()
    }

    fn lock_keys(&self, name: &[&[u8]], suffix: Vec<u8>) -> LockKeys {
        let part = percent_encode(&name.concat(), PART).to_string();
        let part = part.as_bytes();
        LockKeys {
            key: self.named(name),
            suffix,
            queue: self.named(&[b"tooz-ext/queues/", part, b"/"]),
            readers: self.named(&[b"tooz-ext/readers/", part, b"/"]),
        }
    }
}

impl LockKeys {
    /// The lock's own key.
    pub(crate) fn lock(&self) -> Range {
        Range::key(self.key.clone())
    }

    /// The value of the lock while only one holds it.
    pub(crate) fn value(&self, id: OperationId) -> Vec<u8> {
        [id.as_bytes(), &self.suffix[..]].concat()
    }

    /// An entry in the queue. Writers and readers are apart: a reader waits for writers alone.
    pub(crate) fn entry(&self, id: OperationId, mode: Mode) -> Vec<u8> {
        let kind: &[u8] = if mode == Mode::Shared { b"s/" } else { b"x/" };
        [&self.queue, kind, id.to_string().as_bytes()].concat()
    }

    /// The entries that one of this mode waits for, if they are older.
    pub(crate) fn entries_before(&self, mode: Mode) -> Range {
        let kind: &[u8] = if mode == Mode::Shared { b"x/" } else { b"" };
        Range::prefix([&self.queue, kind].concat())
    }

    /// One of those who share it.
    pub(crate) fn reader(&self, id: OperationId) -> Vec<u8> {
        [&self.readers, id.to_string().as_bytes()].concat()
    }

    pub(crate) fn readers(&self) -> Range {
        Range::prefix(self.readers.clone())
    }

    /// All who share it but for this one.
    pub(crate) fn other_readers(&self, reader: &[u8]) -> [Range; 2] {
        let all = self.readers();
        let after = [reader, b"\0"].concat();
        [Range { key: all.key, end: reader.to_vec() }, Range { key: after, end: all.end }]
    }
}

/// The value of a lock whose readers keep this lease alive.
pub(crate) fn shared_value(lease: i64) -> Vec<u8> {
    [SHARED, format!("{lease:016x}").as_bytes()].concat()
}

/// The values that [`shared_value`] makes: above the one and below the other.
pub(crate) fn shared_values() -> (Vec<u8>, Vec<u8>) {
    let range = Range::prefix(SHARED);
    (range.key, range.end)
}

/// The lease that the readers of a lock keep alive; `None` if it is not shared.
pub(crate) fn shared_lease(lock: &KeyValue) -> Option<i64> {
    let number = std::str::from_utf8(lock.value.strip_prefix(SHARED)?).ok()?;
    i64::from_str_radix(number, 16).ok()
}

/// The operation in the value of a lock or a term, as [`OperationId`] prints it.
pub(crate) fn operation_in(value: &[u8]) -> String {
    value.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// A slash would let one group's members be another group's.
pub(crate) fn check_group(group: &GroupId) -> Result<()> {
    check(group.as_bytes(), "group")
}

pub(crate) fn check_member(member: &MemberId) -> Result<()> {
    check(member.as_bytes(), "member")
}

fn check(id: &[u8], what: &'static str) -> Result<()> {
    if !id.contains(&b'/') {
        return Ok(());
    }
    Err(Error::invalid(format!("the id of a {what} must not contain a slash"))
        .with(what, id.escape_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        Keys::new("", Layout::Gateway)
    }

    #[test]
    fn what_python_knows_has_its_names() {
        let (group, member) = (GroupId::from("g"), MemberId::from("m"));
        assert_eq!(keys().group(&group), b"tooz/groups/g/");
        assert_eq!(keys().member(&group, &member), b"tooz/groups/g/m");
        assert_eq!(keys().members(&group).end, b"tooz/groups/g0");
        assert_eq!(keys().lock(&"foo".into()).key, b"/tooz/locksfoo");
        assert_eq!(Keys::new("", Layout::Etcd3).lock(&"foo".into()).key, b"/locks/foo");
        assert_eq!(Keys::new("n/", Layout::Gateway).lock(&"foo".into()).key, b"n//tooz/locksfoo");
    }

    #[test]
    fn a_member_is_no_group() {
        assert_eq!(keys().group_of(b"tooz/groups/g/"), Some("g".into()));
        for other in ["tooz/groups/g/m", "tooz/groups/g", "tooz/groups/", "tooz/groups/g/m/"] {
            assert_eq!(keys().group_of(other.as_bytes()), None, "{other}");
        }
        assert!(check_group(&"a/b".into()).is_err() && check_member(&"a/b".into()).is_err());
    }

    #[test]
    fn the_queues_of_different_locks_never_overlap() {
        let (a, b) = (keys().lock(&"a".into()), keys().lock(&"a/x".into()));
        let id = OperationId::random();
        let (all, entry) = (a.entries_before(Mode::Exclusive), b.entry(id, Mode::Exclusive));
        assert!(!(all.key <= entry && entry < all.end));
        let mine = a.entry(id, Mode::Shared);
        assert!(all.key <= mine && mine < all.end);
        let writers = a.entries_before(Mode::Shared);
        assert!(!(writers.key <= mine && mine < writers.end), "a reader is no writer");
    }

    #[test]
    fn a_shared_lock_is_known_by_its_value() {
        let (above, below) = shared_values();
        let value = shared_value(7);
        assert!(above < value && value < below);
        let lock = KeyValue { value, ..KeyValue::default() };
        assert_eq!(shared_lease(&lock), Some(7));
        let other = KeyValue { value: vec![0; 16], ..KeyValue::default() };
        assert_eq!(shared_lease(&other), None);
    }

    #[test]
    fn the_other_readers_are_all_but_one() {
        let lock = keys().lock(&"a".into());
        let (one, two) = (lock.reader(OperationId::random()), lock.reader(OperationId::random()));
        let others = lock.other_readers(&one);
        let has = |key: &Vec<u8>| others.iter().any(|r| r.key <= *key && *key < r.end);
        assert!(has(&two) && !has(&one));
    }
}
