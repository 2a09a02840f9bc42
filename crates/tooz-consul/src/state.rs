use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;
use tooz_core::kit::{InFlight, Table, locked};
use tooz_core::{
    Acquisition, Error, ErrorKind, FencingToken, GroupId, Lease, Loss, MemberId, Moment,
    OperationId, Outcome, Result,
};

use crate::client::Client;
use crate::config::Config;
use crate::errors;
use crate::keys::{Keys, LockKeys, lock_value};
use crate::poll::Poller;
use crate::presence::Presence;
use crate::transaction::{self, Entry, Op};
use crate::weak_table::WeakTable;

/// How long to wait before a request is repeated whose fate is unknown.
const REPEAT: Duration = Duration::from_millis(100);

/// What the files of a session share.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) config: Arc<Config>,
    pub(crate) poller: Arc<Poller>,
    pub(crate) client: Client,
    /// The same, over the connections of heartbeats.
    pub(crate) heartbeats: Client,
    pub(crate) member: MemberId,
    pub(crate) presence: Presence,
    pub(crate) lease: Lease,
    pub(crate) grants: Table<OperationId, Arc<Grant>>,
    pub(crate) memberships: Table<GroupId, Lease>,
    /// Ends of cohorts that nothing waits for but the goodbye.
    pub(crate) in_flight: InFlight,
    pub(crate) closed: CancellationToken,
    /// By the keys that are contended for: see [`LocalGuard`].
    pub(crate) local_locks: WeakTable<String, tokio::sync::Mutex<()>>,
}

/// The right to contend for a lock within a session, which Consul takes for one and the same holder.
pub(crate) type LocalGuard = OwnedMutexGuard<()>;

/// A key as it is while it is ours.
#[derive(Clone, Debug)]
pub(crate) struct OwnedKey {
    pub(crate) key: String,
    pub(crate) session: String,
    /// `None` if it may be any.
    pub(crate) value: Option<Vec<u8>>,
}

/// A lock or a term that was granted.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) id: OperationId,
    pub(crate) keys: LockKeys,
    pub(crate) token: FencingToken,
    pub(crate) lease: Lease,
    /// Shows that it is ours.
    pub(crate) owned: OwnedKey,
    /// The session of those who share it; `None` if it is exclusive.
    pub(crate) cohort: Option<String>,
    /// Of an exclusive one, kept until its release, so that nobody else of this session gets it.
    local: Mutex<Option<LocalGuard>>,
}

impl State {
    pub(crate) fn keys(&self) -> &Keys {
        &self.config.keys
    }

    /// Carries out a transaction that may be carried out twice, until it is known what became of it;
    /// whether an earlier attempt may have been the one that counted.
    pub(crate) async fn transact(&self, ops: &[Op]) -> Result<(transaction::Outcome, bool)> {
        let limit = Moment::now() + self.config.write_timeout();
        let mut again = false;
        loop {
            match self.client.transact(ops).await {
                Ok(outcome) => return Ok((outcome, again)),
                Err(error)
                    if error.outcome() == Outcome::Unknown || (again && error.is_retryable()) =>
                {
                    again = true;
                    if limit.has_passed() || !self.lease.is_held() {
                        return Err(error.outcome_is(Outcome::Unknown));
                    }
                    tokio::time::sleep(REPEAT).await;
                }
                Err(error) if error.kind() == ErrorKind::SessionLost => {
                    return Err(self.session_lost());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The servers do not know the session.
    pub(crate) fn session_lost(&self) -> Error {
        self.lease.lose(Loss::SessionEnded);
        errors::session_lost()
    }

    /// The right to contend for a key comes with this lock, in the order of arrival.
    pub(crate) fn local_lock(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        self.local_locks.get_or_make(key.to_owned(), Default::default)
    }

    /// The key of a lock while an exclusive acquisition has it.
    pub(crate) fn exclusive_key(&self, acquisition: &Acquisition<LockKeys>) -> OwnedKey {
        let value = lock_value(acquisition.id, &self.member);
        let (key, session) = (acquisition.target.key.clone(), self.presence.locks.clone());
        OwnedKey { key, session, value: Some(value) }
    }

    /// An acquisition is granted. The cohort is that of those who share it.
    pub(crate) fn grant(
        &self,
        acquisition: &Acquisition<LockKeys>,
        token: u64,
        cohort: Option<String>,
    ) -> Arc<Grant> {
        let Acquisition { id, target: keys, .. } = acquisition;
        let owned = match cohort {
            None => self.exclusive_key(acquisition),
            Some(_) => {
                let (key, session) = (keys.reader(*id), self.presence.members.clone());
                OwnedKey { key, session, value: None }
            }
        };
        Arc::new(Grant {
            id: *id,
            keys: keys.clone(),
            token: FencingToken(token),
            lease: self.lease.child(),
            owned,
            cohort,
            local: Mutex::default(),
        })
    }

    /// A grant is over: others of this session may contend for the key.
    pub(crate) fn remove(&self, grant: &Grant) {
        self.grants.remove(&grant.id);
        drop(locked(&grant.local).take());
    }

    /// A grant turns out to be somebody else's by now.
    pub(crate) fn lose(&self, grant: &Grant) {
        grant.lease.lose(Loss::Taken);
        self.remove(grant);
    }
}

impl OwnedKey {
    /// Whether it is still ours by what is known of the key now.
    pub(crate) fn is_ours(&self, entry: Option<&Entry>) -> bool {
        entry.is_some_and(|entry| {
            entry.is_of(&self.session)
                && self.value.as_ref().is_none_or(|value| *value == entry.value)
        })
    }
}

impl Grant {
    /// Keeps others of this session from the key.
    pub(crate) fn keep(&self, local: LocalGuard) {
        *locked(&self.local) = Some(local);
    }
}
