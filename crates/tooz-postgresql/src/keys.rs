//! The numbers that names have in the server's lock table.

use std::fmt;

use md5::Md5;
use sha2::{Digest, Sha256};
use tooz_core::{Capabilities, Error, GroupId, LockName, MemberId, Mode, OperationId, Result};

/// What an index of the server takes with room to spare.
const LONGEST_ID: usize = 1_000;

/// What is sent on the connection that a heartbeat may have to wait behind.
const MOST_CAPABILITIES: usize = 16 * 1024 * 1024;

/// An advisory lock. The two kinds never meet in the server's lock table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    /// 64 bits, ours.
    Wide(i64),
    /// 16 bits as two numbers: the original's.
    Python(u8, u8),
}

/// What is acquired: a lock or a term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LockKeys {
    pub(crate) key: Key,
    /// The group, if it is its leadership.
    pub(crate) term_in: Option<GroupId>,
}

/// How lock names become keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    Wide,
    Python,
}

/// A namespace: the schema's name.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    schema: String,
    layout: Layout,
}

impl Keys {
    pub(crate) fn new(schema: &str, layout: Layout) -> Self {
        Self { schema: schema.to_owned(), layout }
    }

    pub(crate) fn schema(&self) -> &str {
        &self.schema
    }

    pub(crate) fn lock(&self, name: &LockName) -> LockKeys {
        let key = match self.layout {
            Layout::Wide => Key::Wide(self.hash("lock", name.as_bytes())),
            Layout::Python => {
                let digest = Md5::digest(name.as_bytes());
                Key::Python(digest[0], digest[1])
            }
        };
        LockKeys { key, term_in: None }
    }

    pub(crate) fn term(&self, group: &GroupId) -> LockKeys {
        let key = Key::Wide(self.hash("leader", group.as_bytes()));
        LockKeys { key, term_in: Some(group.clone()) }
    }

    /// What a connection holds as long as it lives.
    pub(crate) fn connection(&self, id: OperationId) -> i64 {
        self.hash("connection", id.as_bytes())
    }

    /// Whoever creates the tables holds it.
    pub(crate) fn creation(&self) -> i64 {
        self.hash("schema", b"")
    }

    /// What every session of the namespace listens to.
    pub(crate) fn channel(&self) -> String {
        format!("tooz_{:016x}", self.hash("channel", b""))
    }

    /// What is said in the channel when a group has changed.
    pub(crate) fn change(&self, group: &GroupId) -> String {
        format!("group {:016x}", self.hash("group", group.as_bytes()))
    }

    /// What is said when somebody has removed a member of the session with that key.
    pub(crate) fn removal(&self, session: i64) -> String {
        format!("removed {session:016x}")
    }

    /// What the server's views show our connections as.
    pub(crate) fn application(&self, member: &MemberId) -> String {
        format!("tooz:{}:{}", self.schema, member)
    }

    fn hash(&self, kind: &str, name: &[u8]) -> i64 {
        let mut hash = Sha256::new();
        // A schema's name has no zero byte, so that no two of these are the same text.
        for part in [b"tooz", self.schema.as_bytes(), kind.as_bytes()] {
            hash.update(part);
            hash.update([0]);
        }
        hash.update(name);
        let digest = hash.finalize();
        i64::from_be_bytes(std::array::from_fn(|byte| digest[byte]))
    }
}

impl Key {
    pub(crate) fn try_lock(self, mode: Mode) -> String {
        format!("pg_try_advisory_lock{}({self})", suffix(mode))
    }

    pub(crate) fn lock(self, mode: Mode) -> String {
        format!("pg_advisory_lock{}({self})", suffix(mode))
    }

    pub(crate) fn unlock(self, mode: Mode) -> String {
        format!("pg_advisory_unlock{}({self})", suffix(mode))
    }

    /// What finds its holders in `pg_locks`.
    pub(crate) fn in_pg_locks(self) -> String {
        let (class, object, kind) = match self {
            Self::Wide(key) => {
                let bits = key.cast_unsigned();
                (bits >> 32, bits & u64::from(u32::MAX), 1)
            }
            Self::Python(one, two) => (u64::from(one), u64::from(two), 2),
        };
        format!(
            "locktype = 'advisory' AND granted AND classid = {class}::oid \
             AND objid = {object}::oid AND objsubid = {kind} AND pid IS NOT NULL AND database = \
             (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
    }

    /// Its number in a message.
    pub(crate) fn id(self) -> String {
        match self {
            Self::Wide(key) => format!("{key}"),
            Self::Python(one, two) => format!("{one}.{two}"),
        }
    }
}

fn suffix(mode: Mode) -> &'static str {
    match mode {
        Mode::Exclusive => "",
        Mode::Shared => "_shared",
    }
}

/// As the arguments of the server's functions. They are numbers, so they need no quoting.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wide(key) => write!(f, "'{key}'::bigint"),
            Self::Python(one, two) => write!(f, "{one}, {two}"),
        }
    }
}

/// A name as an identifier.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

pub(crate) fn check_group(group: &GroupId) -> Result<()> {
    check(group.as_bytes(), "group")
}

pub(crate) fn check_member(member: &MemberId) -> Result<()> {
    check(member.as_bytes(), "member")
}

pub(crate) fn check_capabilities(capabilities: &Capabilities) -> Result<()> {
    let (length, most) = (capabilities.as_msgpack().len(), MOST_CAPABILITIES);
    if length <= most {
        return Ok(());
    }
    Err(Error::invalid(format!("capabilities have at most {most} bytes here, not {length}")))
}

fn check(id: &[u8], what: &str) -> Result<()> {
    if id.len() <= LONGEST_ID {
        return Ok(());
    }
    let (length, longest) = (id.len(), LONGEST_ID);
    Err(Error::invalid(format!("a {what}'s id has at most {longest} bytes here, not {length}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_keys_are_the_original_ones() {
        let keys = Keys::new("tooz", Layout::Python);
        let foo = keys.lock(&"foo".into()).key;
        assert_eq!(foo, Key::Python(172, 189));
        assert_eq!(keys.lock(&"lock-18755".into()).key, foo, "which is why it is no default");
        assert_eq!(foo.try_lock(Mode::Exclusive), "pg_try_advisory_lock(172, 189)");
        assert!(matches!(keys.term(&"foo".into()).key, Key::Wide(_)));
    }

    #[test]
    fn names_kinds_and_schemas_are_apart() {
        let (one, two) = (Keys::new("a", Layout::Wide), Keys::new("b", Layout::Wide));
        let all = [
            one.lock(&"x".into()).key,
            two.lock(&"x".into()).key,
            one.lock(&"y".into()).key,
            one.term(&"x".into()).key,
        ];
        for (index, key) in all.iter().enumerate() {
            assert!(!all[..index].contains(key));
        }
        // It must not change: processes of several versions work together.
        assert_eq!(Keys::new("tooz", Layout::Wide).lock(&"foo".into()).key, Key::Wide(FOO));
    }

    const FOO: i64 = 3_580_148_503_269_494_630;

    #[test]
    fn the_least_number_is_an_argument_too() {
        let key = Key::Wide(i64::MIN);
        assert_eq!(
            key.lock(Mode::Shared),
            "pg_advisory_lock_shared('-9223372036854775808'::bigint)"
        );
        assert!(key.in_pg_locks().contains("classid = 2147483648::oid AND objid = 0::oid"));
    }
}
