//! What the files of a session share.

use std::sync::{Arc, Mutex};

use redis::Cmd;
use tokio::sync::{mpsc, watch};
use tooz_core::kit::{InFlight, Table};
use tooz_core::{
    Error, ErrorKind, FencingToken, GroupId, Lease, Loss, MemberId, Mode, Moment, OperationId,
};

use crate::client::Client;
use crate::config::Config;
use crate::keys::{Keys, LockKeys};
use crate::scripts::{self, Script};

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) config: Arc<Config>,
    pub(crate) id: OperationId,
    pub(crate) member: MemberId,
    pub(crate) lease: Lease,
    pub(crate) client: Client,
    /// By the ids of the acquisitions as messages name them, as the waiters are.
    pub(crate) grants: Table<String, Arc<Grant>>,
    pub(crate) memberships: Table<GroupId, Membership>,
    pub(crate) waiters: Table<String, mpsc::UnboundedSender<Wake>>,
    /// The channels that are watched, and what tells of a change.
    pub(crate) watches: Table<Vec<u8>, watch::Sender<()>>,
    /// Locked while a channel is subscribed to or left, so that the two never cross.
    pub(crate) subscribing: tokio::sync::Mutex<()>,
    /// The acquisitions under way.
    pub(crate) in_flight: InFlight,
    pub(crate) clock: Mutex<Option<ClockReading>>,
}

/// A lock or a term that was granted.
pub(crate) struct Grant {
    /// That of the acquisition.
    pub(crate) id: String,
    pub(crate) keys: LockKeys,
    pub(crate) mode: Mode,
    pub(crate) token: FencingToken,
    pub(crate) lease: Lease,
    /// The value of the lock's keys, or the reader among the readers.
    pub(crate) value: Vec<u8>,
    /// Of the readers among which it is one; empty if it is exclusive.
    pub(crate) epoch: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(crate) struct Membership {
    /// The operation of the join.
    pub(crate) joined_by: String,
    pub(crate) lease: Lease,
}

/// What a waiter is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// Look now: it may be yours.
    Now,
    /// Look when the one before you is overdue.
    Overdue,
}

/// The server's clock as a renewal found it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClockReading {
    pub(crate) milliseconds: i64,
    pub(crate) sent: Moment,
    pub(crate) answered: Moment,
}

impl State {
    pub(crate) fn keys(&self) -> &Keys {
        &self.config.keys
    }

    /// A request for one of the scripts that have `lock.lua` in common.
    pub(crate) fn lock_request(&self, script: Script, keys: &LockKeys, arguments: &[&[u8]]) -> Cmd {
        let names = self.keys();
        let (counter, session) = (names.counter(), names.session(self.id));
        let (heartbeat, session_channels) =
            (names.heartbeat(&self.member), names.session_channels());
        let common = [&session_channels[..], &keys.leader_channel];
        script.call(keys.keys(&counter, &session, &heartbeat), common.iter().chain(arguments))
    }

    /// The request to release or to verify what was granted.
    pub(crate) fn grant_request(&self, script: Script, grant: &Grant) -> Cmd {
        self.lock_request(script, &grant.keys, &grant.proof())
    }

    /// Releases what nobody needs, as far as the server can be reached.
    pub(crate) async fn try_release(&self, grant: &Grant) {
        let request = self.grant_request(Script::Release, grant);
        if let Err(error) = self.client.call(&request).await {
            tracing::debug!(%error, "remnants of an acquisition are left to expire");
        }
    }

    /// The server no longer knows the session: it was silent for too long, or the server restarted
    /// empty.
    pub(crate) fn session_lost(&self) -> Error {
        self.lease.lose(Loss::SessionEnded);
        Error::new(ErrorKind::SessionLost, "the server forgot the session")
    }
}

impl Grant {
    /// What shows that it is ours.
    pub(crate) fn proof(&self) -> [&[u8]; 3] {
        [scripts::mode(self.mode), &self.value, &self.epoch]
    }
}
