//! Which System V IPC key belongs to which name: Python's rule.

use md5::{Digest, Md5};
use tooz_core::{Error, LockName, Result};

/// The lock around every change of the list of groups.
const LIST_LOCK: &str = "TOOZ_INTERNAL_LOCK";

/// The keys of one namespace. Those of the one without a name are Python's.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    namespace: String,
}

impl Keys {
    pub(crate) fn of(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned() }
    }

    /// The key of a lock's semaphores.
    pub(crate) fn lock(&self, name: &LockName) -> Result<i32> {
        if name.as_bytes() == LIST_LOCK.as_bytes() {
            return Err(Error::invalid(format!(
                "the lock name {LIST_LOCK} is reserved for the list of groups; choose another"
            )));
        }
        match self.key("__TOOZ_LOCK_", name.as_bytes()) {
            // What the kernel takes for "no key".
            0 => Err(Error::invalid(format!(
                "the lock name {name} happens to have the key 0, which the system keeps for \
                 itself; choose another"
            ))),
            key => Ok(key),
        }
    }

    /// The key of the semaphores around every change of the list of groups.
    pub(crate) fn list_lock(&self) -> i32 {
        self.key("__TOOZ_LOCK_", LIST_LOCK.as_bytes())
    }

    /// The key of the segment that lists the groups.
    pub(crate) fn list(&self) -> i32 {
        self.key("_TOOZ_INTERNAL", b"GROUP_LIST")
    }

    fn key(&self, project: &str, name: &[u8]) -> i32 {
        let mut hash = Md5::new_with_prefix(project);
        if !self.namespace.is_empty() {
            hash.update(&self.namespace);
            hash.update([0]);
        }
        let number = u128::from_be_bytes(hash.chain_update(name).finalize().into());
        // Python shifts it into the range of a C long, which the kernel cuts to 32 bits: the shift
        // by 2^63 leaves those as they are.
        (number % u128::from(u64::MAX)) as u32 as i32
    }
}

/// A key that no other test uses.
#[cfg(test)]
pub(crate) fn unused_key() -> i32 {
    Keys::of(&uuid::Uuid::new_v4().to_string()).list()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_those_of_python() {
        let keys = Keys::of("");
        for (name, key) in [("foo", 0x91b9_e60c_u32), ("a", 0x60cf_1e0e), ("mylock", 0x995f_6f5d)] {
            assert_eq!(keys.lock(&LockName::from(name)).unwrap() as u32, key, "{name}");
        }
        assert_eq!(keys.list() as u32, 0x482d_2f91);
        assert_eq!(keys.list_lock() as u32, 0xe92b_bee9);
    }

    #[test]
    fn namespaces_are_apart() {
        let (one, two) = (Keys::of("one"), Keys::of("two"));
        let name = LockName::from("x");
        assert_ne!(one.lock(&name).unwrap(), two.lock(&name).unwrap());
        assert_ne!(one.list(), Keys::of("").list());
        assert!(one.lock(&LockName::from(LIST_LOCK)).is_err());
    }
}
