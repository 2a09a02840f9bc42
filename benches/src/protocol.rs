//! What the run and a contestant's process say to each other: JSON lines over the process's
//! standard streams, one answer for each request. Times are in nanoseconds; moments are those of
//! the system's monotonic clock, which all processes of a machine share.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a contestant is asked for. It answers with one line: an [`Answer`].
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Ask {
    /// Connects; `took`.
    Open { url: String, member: String },
    /// Disconnects.
    Close,
    /// One round trip that reads, `count` times; `times`. Only of a raw client.
    Reads { count: usize },
    /// One round trip that writes as an acquisition would, `count` times; `times`. Only of a raw
    /// client.
    Writes { count: usize },
    /// Acquires and releases a free lock, `count` times; `times` of the pair.
    Cycles { name: String, count: usize },
    /// From a moment on, for so long: acquires, holds, releases, and again; `turns`.
    Contend { name: String, from: u64, millis: u64, hold_micros: u64 },
    /// Creates a group, joins, lists its members, leaves and deletes it, `count` times; `steps`.
    Group { group: String, count: usize },
    /// Joins, after creating the group where it is missing; `at`, the moment of the return.
    Join { group: String },
    /// Leaves; `at`, the moment of the return.
    Leave { group: String },
    /// Watches a group from now on.
    Watch { group: String },
    /// Waits until the watch told that the member joined or left; `at`, when it did.
    Event { member: String, joined: bool, millis: u64 },
    /// Campaigns for the leadership of a group; answers once it leads: `at`.
    Campaign { group: String },
    /// Lets `count` further members join, each with so many bytes of capabilities.
    Crowd { group: String, count: usize, bytes: usize },
    /// Reads all members with their capabilities, `count` times; `times`. A raw client reads the
    /// same bytes by its own means.
    ReadGroup { group: String, count: usize },
    /// Acquires `count` locks more and keeps them; `took`.
    Hold { prefix: String, count: usize },
    /// Renews all that is held, `count` times; `times`.
    Beats { count: usize },
    /// Releases all that `Hold` acquired; `took`.
    LetGo,
    /// Lets `count` tasks wait for a lock, each of which releases at once when it has its turn, and
    /// waits again. Answers at once.
    Wait { name: String, count: usize },
    /// They stop waiting; `moments`, when they had their turns.
    Waited,
    /// The resident memory of the process; `bytes`.
    Memory,
    /// Places keys on a ring of nodes, in batches of a thousand; `times` of a batch.
    Ring { nodes: usize, batches: usize },
    /// Asks for the leader of a group, `count` times; `times`. Over a backend that takes no time,
    /// this is what a call costs. Only of ours.
    Hops { group: String, count: usize },
}

/// What a contestant answers; what it was not asked for is left out.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Answer {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub times: Vec<u64>,
    /// Each is the moments of asking, of having and of letting go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub turns: Vec<[u64; 3]>,
    /// When each thing happened.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub moments: Vec<u64>,
    /// Each is the times of create, join, members, leave, delete.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<[u64; 5]>,
    /// Why it was not done: the contestant has nothing of this kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsupported: Option<String>,
    /// What failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Answer {
    pub fn took(time: Duration) -> Self {
        Self { took: Some(nanos(time)), ..Self::default() }
    }

    pub fn at(moment: u64) -> Self {
        Self { at: Some(moment), ..Self::default() }
    }

    pub fn unsupported(why: &str) -> Self {
        Self { unsupported: Some(why.to_owned()), ..Self::default() }
    }
}

/// As times are written.
pub fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
