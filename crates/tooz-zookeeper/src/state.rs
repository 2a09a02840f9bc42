//! What the files of a session share. It has no list of what was granted: each lock and term is an
//! ephemeral node with a watch of its own, and goes with the session.

use std::sync::Arc;
use std::time::Duration;

use tooz_core::kit::Table;
use tooz_core::{GroupId, Lease, Loss, MemberId, Result};
use zookeeper_client::Stat;

use crate::client::SessionClient;
use crate::config::Config;
use crate::errors::foreign_session;
use crate::keys::Keys;
use crate::pool::Pool;

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) config: Arc<Config>,
    pub(crate) member: MemberId,
    pub(crate) lease: Lease,
    pub(crate) client: Arc<SessionClient>,
    pub(crate) pool: Pool,
    /// The server's number of the session: the owner of our ephemeral nodes.
    pub(crate) id: i64,
    /// As the server granted it.
    pub(crate) ttl: Duration,
    pub(crate) memberships: Table<GroupId, Lease>,
}

impl State {
    pub(crate) fn keys(&self) -> &Keys {
        &self.config.keys
    }

    /// The node that says that we are here, and goes with the session. The server may serve a
    /// connection on after the session's end, and confirm its renewals, when the two cross.
    pub(crate) fn own_node(&self) -> String {
        self.keys().session(self.id)
    }

    /// Whether this session, and no other that replaced it, made a node.
    pub(crate) fn owns(&self, stat: &Stat) -> bool {
        stat.ephemeral_owner == self.id
    }

    /// Fails when a node that we just made belongs to another session.
    pub(crate) fn must_own(&self, stat: &Stat) -> Result<()> {
        if self.owns(stat) {
            return Ok(());
        }
        self.lease.lose(Loss::SessionEnded);
        Err(foreign_session())
    }

    pub(crate) fn is_member_of(&self, group: &GroupId) -> bool {
        self.memberships.get(group).is_some_and(|lease| lease.is_held())
    }
}
