use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tooz_core::kit::Table;
use tooz_core::{
    Acquisition, Error, ErrorKind, FencingToken, GroupId, Lease, Loss, MemberId, Mode, Moment,
    OperationId, Result,
};
use tracing::debug;

use crate::client::{Client, If, Node};
use crate::config::Config;
use crate::keys::{Keys, LockKeys, owner};

/// The pause before something is tried again that failed because of the connection.
pub(crate) const PAUSE: Duration = Duration::from_millis(100);

/// What the files of a session share.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) config: Arc<Config>,
    pub(crate) client: Client,
    pub(crate) id: OperationId,
    pub(crate) member: MemberId,
    pub(crate) lease: Lease,
    pub(crate) grants: Table<OperationId, Arc<Grant>>,
    /// The keys of queue entries, which are renewed, and who is to look when one is gone.
    pub(crate) queue_entries: Table<String, Arc<Notify>>,
    pub(crate) memberships: Table<GroupId, Membership>,
    pub(crate) closed: CancellationToken,
}

/// A lock or a term that was granted.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) id: OperationId,
    pub(crate) keys: LockKeys,
    pub(crate) mode: Mode,
    /// The value of the lock's key.
    pub(crate) value: String,
    pub(crate) token: FencingToken,
    pub(crate) lease: Lease,
}

/// A member's key.
#[derive(Clone, Debug)]
pub(crate) struct Membership {
    pub(crate) lease: Lease,
    /// The index of its last change: what shows that it is still ours.
    index: Arc<AtomicU64>,
}

impl State {
    pub(crate) fn keys(&self) -> &Keys {
        &self.config.keys
    }

    /// The value of a key that names an acquisition of this session.
    pub(crate) fn owner(&self, id: OperationId) -> String {
        owner(id, self.id, &self.member)
    }

    /// An acquisition is granted: the lock's key has `value`, by a request that was sent at `sent`.
    pub(crate) fn grant(
        &self,
        acquisition: &Acquisition<LockKeys>,
        value: String,
        token: u64,
        sent: Moment,
    ) -> Arc<Grant> {
        Arc::new(Grant {
            id: acquisition.id,
            keys: acquisition.target.clone(),
            mode: acquisition.mode,
            value,
            token: FencingToken(token),
            lease: self.lease.timed_child(self.config.lock_timeout.0, sent),
        })
    }

    /// Makes another session look at what it has: that its own key changes wakes it. Where that
    /// fails, it looks with its next heartbeat.
    pub(crate) async fn wake(&self, session: &str) {
        if let Err(error) = self.client.touch(&self.keys().session(session)).await {
            debug!(%error, "a session could not be told of its loss");
        }
    }

    /// The server does not know the session.
    pub(crate) fn session_lost(&self) -> Error {
        self.lease.lose(Loss::SessionEnded);
        Error::new(ErrorKind::SessionLost, "the server no longer knows the session")
    }

    /// Whether a member's key is this session's.
    pub(crate) fn has_member(&self, node: &Node) -> bool {
        node.value.split_once(':').is_some_and(|(session, _)| session == self.id.to_string())
    }

    /// Whether a membership is still this session's, though its key has changed.
    pub(crate) async fn still_has(&self, key: &str, membership: &Membership) -> Result<bool> {
        match self.client.get(key).await?.result {
            Ok(event) if self.has_member(&event.node) => {
                membership.changed(event.node.modified);
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

impl Membership {
    pub(crate) fn new(lease: Lease, index: u64) -> Self {
        Self { lease, index: Arc::new(AtomicU64::new(index)) }
    }

    /// What its key must be for a write.
    pub(crate) fn proof(&self) -> If<'static> {
        If::Index(self.index.load(Ordering::Relaxed))
    }

    /// We have changed its key.
    pub(crate) fn changed(&self, index: u64) {
        self.index.fetch_max(index, Ordering::Relaxed);
    }
}
