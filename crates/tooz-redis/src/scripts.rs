//! The scripts, and how a request for one is put.

use std::sync::LazyLock;
use std::time::Duration;

use redis::Cmd;
use tooz_core::Mode;

/// A script on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Script {
    Acquire,
    Release,
    Verify,
    Break,
    Renew,
    Heartbeat,
    Close,
    Create,
    Delete,
    Join,
    Leave,
    Remove,
    Update,
    Members,
    Leader,
}

macro_rules! script {
    ($($file:literal),+) => { concat!($(include_str!(concat!("scripts/", $file, ".lua"))),+) };
}

const TEXTS: [(Script, &str); 15] = [
    (Script::Acquire, script!("number", "lock", "acquire")),
    (Script::Release, script!("number", "lock", "release")),
    (Script::Verify, script!("number", "lock", "verify")),
    (Script::Break, script!("number", "lock", "break")),
    (Script::Renew, script!("renew")),
    (Script::Heartbeat, script!("sessions", "heartbeat")),
    (Script::Close, script!("sessions", "close")),
    (Script::Create, script!("group", "create")),
    (Script::Delete, script!("group", "delete")),
    (Script::Join, script!("number", "group", "join")),
    (Script::Leave, script!("group", "leave")),
    (Script::Remove, script!("group", "remove")),
    (Script::Update, script!("number", "group", "update")),
    (Script::Members, script!("group", "members")),
    (Script::Leader, script!("leader")),
];

static DIGESTS: LazyLock<Vec<(Script, String)>> = LazyLock::new(|| {
    let digest = |text| redis::Script::new(text).get_hash().to_owned();
    TEXTS.iter().map(|(script, text)| (*script, digest(text))).collect()
});

impl Script {
    /// A request for this script.
    pub(crate) fn call<K: AsRef<[u8]>, A: AsRef<[u8]>>(
        self,
        keys: impl IntoIterator<Item = K>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Cmd {
        let keys: Vec<K> = keys.into_iter().collect();
        let digest = DIGESTS.iter().find(|(script, _)| *script == self);
        let mut command = redis::cmd("EVALSHA");
        command.arg(digest.map(|(_, digest)| digest.as_str()).unwrap_or_default());
        command.arg(keys.len());
        for key in &keys {
            command.arg(key.as_ref());
        }
        for argument in arguments {
            command.arg(argument.as_ref());
        }
        command
    }
}

/// Gives the server all scripts.
pub(crate) fn load() -> redis::Pipeline {
    let mut pipeline = redis::pipe();
    for (_, text) in TEXTS {
        pipeline.cmd("SCRIPT").arg("LOAD").arg(text).ignore();
    }
    pipeline
}

// ---- How values are written.

pub(crate) fn milliseconds(time: Duration) -> String {
    time.as_millis().to_string()
}

/// A time to live as scripts answer with it; `None` if for ever.
pub(crate) fn ttl(milliseconds: i64) -> Option<Duration> {
    u64::try_from(milliseconds).ok().map(Duration::from_millis)
}

pub(crate) fn flag(is_so: bool) -> &'static [u8] {
    if is_so { b"1" } else { b"0" }
}

pub(crate) fn mode(mode: Mode) -> &'static [u8] {
    match mode {
        Mode::Exclusive => b"x",
        Mode::Shared => b"s",
    }
}
