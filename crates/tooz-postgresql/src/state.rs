//! What the files of a session share.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio_postgres::Row;
use tokio_postgres::types::Type;
use tokio_util::sync::CancellationToken;
use tooz_core::kit::{InFlight, Table};
use tooz_core::{
    FencingToken, GroupId, Lease, MemberId, Mode, Moment, OperationId, Result, WaitLimit,
};
use tracing::debug;

use crate::channel::Channel;
use crate::client::Client;
use crate::config::Config;
use crate::connection::{Connection, Parameter};
use crate::keys::{self, Keys, LockKeys};
use crate::local::{InUse, LocalLocks};
use crate::pool::Pool;

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) config: Arc<Config>,
    pub(crate) member: MemberId,
    pub(crate) lease: Lease,
    pub(crate) client: Client,
    pub(crate) pool: Pool,
    pub(crate) channel: Arc<Channel>,
    pub(crate) local: Arc<LocalLocks>,
    pub(crate) grants: Table<OperationId, Arc<Grant>>,
    pub(crate) memberships: Table<GroupId, Lease>,
    /// The acquisitions that are under way.
    pub(crate) in_flight: InFlight,
    pub(crate) closed: CancellationToken,
    /// Nothing is granted before.
    pub(crate) grants_from: Option<Moment>,
    /// Whether somebody has locked what tokens come from.
    pub(crate) tokens_locked: AtomicBool,
}

/// A lock or a term that the server granted.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) id: OperationId,
    pub(crate) keys: LockKeys,
    pub(crate) mode: Mode,
    pub(crate) token: FencingToken,
    pub(crate) lease: Lease,
    /// The connection that holds nothing else; `None` if the main one holds it.
    pub(crate) own: Option<Arc<Connection>>,
    pub(crate) local: InUse,
    /// Whether it was released. Locked while that is done.
    pub(crate) released: tokio::sync::Mutex<bool>,
    /// Whether the server was asked to release it, and may have done so.
    pub(crate) release_sent: AtomicBool,
}

impl State {
    pub(crate) fn keys(&self) -> &Keys {
        &self.config.keys
    }

    /// Waits until a server that may have forgotten grants again; whether it does before the wait
    /// is over.
    pub(crate) async fn may_grant(&self, wait: &WaitLimit) -> bool {
        let Some(from) = self.grants_from.filter(|from| !from.has_passed()) else { return true };
        debug!(left = ?from.remaining(), "the server has just started: nothing is granted yet");
        tokio::select! {
            () = from.wait() => true,
            () = wait.over() => false,
        }
    }

    /// A statement on the main connection succeeded that was sent then.
    pub(crate) fn proven(&self, sent: Moment) {
        // A renewal wakes everybody who waits for the loss, so not each time.
        let early = sent + self.config.timeout * 8 / 10;
        if self.lease.deadline().is_some_and(|deadline| deadline < early) {
            self.lease.renewed(sent);
        }
    }

    /// Has the channel listened to from here on, by which all others speak to this session.
    pub(crate) async fn listen(&self) -> Result<()> {
        self.channel.listen(&self.client.main).await
    }

    // ---- Rows of a group.

    /// A statement that changes a group, and the one row of its answer. Its first parameters are the
    /// group, the session, and the channel and the message by which everybody is told.
    pub(crate) async fn change_group(
        &self,
        sql: &str,
        group: &GroupId,
        more: &[Parameter<'_>],
    ) -> Result<Row> {
        keys::check_group(group)?;
        let (channel, message) = (self.keys().channel(), self.keys().change(group));
        let group = group.as_bytes();
        let mut parameters: Vec<Parameter<'_>> = vec![
            (&group, Type::BYTEA),
            (&self.client.main.key, Type::INT8),
            (&channel, Type::TEXT),
            (&message, Type::TEXT),
        ];
        parameters.extend_from_slice(more);
        self.client.one(sql, &parameters).await
    }

    /// A statement that only reads, whose first parameters are a group and the session.
    pub(crate) async fn read_group(
        &self,
        sql: &str,
        group: &GroupId,
        more: &[Parameter<'_>],
    ) -> Result<Vec<Row>> {
        keys::check_group(group)?;
        let group = group.as_bytes();
        let mut parameters: Vec<Parameter<'_>> =
            vec![(&group, Type::BYTEA), (&self.client.main.key, Type::INT8)];
        parameters.extend_from_slice(more);
        self.client.read(sql, &parameters).await
    }
}

impl Grant {
    /// The connection that holds it.
    pub(crate) fn connection<'a>(&'a self, main: &'a Connection) -> &'a Connection {
        self.own.as_deref().unwrap_or(main)
    }
}
