//! Where everything is: the layout of the Python original.
//!
//! An entry in the queue of a lock or of a leadership is called `ID__lock__NUMBER`, where the server
//! gives the number. Entries of peers in Python look the same. One that shares is
//! `ID-shared__lock__NUMBER`: to a peer in Python it is an entry like all others.

use tooz_core::{Error, GroupId, LockName, MemberId, Mode, OperationId, Result};

/// The children of a namespace and of a group that are no group and no member.
const LOCKS: &str = "locks";
const LEADER: &str = "leader";
/// Ours alone: who is connected. It is where a Python peer would look for a lock of this
/// name, and finds no entries.
const SESSIONS: &str = ".sessions";

const MARK: &str = "__lock__";
const SHARED: &str = "-shared";

/// Bytes that the longest name of an entry adds to the path of its queue.
const LONGEST_ENTRY: usize = "/".len() + 32 + SHARED.len() + MARK.len() + "-2147483648".len();

/// The paths of a namespace, below the chroot.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    base: String,
    /// How many bytes one of them may have.
    longest: usize,
}

/// The keys of a lock, or of the leadership of a group.
#[derive(Clone, Debug)]
pub(crate) struct LockKeys {
    /// The node whose children queue.
    pub(crate) queue: String,
    /// The group that must exist, if it is for its leadership.
    pub(crate) group: Option<GroupId>,
}

/// A queue's entry, as its name tells.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) number: i32,
    pub(crate) shared: bool,
}

impl Keys {
    /// `namespace` is a path without its first slash.
    pub(crate) fn new(namespace: &str, longest: usize) -> Result<Self> {
        for part in namespace.split('/') {
            check_part(part, "the namespace")?;
        }
        let keys = Self { base: format!("/{namespace}"), longest };
        keys.fits(&keys.session(0), 0, "the namespace")?;
        Ok(keys)
    }

    /// Refuses a path that would be too long, with what `follows` it in the longest one below it.
    fn fits(&self, path: &str, follows: usize, what: &str) -> Result<()> {
        let (length, longest) = (path.len() + follows, self.longest);
        if length <= longest {
            return Ok(());
        }
        let why =
            format!("is too long: a path would have {length} bytes, and {longest} are allowed");
        Err(refuse(what, &why))
    }

    /// The node whose children are the groups.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    pub(crate) fn sessions(&self) -> String {
        format!("{}/{LOCKS}/{SESSIONS}", self.base)
    }

    /// The node that says that a session is there.
    pub(crate) fn session(&self, id: i64) -> String {
        format!("{}/{id:016x}", self.sessions())
    }

    /// Slashes in the name nest, as in the original.
    pub(crate) fn lock(&self, name: &LockName) -> Result<LockKeys> {
        let text = text(name.as_bytes(), "the lock name")?;
        for part in text.split('/') {
            check_part(part, "the lock name")?;
            if is_entry(part) {
                return Err(refuse("the lock name", "looks like a contender for a lock"));
            }
        }
        if text.split('/').next() == Some(SESSIONS) {
            return Err(refuse("the lock name", "is reserved"));
        }
        let path = format!("{}/{LOCKS}/{text}", self.base);
        self.fits(&path, LONGEST_ENTRY, "the lock name")?;
        Ok(LockKeys { queue: path, group: None })
    }

    pub(crate) fn group(&self, group: &GroupId) -> Result<String> {
        let text = text(group.as_bytes(), "the group id")?;
        check_part(text, "the group id")?;
        if text == LOCKS {
            return Err(refuse("the group id", "is reserved: the locks are there"));
        }
        let path = format!("{}/{text}", self.base);
        self.fits(&path, 1 + LEADER.len() + LONGEST_ENTRY, "the group id")?;
        Ok(path)
    }

    pub(crate) fn leader(&self, group: &GroupId) -> Result<LockKeys> {
        let queue = format!("{}/{LEADER}", self.group(group)?);
        Ok(LockKeys { queue, group: Some(group.clone()) })
    }

    pub(crate) fn member(&self, group: &GroupId, member: &MemberId) -> Result<String> {
        self.check_member(member)?;
        let text = text(member.as_bytes(), "the member id")?;
        let path = format!("{}/{text}", self.group(group)?);
        self.fits(&path, 0, "the member id")?;
        Ok(path)
    }

    pub(crate) fn check_member(&self, member: &MemberId) -> Result<()> {
        let text = text(member.as_bytes(), "the member id")?;
        check_part(text, "the member id")?;
        if text == LEADER {
            return Err(refuse("the member id", "is reserved: a group's candidates are there"));
        }
        // It is also what is in the nodes of its locks.
        self.fits(text, 0, "the member id")
    }
}

/// Whether a child of the namespace is a group.
pub(crate) fn is_group(child: &str) -> bool {
    child != LOCKS
}

/// Whether a child of a group is a member.
pub(crate) fn is_member(child: &str) -> bool {
    child != LEADER
}

/// What an acquisition's entry is called, up to the number.
pub(crate) fn entry_prefix(id: OperationId, mode: Mode) -> String {
    let shared = if mode == Mode::Shared { SHARED } else { "" };
    format!("{id}{shared}{MARK}")
}

pub(crate) fn is_entry(child: &str) -> bool {
    Entry::read(child.to_owned()).is_some()
}

impl Entry {
    /// Whatever else is below the node stands in nobody's way.
    pub(crate) fn read(name: String) -> Option<Self> {
        let at = name.rfind(MARK)?;
        let number = &name[at + MARK.len()..];
        // As the server writes it: ten characters, and one more for the lowest numbers.
        let digits = number.strip_prefix('-').unwrap_or(number);
        let well_formed = matches!(number.len(), 10 | 11)
            && matches!(digits.len(), 9 | 10)
            && digits.bytes().all(|b| b.is_ascii_digit());
        let number = well_formed.then(|| number.parse().ok())??;
        let shared = name[..at].ends_with(SHARED);
        Some(Self { name, number, shared })
    }
}

fn text<'a>(bytes: &'a [u8], what: &str) -> Result<&'a str> {
    std::str::from_utf8(bytes).map_err(|_| refuse(what, "is not UTF-8"))
}

/// Whether it can be one part of a path.
fn check_part(part: &str, what: &str) -> Result<()> {
    let forbidden = |c: char| matches!(c, '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..);
    match part {
        "" => Err(refuse(what, "has an empty part")),
        "." | ".." => Err(refuse(what, "is a relative path")),
        _ if part.contains('/') => Err(refuse(what, "contains a slash")),
        _ if part.contains(forbidden) => {
            Err(refuse(what, "has a character that ZooKeeper forbids in paths"))
        }
        _ => Ok(()),
    }
}

fn refuse(what: &str, why: &str) -> Error {
    Error::invalid(format!("{what} {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        Keys::new("tooz", 1_000).unwrap()
    }

    #[test]
    fn the_layout_is_that_of_the_original() {
        let keys = keys();
        assert_eq!(keys.lock(&"my-lock".into()).unwrap().queue, "/tooz/locks/my-lock");
        assert_eq!(keys.lock(&"a/b".into()).unwrap().queue, "/tooz/locks/a/b");
        assert_eq!(keys.group(&"ñ".into()).unwrap(), "/tooz/ñ");
        assert_eq!(keys.leader(&"g".into()).unwrap().queue, "/tooz/g/leader");
        let member = keys.member(&"g".into(), &"percent%20".into()).unwrap();
        assert_eq!(member, "/tooz/g/percent%20");
        assert_eq!(Keys::new("a/b", 1_000).unwrap().sessions(), "/a/b/locks/.sessions");
    }

    #[test]
    fn what_would_escape_or_collide_is_refused() {
        let (keys, entry) = (keys(), format!("x/{}__lock__0000000001", "0".repeat(32)));
        for name in ["/a", "a//b", "a/", "..", "a/../b", "a\n", ".sessions", &entry] {
            assert!(keys.lock(&name.into()).is_err(), "{name:?}");
        }
        for group in ["locks", "a/b", ".", "\u{7f}"] {
            assert!(keys.group(&group.into()).is_err(), "{group:?}");
        }
        for member in ["leader", "a/b", "..", "\u{fffd}", "\u{1f512}"] {
            assert!(keys.member(&"g".into(), &member.into()).is_err(), "{member:?}");
        }
        assert!(keys.member(&"g".into(), &b"\xff".into()).is_err());
        assert!(Keys::new("/tooz", 1_000).is_err() && Keys::new("", 1_000).is_err());
    }

    #[test]
    fn what_is_too_long_is_refused_for_the_longest_path_that_it_needs() {
        let keys = keys();
        let (name, number) = ("x".repeat(1_000 - "/tooz/locks/".len() - 59), "-2147483648");
        let queue = keys.lock(&name.as_str().into()).unwrap().queue;
        let prefix = entry_prefix(OperationId::random(), Mode::Shared);
        assert_eq!(format!("{queue}/{prefix}{number}").len(), 1_000);
        let error = keys.lock(&format!("{name}x").into()).unwrap_err().to_string();
        assert!(error.contains("would have 1001 bytes, and 1000 are allowed"), "{error}");
        let group = "x".repeat(1_000 - "/tooz//leader".len() - 59);
        assert!(keys.leader(&group.as_str().into()).is_ok());
        assert!(keys.group(&format!("{group}x").into()).is_err());
        let member = "y".repeat(1_000 - "/tooz/g/".len());
        assert!(keys.member(&"g".into(), &member.as_str().into()).is_ok());
        assert!(keys.member(&"gg".into(), &member.as_str().into()).is_err());
        assert!(keys.check_member(&"y".repeat(1_001).into()).is_err());
        assert!(Keys::new("tooz", 20).is_err());
    }
}
