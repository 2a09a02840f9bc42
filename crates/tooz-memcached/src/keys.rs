//! The keys: those of the original, and companions below `_TOOZ:`, where it has none.

use tooz_core::{Error, GroupId, LockName, MemberId, Result};

/// What memcached takes.
const LONGEST: usize = 250;

/// The names of all keys of a namespace. The original has none, and none is the default.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    namespace: Vec<u8>,
}

/// The keys of a lock, or of the leadership of a group.
#[derive(Clone, Debug)]
pub(crate) struct LockKeys {
    /// Names its holder.
    pub(crate) key: Vec<u8>,
    /// Says who of ours waits for it.
    pub(crate) queue: Vec<u8>,
    /// Whether it is a leadership. Its value is the member alone, which peers of the original read.
    pub(crate) is_term: bool,
}

impl Keys {
    pub(crate) fn new(namespace: &str) -> Result<Self> {
        let keys = Self { namespace: namespace.as_bytes().to_vec() };
        keys.checked(&[], "namespace").map(|_| keys)
    }

    pub(crate) fn namespace(&self) -> &[u8] {
        &self.namespace
    }

    fn key(&self, parts: &[&[u8]]) -> Vec<u8> {
        [&[&self.namespace[..]], parts].concat().concat()
    }

    /// Refuses what memcached or the original's client does not take as a key.
    fn checked(&self, parts: &[&[u8]], what: &'static str) -> Result<Vec<u8>> {
        let key = self.key(parts);
        if key.iter().any(|byte| matches!(byte, 0 | b'\t'..=b'\r' | b' ')) {
            return Err(Error::invalid(format!(
                "a {what} must not have white space or zero bytes, because a memcached key cannot"
            )));
        }
        if key.len() > LONGEST {
            let most = LONGEST - (key.len() - parts.last().map_or(0, |name| name.len()));
            return Err(Error::invalid(format!(
                "a {what} has at most {most} bytes, because a memcached key has at most {LONGEST}"
            )));
        }
        Ok(key)
    }

    // ---- Of the original.

    pub(crate) fn groups(&self) -> Vec<u8> {
        self.key(&[b"_TOOZ_GROUP_LIST"])
    }

    pub(crate) fn group(&self, group: &GroupId) -> Result<Vec<u8>> {
        if group.as_bytes() == b"LIST" {
            let what = "a group named LIST has the key of the list of groups";
            return Err(Error::invalid(what));
        }
        // Where there is a group there can be a leader, whose key is the longer one.
        self.leader(group)?;
        self.checked(&[b"_TOOZ_GROUP_", group.as_bytes()], "group id")
    }

    pub(crate) fn member(&self, member: &MemberId) -> Result<Vec<u8>> {
        self.checked(&[b"_TOOZ_MEMBER_", member.as_bytes()], "member id")
    }

    pub(crate) fn lock(&self, name: &LockName) -> Result<LockKeys> {
        let name = name.as_bytes();
        if name.starts_with(b"_TOOZ_GROUP_LEADER_") {
            return Err(Error::invalid(
                "a lock named _TOOZ_GROUP_LEADER_GROUP is the leadership of that group",
            ));
        }
        let key = self.checked(&[b"__TOOZ_LOCK_", name], "lock name")?;
        Ok(LockKeys { key, queue: self.key(&[b"_TOOZ:Q:", name]), is_term: false })
    }

    pub(crate) fn leader(&self, group: &GroupId) -> Result<LockKeys> {
        let group = group.as_bytes();
        let key = self.checked(&[b"__TOOZ_LOCK__TOOZ_GROUP_LEADER_", group], "group id")?;
        Ok(LockKeys { key, queue: self.key(&[b"_TOOZ:C:", group]), is_term: true })
    }

    // ---- Ours.

    pub(crate) fn session(&self, session: &str) -> Vec<u8> {
        self.key(&[b"_TOOZ:S:", session.as_bytes()])
    }

    pub(crate) fn epoch(&self) -> Vec<u8> {
        self.key(&[b"_TOOZ:EPOCH"])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_those_of_the_original() {
        let keys = Keys::new("").unwrap();
        assert_eq!(keys.groups(), b"_TOOZ_GROUP_LIST");
        assert_eq!(keys.group(&"g".into()).unwrap(), b"_TOOZ_GROUP_g");
        assert_eq!(keys.member(&"m".into()).unwrap(), b"_TOOZ_MEMBER_m");
        assert_eq!(keys.lock(&"l".into()).unwrap().key, b"__TOOZ_LOCK_l");
        let leader = keys.leader(&"g".into()).unwrap();
        assert_eq!(leader.key, b"__TOOZ_LOCK__TOOZ_GROUP_LEADER_g");
        let spaced = Keys::new("n.").unwrap();
        assert_eq!(spaced.lock(&"l".into()).unwrap().key, b"n.__TOOZ_LOCK_l");
    }

    #[test]
    fn names_that_make_no_key_are_refused() {
        let keys = Keys::new("").unwrap();
        for name in ["a b", "a\tb", "a\nb", "a\0b", "_TOOZ_GROUP_LEADER_g"] {
            assert!(keys.lock(&name.into()).is_err(), "{name:?}");
        }
        assert!(keys.lock(&"ü".into()).is_ok() && keys.group(&"LIST".into()).is_err());
        assert!(keys.lock(&"x".repeat(238).into()).is_ok());
        let error = keys.lock(&"x".repeat(239).into()).unwrap_err();
        assert!(error.to_string().contains("at most 238"), "{error}");
        // The leader's key is the longest of a group.
        assert!(keys.group(&"x".repeat(219).into()).is_ok());
        assert!(keys.group(&"x".repeat(220).into()).is_err());
        assert!(Keys::new("a b").is_err());
    }
}
