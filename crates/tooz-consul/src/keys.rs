//! Where things are in Consul's key-value store.

use tooz_core::{Error, GroupId, LockName, MemberId, OperationId, Result};
use tooz_http::encode;

/// The longest name or id, in bytes. As a key of a queue, each byte may take five in a URL, which has
/// 65,534 at most; a transaction, which has eight times that, names it four times.
const LONGEST: usize = 8_192;

/// The keys of a namespace. What has the namespace itself in front is the original's; what has
/// `NAMESPACE-ext` is ours alone.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    namespace: String,
}

/// The keys of a lock or of a group's leadership.
#[derive(Clone, Debug)]
pub(crate) struct LockKeys {
    /// Locked by the session of the holder.
    pub(crate) key: String,
    /// There while somebody waits, and changed by everybody who joins the queue.
    pub(crate) marker: String,
    /// What the keys of those in the queue begin with.
    pub(crate) queue: String,
    /// What the keys of those who share it begin with.
    pub(crate) readers: String,
}

impl Keys {
    pub(crate) fn new(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned() }
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(crate) fn lock(&self, name: &LockName) -> Result<LockKeys> {
        fits("a lock's name", name.as_bytes())?;
        let text = name.as_str().filter(|text| text.split('/').all(is_segment));
        let text = text.ok_or_else(|| {
            Error::invalid(
                "a lock's name must be printable UTF-8, without empty, . or .. path segments",
            )
            .with("lock", name)
        })?;
        Ok(self.lock_keys(format!("{}/locks/{text}", self.namespace), "lock", text))
    }

    /// The leadership of a group whose id is checked.
    pub(crate) fn leader(&self, group: &GroupId) -> Result<LockKeys> {
        let text = group_text(group)?;
        Ok(self.lock_keys(format!("{}-ext/leaders/{text}", self.namespace), "leader", text))
    }

    fn lock_keys(&self, key: String, kind: &str, name: &str) -> LockKeys {
        // Encoded, so that no name is the beginning of another's path.
        let at = |what| format!("{}-ext/{what}/{kind}:{}", self.namespace, encode(name.as_bytes()));
        LockKeys {
            key,
            marker: at("queued"),
            queue: format!("{}/", at("queue")),
            readers: format!("{}/", at("readers")),
        }
    }

    /// What the keys of all who wait begin with.
    pub(crate) fn queues(&self) -> String {
        format!("{}-ext/queue/", self.namespace)
    }

    /// What the keys of all groups begin with.
    pub(crate) fn groups(&self) -> String {
        format!("{}/groups/", self.namespace)
    }

    /// A group's own key, which its members' keys begin with.
    pub(crate) fn group(&self, group: &GroupId) -> Result<String> {
        Ok(format!("{}/groups/{}/", self.namespace, group_text(group)?))
    }

    pub(crate) fn member(&self, group: &GroupId, member: &MemberId) -> Result<String> {
        Ok(format!("{}{}", self.group(group)?, member_text(member)?))
    }

    /// The lock that the original holds while somebody joins or deletes.
    pub(crate) fn group_lock(&self, group: &GroupId) -> Result<String> {
        Ok(format!("{}/group_locks/{}", self.namespace, group_text(group)?))
    }

    /// What all keys of the namespace begin with.
    pub(crate) fn all(&self) -> [String; 2] {
        [format!("{}/", self.namespace), format!("{}-ext/", self.namespace)]
    }

    /// The name of the sessions of those who share a lock.
    pub(crate) fn cohort_name(&self) -> String {
        format!("{}-ext/sharers", self.namespace)
    }

    /// The name of the service that the agent's checks belong to.
    pub(crate) fn service_name(&self) -> String {
        self.namespace.replace('/', "-")
    }

    /// The name of a member's sessions.
    pub(crate) fn session_name(&self, member: &MemberId) -> Result<String> {
        Ok(format!("{}/{}", self.namespace, member_text(member)?))
    }
}

impl LockKeys {
    /// The queue entry of an acquisition.
    pub(crate) fn queue_entry(&self, id: OperationId) -> String {
        format!("{}{id}", self.queue)
    }

    /// The key among the readers of an acquisition.
    pub(crate) fn reader(&self, id: OperationId) -> String {
        format!("{}{id}", self.readers)
    }
}

fn group_text(group: &GroupId) -> Result<&str> {
    fits("a group's id", group.as_bytes())?;
    let text = group.as_str().filter(|text| is_segment(text) && !text.contains('/'));
    text.ok_or_else(|| {
        Error::invalid("a group's id must be printable UTF-8 without a slash, and not . or ..")
            .with("group", group)
    })
}

fn member_text(member: &MemberId) -> Result<&str> {
    fits("a member's id", member.as_bytes())?;
    let text = member.as_str().filter(|text| is_segment(text) && !text.contains('/'));
    text.ok_or_else(|| {
        Error::invalid("a member's id must be printable UTF-8 without a slash, and not . or ..")
            .with("member", member)
    })
}

/// Refuses, before the first request, what is too long for the largest request to come.
fn fits(what: &str, name: &[u8]) -> Result<()> {
    if name.len() > LONGEST {
        return Err(
            Error::invalid(format!("{what} has at most {LONGEST} bytes")).with("bytes", name.len())
        );
    }
    Ok(())
}

/// Whether it can be a part of a URL's path that nobody on the way rewrites or refuses: servers take
/// no characters that cannot be printed.
fn is_segment(text: &str) -> bool {
    !matches!(text, "" | "." | "..") && text.chars().all(is_printed)
}

fn is_printed(c: char) -> bool {
    let unseen = matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{e000}'..='\u{f8ff}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}'
        | '\u{fffe}' | '\u{ffff}' | '\u{e0000}'..);
    c == ' ' || !(c.is_control() || c.is_whitespace() || unseen)
}

/// The value of a lock's key that is ours: the acquisition and who made it.
pub(crate) fn lock_value(id: OperationId, member: &MemberId) -> Vec<u8> {
    [format!("{id}:").as_bytes(), member.as_bytes()].concat()
}

/// Who made the acquisition that the value of a lock's key tells of; `None` for a peer of another
/// kind.
pub(crate) fn holder_in(value: &[u8]) -> Option<MemberId> {
    let (id, member) = value.split_at_checked(33)?;
    let is_ours = id[..32].iter().all(u8::is_ascii_hexdigit) && id[32] == b':';
    is_ours.then(|| MemberId::from(member))
}

/// The path of a key in a URL.
pub(crate) fn path(key: &str) -> String {
    let segments: Vec<_> = key.split('/').map(|s| encode(s.as_bytes()).to_string()).collect();
    format!("/v1/kv/{}", segments.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_the_originals() {
        let keys = Keys::new("tooz");
        let (group, member) = (GroupId::from("G"), MemberId::from("M"));
        assert_eq!(keys.group(&group).unwrap(), "tooz/groups/G/");
        assert_eq!(keys.member(&group, &member).unwrap(), "tooz/groups/G/M");
        assert_eq!(keys.group_lock(&group).unwrap(), "tooz/group_locks/G");
        assert_eq!(keys.lock(&"N".into()).unwrap().key, "tooz/locks/N");
    }

    #[test]
    fn no_name_is_the_beginning_of_anothers_queue() {
        let keys = Keys::new("tooz");
        let (one, other) = (keys.lock(&"a".into()).unwrap(), keys.lock(&"a/b".into()).unwrap());
        assert!(!other.queue.starts_with(&one.queue) && !other.readers.starts_with(&one.readers));
        let leader = keys.leader(&"a".into()).unwrap();
        assert_ne!((one.key, one.queue), (leader.key, leader.queue));
    }

    #[test]
    fn what_has_no_key_of_its_own_is_refused() {
        let keys = Keys::new("tooz");
        for name in [&b"a//b"[..], b"/a", b"a/", b"..", b"a/./b", b"\xff", b"a\nb"] {
            assert!(keys.lock(&name.into()).is_err(), "{}", name.escape_ascii());
        }
        for id in [&b"a/b"[..], b".", b"\xff"] {
            assert!(keys.group(&id.into()).is_err(), "{}", id.escape_ascii());
            assert!(keys.session_name(&id.into()).is_err(), "{}", id.escape_ascii());
        }
        assert_eq!(path("tooz/locks/a b?/c"), "/v1/kv/tooz/locks/a%20b%3F/c");
    }

    #[test]
    fn a_value_tells_who_has_it() {
        let id = OperationId::random();
        assert_eq!(holder_in(&lock_value(id, &"host:1".into())), Some("host:1".into()));
        for foreign in ["I got it!", "", &format!("{id}"), "0123456789abcdef0123456789abcdef-x"] {
            assert_eq!(holder_in(foreign.as_bytes()), None, "{foreign}");
        }
    }
}
