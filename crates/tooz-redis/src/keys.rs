//! The keys: those of the original, and companions below `NAMESPACE:`, where it has none.

use tooz_core::{Capabilities, Error, GroupId, LockName, MemberId, OperationId, Result};

/// The longest name or id, in bytes. A renewal names a lock in up to four keys, in one of which a
/// byte may take four: that of 10,000 locks then stays below the 1 GB that a server keeps of one
/// client's requests.
const LONGEST: usize = 8_192;

/// The most that is sent at once: a heartbeat may have to wait behind it. Servers accept 512 MB.
const MOST_CAPABILITIES: usize = 16 << 20;

/// Which spellings of a lock's key to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// That of the original from 9.0 on.
    V9,
    /// Those of the original up to 8.1.
    Legacy,
    /// All of them together.
    Both,
}

/// The names of all keys and channels of a namespace.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    namespace: Vec<u8>,
    layout: Layout,
    /// Channels do not know databases, so their names do.
    channels: Vec<u8>,
}

/// What a lock or the leadership of a group consists of: see `scripts/lock.lua`.
#[derive(Clone, Debug)]
pub(crate) struct LockKeys {
    queue: Vec<u8>,
    readers: Vec<u8>,
    /// The spellings of its own key.
    spellings: Vec<Vec<u8>>,
    /// The channel of those who watch the leader; empty for a lock.
    pub(crate) leader_channel: Vec<u8>,
}

impl LockKeys {
    /// The keys of all its scripts but the renewal, in their order.
    pub(crate) fn keys<'a>(
        &'a self,
        counter: &'a [u8],
        session: &'a [u8],
        heartbeat: &'a [u8],
    ) -> Vec<&'a [u8]> {
        let mut keys = vec![counter, &self.queue, &self.readers, session, heartbeat];
        keys.extend(self.spellings.iter().map(Vec::as_slice));
        keys
    }

    /// The keys of a renewal, and how many of them are spellings.
    pub(crate) fn renewed_keys(&self) -> (impl Iterator<Item = &[u8]>, usize) {
        let spellings = self.spellings.iter().map(Vec::as_slice);
        (std::iter::once(&self.readers[..]).chain(spellings), self.spellings.len())
    }
}

impl Keys {
    pub(crate) fn new(namespace: &str, layout: Layout, db: i64) -> Self {
        let channels = format!("{namespace}:{db}:").into_bytes();
        Self { namespace: namespace.as_bytes().to_vec(), layout, channels }
    }

    /// A key in the cluster slot of all other keys of the namespace.
    pub(crate) fn any(&self) -> &[u8] {
        &self.namespace
    }

    fn key(&self, parts: &[&[u8]]) -> Vec<u8> {
        [&[&self.namespace[..]], parts].concat().concat()
    }

    fn channel(&self, parts: &[&[u8]]) -> Vec<u8> {
        [&[&self.channels[..]], parts].concat().concat()
    }

    // ---- Groups and members.

    pub(crate) fn groups(&self) -> Vec<u8> {
        self.key(&[b"_groups"])
    }

    pub(crate) fn group(&self, group: &GroupId) -> Vec<u8> {
        self.key(&[b"_group:", group.as_bytes()])
    }

    pub(crate) fn group_companion(&self, group: &GroupId) -> Vec<u8> {
        self.key(&[b":group:", group.as_bytes()])
    }

    pub(crate) fn heartbeats(&self) -> Vec<u8> {
        self.key(&[b"_beats:"])
    }

    pub(crate) fn heartbeat(&self, member: &MemberId) -> Vec<u8> {
        self.key(&[b"_beats:", member.as_bytes()])
    }

    pub(crate) fn session(&self, session: OperationId) -> Vec<u8> {
        self.key(&[b":session:", session.to_string().as_bytes()])
    }

    pub(crate) fn counter(&self) -> Vec<u8> {
        self.key(&[b":counter"])
    }

    // ---- Locks and terms.

    pub(crate) fn lock(&self, name: &LockName) -> LockKeys {
        let name = name.as_bytes();
        LockKeys {
            queue: self.key(&[b":queue:lock:", name]),
            readers: self.key(&[b":readers:lock:", name]),
            spellings: self.spellings(name),
            leader_channel: Vec::new(),
        }
    }

    pub(crate) fn leader(&self, group: &GroupId) -> LockKeys {
        let name = group.as_bytes();
        LockKeys {
            queue: self.key(&[b":queue:leader:", name]),
            readers: self.key(&[b":readers:leader:", name]),
            spellings: self.leader_keys(group),
            leader_channel: self.group_channel(group),
        }
    }

    pub(crate) fn leader_keys(&self, group: &GroupId) -> Vec<Vec<u8>> {
        self.spellings(&[b"leader_of_", group.as_bytes()].concat())
    }

    fn spellings(&self, name: &[u8]) -> Vec<Vec<u8>> {
        let v9 = || self.key(&[b"_", name, b"_lock"]);
        let namespace = python_repr(&self.namespace);
        let legacy = |name: &[u8]| [&namespace, &b"_"[..], name, b"_lock"].concat();
        // Up to 8.1 a name given as text is another lock than the same name given as bytes. A
        // name that looks like bytes would be spelled like the bytes of another name.
        let text = std::str::from_utf8(name)
            .is_ok_and(|n| !n.starts_with(['b', '\'', '"']) || !n.contains(['\'', '"']));
        let mut spellings = Vec::new();
        if self.layout != Layout::Legacy {
            spellings.push(v9());
        }
        if self.layout != Layout::V9 {
            spellings.push(legacy(&python_repr(name)));
            spellings.extend(text.then(|| legacy(name)));
        }
        spellings
    }

    // ---- Channels.

    pub(crate) fn session_channels(&self) -> Vec<u8> {
        self.channel(&[b"session:"])
    }

    pub(crate) fn session_channel(&self, session: OperationId) -> Vec<u8> {
        self.channel(&[b"session:", session.to_string().as_bytes()])
    }

    pub(crate) fn group_channel(&self, group: &GroupId) -> Vec<u8> {
        self.channel(&[b"group:", group.as_bytes()])
    }
}

// ---- Names that are too long, or whose keys would be those of something else.

pub(crate) fn check_lock(name: &LockName) -> Result<()> {
    fits("a lock's name", name.as_bytes())?;
    if name.as_bytes().starts_with(b"leader_of_") {
        return Err(Error::invalid("a lock named leader_of_GROUP is the leadership of that group")
            .with("lock", name));
    }
    Ok(())
}

pub(crate) fn check_group(group: &GroupId) -> Result<()> {
    fits("a group's id", group.as_bytes())?;
    if group.as_bytes().ends_with(b"_lock") {
        return Err(Error::invalid("a group whose id ends in _lock has the key of a lock")
            .with("group", group));
    }
    Ok(())
}

pub(crate) fn check_member(member: &MemberId) -> Result<()> {
    fits("a member's id", member.as_bytes())?;
    if member.as_bytes() == b"__created__" {
        return Err(Error::invalid("the member id __created__ is reserved"));
    }
    if member.as_bytes().ends_with(b"_lock") {
        return Err(Error::invalid("a member whose id ends in _lock has the key of a lock")
            .with("member", member));
    }
    Ok(())
}

pub(crate) fn check_capabilities(capabilities: &Capabilities) -> Result<()> {
    at_most("capabilities have", MOST_CAPABILITIES, capabilities.as_msgpack())
}

/// Refuses, before the first request, what is too long for the largest request to come.
fn fits(what: &str, name: &[u8]) -> Result<()> {
    at_most(&format!("{what} has"), LONGEST, name)
}

fn at_most(what_has: &str, most: usize, bytes: &[u8]) -> Result<()> {
    if bytes.len() > most {
        return Err(
            Error::invalid(format!("{what_has} at most {most} bytes")).with("bytes", bytes.len())
        );
    }
    Ok(())
}

/// How Python shows bytes.
fn python_repr(bytes: &[u8]) -> Vec<u8> {
    let double = bytes.contains(&b'\'') && !bytes.contains(&b'"');
    let quote = if double { b'"' } else { b'\'' };
    let mut shown = vec![b'b', quote];
    for &byte in bytes {
        match byte {
            b'\\' => shown.extend(b"\\\\"),
            b'\n' => shown.extend(b"\\n"),
            b'\r' => shown.extend(b"\\r"),
            b'\t' => shown.extend(b"\\t"),
            b if b == quote => shown.extend([b'\\', b]),
            b' '..=b'~' => shown.push(byte),
            _ => shown.extend(format!("\\x{byte:02x}").bytes()),
        }
    }
    shown.push(quote);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spellings(layout: Layout, name: &str) -> Vec<String> {
        let keys = Keys::new("_tooz", layout, 0).lock(&name.into()).spellings;
        keys.into_iter().map(|key| String::from_utf8(key).unwrap()).collect()
    }

    #[test]
    fn locks_are_spelled_as_python_spells_them() {
        assert_eq!(spellings(Layout::V9, "foo"), ["_tooz_foo_lock"]);
        let legacy = ["b'_tooz'_b'foo'_lock", "b'_tooz'_foo_lock"];
        assert_eq!(spellings(Layout::Legacy, "foo"), legacy);
        assert_eq!(spellings(Layout::Both, "foo"), ["_tooz_foo_lock", legacy[0], legacy[1]]);
        assert_eq!(spellings(Layout::Legacy, "it's")[0], "b'_tooz'_b\"it's\"_lock");
        // This text would be the spelling of the bytes foo.
        assert_eq!(spellings(Layout::Legacy, "b'foo'").len(), 1);
    }

    #[test]
    fn bytes_are_shown_as_python_shows_them() {
        for (bytes, shown) in [
            (&b"a\0\n\t\r\\\x7f\xff"[..], r"b'a\x00\n\t\r\\\x7f\xff'"),
            (b"'\"", r#"b'\'"'"#),
            (b"'", r#"b"'""#),
            (b"\"", r#"b'"'"#),
        ] {
            assert_eq!(String::from_utf8(python_repr(bytes)).unwrap(), shown);
        }
    }

    #[test]
    fn terms_and_groups_have_the_original_keys() {
        let keys = Keys::new("_tooz", Layout::Both, 0);
        assert_eq!(
            keys.leader_keys(&"g".into())[..2],
            [b"_tooz_leader_of_g_lock".to_vec(), b"b'_tooz'_b'leader_of_g'_lock".to_vec(),]
        );
        assert_eq!(keys.group(&"g".into()), b"_tooz_group:g");
        assert_eq!(keys.heartbeat(&"m".into()), b"_tooz_beats:m");
        assert_eq!(keys.groups(), b"_tooz_groups");
    }

    #[test]
    fn names_with_the_keys_of_something_else_are_refused() {
        assert!(check_lock(&"leader_of_g".into()).is_err() && check_lock(&"g".into()).is_ok());
        assert!(check_group(&"x_lock".into()).is_err() && check_group(&"x".into()).is_ok());
        assert!(check_member(&"x_lock".into()).is_err() && check_member(&"x".into()).is_ok());
        assert!(check_member(&"__created__".into()).is_err());
    }
}
