//! What the files of a session share.

use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use tooz_core::kit::{InFlight, Table, locked};
use tooz_core::{
    Error, ErrorKind, FencingToken, GroupId, Lease, Loss, MemberId, Moment, OperationId, Result,
};

use crate::client::Client;
use crate::config::Config;
use crate::epoch::Epoch;
use crate::keys::{Keys, LockKeys};
use crate::local;
use crate::value::Owner;
use crate::wire::{How, Item, RAW, Request, Seconds};

/// What the original writes, and its peers take for a sign of life.
const ALIVE: &str = "It's alive!";

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) config: Arc<Config>,
    /// The server's name within this process.
    pub(crate) server: String,
    pub(crate) id: String,
    pub(crate) member: MemberId,
    pub(crate) member_key: Vec<u8>,
    pub(crate) lease: Lease,
    pub(crate) client: Client,
    /// Until when the server may have forgotten whose its locks are, if it may; as a session is of one
    /// run of the server, that stays.
    pub(crate) closed_until: Option<Moment>,
    pub(crate) closed_warning: Once,
    pub(crate) epoch: Mutex<Epoch>,
    pub(crate) grants: Table<OperationId, Arc<Grant>>,
    pub(crate) memberships: Table<GroupId, Membership>,
    /// When the session's item was last renewed.
    pub(crate) renewed: Mutex<Moment>,
    /// The acquisitions under way, with what they clean up.
    pub(crate) in_flight: InFlight,
}

/// A lock or a term that was granted.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) id: OperationId,
    pub(crate) owner: Owner,
    pub(crate) keys: LockKeys,
    pub(crate) token: FencingToken,
    pub(crate) lease: Lease,
    pub(crate) ttl: Seconds,
    pub(crate) known: Mutex<Known>,
}

/// The item of a grant as it was last seen.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) cas: u64,
    pub(crate) value: Vec<u8>,
    /// Whether the answer to a renewal is under way or was lost, so that another CAS id may be our
    /// own doing.
    pub(crate) in_doubt: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Membership {
    pub(crate) lease: Lease,
    /// Of the group's item when this member was last seen in it.
    pub(crate) cas: u64,
}

/// The sign of life for peers of the original, which says whose it is.
pub(crate) fn sign_of_life(config: &Config, member_key: &[u8], session: &str) -> Request {
    let ttl = Seconds::at_least(config.membership_timeout);
    let value = format!("{ALIVE} {session}").into_bytes();
    Request::store(member_key, How::Set, RAW, ttl, value)
}

impl State {
    pub(crate) fn keys(&self) -> &Keys {
        &self.config.keys
    }

    pub(crate) fn session_key(&self) -> Vec<u8> {
        self.keys().session(&self.id)
    }

    /// How long a lock or a term lives at the server.
    pub(crate) fn ttl_of(&self, keys: &LockKeys) -> Duration {
        if keys.is_term { self.config.leader_timeout } else { self.config.lock_timeout }
    }

    /// The epoch now, as the server's item says. An epoch that was evicted is followed by the next,
    /// for the connection shows that the server is the same.
    pub(crate) async fn epoch_now(&self, item: Option<Item>) -> Result<Epoch> {
        let epoch = match item {
            Some(item) => Epoch::read(&item)?,
            None => {
                let begin = Epoch::begin(self.keys(), Some(&locked(&self.epoch)))?;
                Epoch::begun(self.client.call_each(begin).await?)?
            }
        };
        locked(&self.epoch).clone_from(&epoch);
        Ok(epoch)
    }

    /// Logs once why nothing is granted.
    pub(crate) fn warn_closed(&self, until: Moment) {
        self.closed_warning.call_once(|| {
            tracing::warn!(
                seconds = until.remaining().as_secs_f64(),
                "no lock and no term is granted yet: the server started a moment ago and has \
                 forgotten whose they are; see the option restart_grace"
            );
        });
    }

    /// The server no longer knows the session: it was silent for too long, its item was evicted, or
    /// the server restarted empty.
    pub(crate) fn session_lost(&self) -> Error {
        self.lease.lose(Loss::SessionEnded);
        Error::new(ErrorKind::SessionLost, "the server forgot the session")
    }
}

impl Drop for State {
    fn drop(&mut self) {
        local::remove_session(&self.id);
    }
}
