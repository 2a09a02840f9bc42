//! The keys: locks where the original has them, everything else below a directory of our own.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use tooz_core::{Error, GroupId, LockName, MemberId, OperationId, Result};
use tooz_http::encode;

/// Below it is what the original has no place for. The dot keeps it apart from the base64 of a
/// lock's name.
const OURS: &str = "tooz.rs";

/// The names of all keys of a namespace: paths below `/v2/keys`, encoded for a URL.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    root: String,
}

/// What a lock or the leadership of a group consists of.
#[derive(Clone, Debug)]
pub(crate) struct LockKeys {
    /// Its key: there while somebody holds it, and its value says who.
    pub(crate) key: String,
    /// The directory of those who wait, in the order of their creation.
    pub(crate) queue: String,
    /// The directory of those who share it.
    pub(crate) readers: String,
}

impl LockKeys {
    pub(crate) fn queue_entry(&self, id: OperationId) -> String {
        format!("{}/{id}", self.queue)
    }

    pub(crate) fn reader(&self, id: OperationId) -> String {
        format!("{}/{id}", self.readers)
    }
}

impl Keys {
    /// The keys of `namespace`, a path with slashes; the empty one is the original's.
    pub(crate) fn new(namespace: &str) -> Result<Self> {
        if namespace.is_empty() {
            return Ok(Self { root: String::new() });
        }
        let mut root = String::new();
        for part in namespace.split('/') {
            // Hidden keys are in no listing.
            if matches!(part, "" | "." | "..") || part.starts_with('_') {
                return Err(Error::invalid(
                    "the parts of the namespace must be names that do not begin with `_`",
                )
                .with("namespace", namespace));
            }
            root = format!("{root}/{}", encode(part.as_bytes()));
        }
        Ok(Self { root })
    }

    pub(crate) fn root(&self) -> &str {
        &self.root
    }

    fn ours(&self, kind: &str) -> String {
        format!("{}/{OURS}/{kind}", self.root)
    }

    pub(crate) fn lock(&self, name: &LockName) -> LockKeys {
        let name = base64(name.as_bytes());
        self.lock_keys(format!("{}/{name}", self.root), &format!("l{name}"))
    }

    pub(crate) fn leader(&self, group: &GroupId) -> LockKeys {
        let name = format!("g{}", base64(group.as_bytes()));
        self.lock_keys(format!("{}/{name}", self.ours("leader")), &name)
    }

    fn lock_keys(&self, key: String, name: &str) -> LockKeys {
        let folder = |kind| format!("{}/{name}", self.ours(kind));
        LockKeys { key, queue: folder("queue"), readers: folder("readers") }
    }

    pub(crate) fn session(&self, id: impl fmt::Display) -> String {
        format!("{}/{id}", self.ours("session"))
    }

    pub(crate) fn groups(&self) -> String {
        self.ours("group")
    }

    pub(crate) fn group(&self, group: &GroupId) -> String {
        format!("{}/g{}", self.groups(), base64(group.as_bytes()))
    }

    /// There as long as the group is.
    pub(crate) fn mark(&self, group: &GroupId) -> String {
        format!("{}/mark", self.group(group))
    }

    pub(crate) fn member(&self, group: &GroupId, member: &MemberId) -> String {
        format!("{}/member/m{}", self.group(group), base64(member.as_bytes()))
    }
}

/// With its padding, as the original has it.
pub(crate) fn base64(bytes: &[u8]) -> String {
    encode(URL_SAFE.encode(bytes).as_bytes()).to_string()
}

/// What the last part of a key that the server names is the base64 of, after the letter `kind`.
pub(crate) fn last_part(key: &str, kind: char) -> Option<Vec<u8>> {
    let (_, last) = key.rsplit_once('/')?;
    URL_SAFE.decode(last.strip_prefix(kind)?).ok()
}

/// Who holds or waits: `OPERATION:SESSION:MEMBER`, the member in base64.
pub(crate) fn owner(id: OperationId, session: OperationId, member: &MemberId) -> String {
    format!("{id}:{session}:{}", URL_SAFE.encode(member.as_bytes()))
}

const SHARED: &str = "shared:";

/// The value of a lock's key while it is shared; each time by another name, so that a reader that was
/// lost in an earlier time does not take itself for one of this.
pub(crate) fn marker(founder: &str) -> String {
    format!("{SHARED}{founder}")
}

pub(crate) fn is_marker(value: &str) -> bool {
    value.starts_with(SHARED)
}

/// The longest line of a request, with its end: the server reads no more of the first one that comes
/// over a connection before it knows that it is HTTP.
const LONGEST_LINE: usize = 4096;
/// What a line has beside the path and an owner: the method, `/v2/keys`, the version, and the rest of
/// the query, in which numbers have up to 20 digits.
const BESIDE: usize = 112;

/// Refuses a path that is too long for some request of its life: those that release a lock name the
/// owner too.
pub(crate) fn check(path: &str, member: &MemberId, what: &'static str) -> Result<()> {
    let owner = 76 + base64(member.as_bytes()).len();
    let line = path.len() + BESIDE + owner;
    if line <= LONGEST_LINE {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the {what} is too long: with those of the member and the namespace it makes a line of \
         {line} bytes, and the server reads 4096"
    )))
}

/// The session of an [`owner`], if it is one.
pub(crate) fn session_in(owner: &str) -> Option<&str> {
    let mut parts = owner.split(':');
    let (_, session, _) = (parts.next()?, parts.next()?, parts.next()?);
    (session.len() == 32).then_some(session)
}

/// The member of an [`owner`], if it is one.
pub(crate) fn member_in(owner: &str) -> Option<MemberId> {
    session_in(owner)?;
    URL_SAFE.decode(owner.split(':').nth(2)?).ok().map(MemberId::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_where_the_original_has_them() {
        let key = |name: &str| Keys::new("").unwrap().lock(&name.into()).key;
        assert_eq!(key("foo/bar?"), "/Zm9vL2Jhcj8%3D");
        let key = Keys::new("a/b c").unwrap().lock(&"foo".into()).key;
        assert_eq!(key, "/a/b%20c/Zm9v");
    }

    #[test]
    fn an_owner_is_told_from_a_marker() {
        let (id, session) = (OperationId::random(), OperationId::random());
        let owner = owner(id, session, &"m:1".into());
        assert_eq!(session_in(&owner), Some(&*session.to_string()));
        assert_eq!(member_in(&owner), Some("m:1".into()));
        assert_eq!((session_in(""), member_in("shared:x")), (None, None));
    }
}
