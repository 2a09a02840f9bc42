//! The names that things have at the server, and how values and conditions are written in SQL.

use sha2::{Digest as _, Sha256};
use tooz_core::{Error, GroupId, LockName, MemberId, Mode, OperationId, Result};

/// What an index of the server takes with room to spare.
const LONGEST_ID: usize = 1_000;

/// The longest name that MySQL's GET_LOCK accepts.
const LONGEST_NAME: usize = 64;

/// What our own names begin with.
const PREFIX: &str = "tooz.";

/// The namespace that shares its locks with the Python original.
pub(crate) const DEFAULT_NAMESPACE: &str = "tooz";

/// How lock names become names of named locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// As it is where every server keeps it apart from all others, and a digest otherwise.
    Safe,
    /// Always as it is: the original's.
    Python,
}

/// A namespace: the beginning of its tables' names.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    namespace: String,
    database: String,
    layout: Layout,
}

/// Something that is acquired: a named lock, which is also the key of its row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LockKeys(Vec<u8>);

impl Keys {
    pub(crate) fn new(database: &str, namespace: &str, layout: Layout) -> Self {
        Self { namespace: namespace.to_owned(), database: database.to_owned(), layout }
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A table. Neither part can hold a quote.
    pub(crate) fn table(&self, name: &str) -> String {
        format!("`{}_{name}`", self.namespace)
    }

    pub(crate) fn lock(&self, name: &LockName) -> Result<LockKeys> {
        let bytes = name.as_bytes();
        let shared = self.namespace == DEFAULT_NAMESPACE;
        match self.layout {
            Layout::Python if !shared => Err(Error::invalid(
                "layout=python needs the namespace tooz: the original knows no other",
            )),
            Layout::Python if bytes.len() > LONGEST_NAME => Err(Error::invalid(format!(
                "a lock's name has at most {LONGEST_NAME} bytes with layout=python, not {}",
                bytes.len()
            ))),
            Layout::Python => Ok(LockKeys(bytes.to_vec())),
            Layout::Safe if shared && is_plain(bytes) => Ok(LockKeys(bytes.to_vec())),
            Layout::Safe => Ok(self.digest("l", bytes)),
        }
    }

    pub(crate) fn term(&self, group: &GroupId) -> LockKeys {
        self.digest("e", group.as_bytes())
    }

    fn digest(&self, kind: &str, name: &[u8]) -> LockKeys {
        let mut hash = Sha256::new();
        // Only the last part may hold a zero byte, so that no two of these are the same text.
        for part in [&self.database, &self.namespace, kind] {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        hash.update(name);
        let digest = &hash.finalize()[..20];
        LockKeys(format!("{PREFIX}{kind}.{}", hexadecimal(digest)).into_bytes())
    }
}

/// Whether every server takes the name, and for no other: one of them does not tell upper case from
/// lower, none tells much of what is not ASCII, and our own begin with a prefix.
fn is_plain(name: &[u8]) -> bool {
    let plain = |byte: &u8| matches!(byte, b'!'..=b'~') && !byte.is_ascii_uppercase();
    name.len() <= LONGEST_NAME && name.iter().all(plain) && !name.starts_with(PREFIX.as_bytes())
}

impl LockKeys {
    /// What is the same for all names that a server might take for one lock.
    pub(crate) fn folded(&self) -> Self {
        match std::str::from_utf8(&self.0) {
            Ok(text) => Self(text.to_lowercase().into_bytes()),
            Err(_) => self.clone(),
        }
    }

    /// As a value in SQL.
    pub(crate) fn sql(&self) -> String {
        literal(&self.0)
    }

    /// The named lock that a holder holds, as a value in SQL.
    pub(crate) fn held(&self, mode: Mode, id: OperationId) -> String {
        match mode {
            Mode::Exclusive => self.sql(),
            Mode::Shared => reader(id.as_bytes()),
        }
    }

    /// In SQL: whether the connection that is asked holds it.
    pub(crate) fn is_held(&self, mode: Mode, id: OperationId) -> String {
        let name = self.held(mode, id);
        format!("SELECT CAST(IS_USED_LOCK({name})<=>CONNECTION_ID() AS SIGNED)")
    }
}

/// The server's time in milliseconds.
pub(crate) const NOW: &str = "CAST(UNIX_TIMESTAMP(NOW(3))*1000 AS UNSIGNED)";

/// What a connection holds as long as it lives.
pub(crate) fn marker(id: OperationId) -> String {
    format!("'{PREFIX}s.{id}'")
}

/// What a shared holder holds, by the bytes of its operation.
pub(crate) fn reader(operation: &[u8]) -> String {
    format!("'{PREFIX}r.{}'", hexadecimal(operation))
}

/// In SQL: whether the connection that the row names holds the lock of its kind and id.
pub(crate) fn lives(kind: &str, id: &str, connection: &str) -> String {
    format!("(IS_USED_LOCK(CONCAT('{PREFIX}{kind}.',LOWER(HEX({id}))))<=>{connection})")
}

/// Bytes as a value in SQL: nothing in them can end it.
pub(crate) fn literal(bytes: &[u8]) -> String {
    format!("X'{}'", hexadecimal(bytes))
}

fn hexadecimal(bytes: &[u8]) -> String {
    // Of what members publish this may be much, and all locks of a process are renewed by one thread.
    let digit = |half: u8| char::from(if half < 10 { b'0' + half } else { b'a' + half - 10 });
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

pub(crate) fn check_group(group: &GroupId) -> Result<()> {
    check(group.as_bytes(), "group")
}

pub(crate) fn check_member(member: &MemberId) -> Result<()> {
    check(member.as_bytes(), "member")
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

    fn safe(namespace: &str) -> Keys {
        Keys::new("db", namespace, Layout::Safe)
    }

    #[test]
    fn plain_names_are_those_of_the_original() {
        for plain in ["foo", "volume-17", "a/b:c.d", &"x".repeat(64)] {
            assert_eq!(safe("tooz").lock(&plain.into()).unwrap().0, plain.as_bytes());
        }
    }

    #[test]
    fn what_a_server_might_confuse_is_a_digest() {
        let keys = safe("tooz");
        let long = "x".repeat(65);
        let odd = ["Foo", "FOO", "f oo", "foo ", "é", "tooz.s.1", "f\0o", &long];
        let mut seen = Vec::new();
        for name in odd {
            let LockKeys(bytes) = keys.lock(&name.into()).unwrap();
            assert!(bytes.starts_with(b"tooz.l.") && bytes.len() == 47, "{name}");
            assert!(!seen.contains(&bytes), "{name}");
            seen.push(bytes);
        }
    }

    #[test]
    fn namespaces_databases_and_kinds_are_apart() {
        let all = [
            safe("a").lock(&"x".into()).unwrap(),
            safe("b").lock(&"x".into()).unwrap(),
            Keys::new("other", "a", Layout::Safe).lock(&"x".into()).unwrap(),
            safe("a").term(&"x".into()),
        ];
        for (index, key) in all.iter().enumerate() {
            assert!(!all[..index].contains(key));
        }
        // It must not change: processes of several versions work together.
        assert_eq!(all[0].0, b"tooz.l.48d09911ab22d6f2b5850771af44db24536accfb");
    }

    #[test]
    fn the_original_layout_takes_every_name_as_it_is() {
        let keys = Keys::new("db", "tooz", Layout::Python);
        assert_eq!(keys.lock(&"f oo".into()).unwrap().0, b"f oo");
        let [one, other] = ["Foo", "fOO"].map(|name| keys.lock(&name.into()).unwrap());
        assert_eq!(one.0, b"Foo");
        assert_eq!(one.folded(), other.folded(), "one lock on MySQL");
        assert!(keys.lock(&"x".repeat(65)[..].into()).is_err());
        assert!(Keys::new("db", "other", Layout::Python).lock(&"x".into()).is_err());
    }

    #[test]
    fn values_cannot_end_themselves() {
        assert_eq!(literal(b"a'\\"), "X'61275c'");
        assert_eq!(literal(b""), "X''");
    }
}
