//! What the files of a session share.

use std::sync::{Arc, Mutex};

use tooz_core::kit::Table;
use tooz_core::{FencingToken, Groups, Lease, OperationId, Result, Session};
use tooz_file::queue::Ticket;

use crate::gate::Gate;
use crate::namespace::Namespace;
use crate::presence::Presence;

/// What a session was granted and has not released.
pub(crate) type Grants = Table<OperationId, Arc<Grant>>;

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) namespace: Arc<Namespace>,
    /// Its groups and elections, and its life: the session is lost when this one is.
    pub(crate) file: Arc<dyn Session>,
    pub(crate) grants: Arc<Grants>,
    pub(crate) presence: Mutex<Option<Presence>>,
}

/// A lock that was granted.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) id: OperationId,
    pub(crate) token: FencingToken,
    pub(crate) lease: Lease,
    pub(crate) key: i32,
    /// None once it was released. Locked during the whole release.
    pub(crate) gate: tokio::sync::Mutex<Option<Gate>>,
    pub(crate) ticket: Ticket,
}

impl State {
    pub(crate) fn lease(&self) -> &Lease {
        self.file.lease()
    }

    /// The groups in the directory.
    pub(crate) fn file_groups(&self) -> Result<&dyn Groups> {
        self.file.require_groups()
    }
}
