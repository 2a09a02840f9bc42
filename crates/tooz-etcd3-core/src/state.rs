//! What the files of a session share.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tooz_core::kit::{InFlight, Table};
use tooz_core::{
    Error, ErrorKind, FencingToken, GroupId, Lease, Loss, MemberId, OperationId, Result,
};
use tracing::warn;

use crate::client::{Answer, Client};
use crate::config::Config;
use crate::keys::{self, Keys, LockKeys};
use crate::txn::{Compare, Op, Test, Txn, TxnReply};

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) config: Arc<Config>,
    pub(crate) client: Client,
    pub(crate) member: MemberId,
    /// The number of the session's lease, which its keys are attached to.
    pub(crate) id: i64,
    pub(crate) lease: Lease,
    pub(crate) grants: Table<OperationId, Arc<Grant>>,
    pub(crate) memberships: Table<GroupId, Membership>,
    /// The acquisitions and releases under way: what the server has of others is a remnant.
    pub(crate) operations: Table<OperationId, ()>,
    /// The joins under way.
    pub(crate) joins: InFlight,
    pub(crate) closed: CancellationToken,
}

/// What an acquisition was granted.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) id: OperationId,
    pub(crate) keys: LockKeys,
    /// Where it is shared, the lease that all its readers keep alive.
    pub(crate) readers_lease: Option<i64>,
    pub(crate) token: FencingToken,
    pub(crate) lease: Lease,
}

/// A group that the session has joined.
#[derive(Clone, Debug)]
pub(crate) struct Membership {
    pub(crate) lease: Lease,
    /// The revision that created the member's key: a later one is not ours.
    pub(crate) revision: i64,
}

impl Grant {
    /// The key of ours that shows it.
    pub(crate) fn key(&self) -> Vec<u8> {
        match self.readers_lease {
            None => self.keys.key.clone(),
            Some(_) => self.keys.reader(self.id),
        }
    }

    /// What the lock's own key must hold.
    pub(crate) fn value(&self) -> Vec<u8> {
        match self.readers_lease {
            None => self.keys.value(self.id),
            Some(lease) => keys::shared_value(lease),
        }
    }

    /// That it does.
    pub(crate) fn has_its_value(&self) -> Compare {
        self.keys.lock().is(Test::Value(self.value()))
    }
}

impl State {
    pub(crate) fn keys(&self) -> &Keys {
        &self.config.keys
    }

    /// The server no longer knows the session.
    pub(crate) fn session_lost(&self) -> Error {
        self.lease.lose(Loss::SessionEnded);
        Error::new(ErrorKind::SessionLost, "the server no longer knows the session's lease")
            .on(self.config.backend)
    }

    /// A transaction on behalf of the session. If the lease is gone, everybody learns of it.
    pub(crate) async fn txn(&self, txn: &Txn) -> Result<Answer<TxnReply>> {
        let answer = self.client.txn(txn).await;
        if answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::SessionLost) {
            self.lease.lose(Loss::SessionEnded);
        }
        answer
    }

    /// Whether an acquisition of this id is under way or holds something.
    pub(crate) fn knows(&self, operation: &str) -> bool {
        let is_meant = |id: OperationId| id.to_string() == operation;
        self.operations.entries().into_iter().any(|(id, ())| is_meant(id))
            || self.grants.entries().into_iter().any(|(id, _)| is_meant(id))
    }

    /// Somebody else ended the membership.
    pub(crate) fn membership_lost(&self, group: &GroupId, membership: &Membership) {
        // Quietly if it was left meanwhile; one that was joined since is not meant.
        let is_meant = |present: &Membership| present.revision == membership.revision;
        if self.memberships.remove_if(group, is_meant).is_some() {
            warn!(%group, member = %self.member, "the membership was deleted");
            membership.lease.lose(Loss::Taken);
        }
    }

    /// What tells a session of its [loss](Keys::notice); nothing if the lease is not that of a
    /// session of ours.
    pub(crate) async fn notice(&self, lease: i64, what: &str) -> Result<Option<Op>> {
        let [session] = self.client.read([self.keys().session(lease)]).await?;
        Ok(session.map(|_| Op::put(&self.keys().notice(lease, what), b"", lease)))
    }
}
