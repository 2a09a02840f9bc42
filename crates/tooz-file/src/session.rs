//! A session: what one coordinator is and has in a directory, until it ends.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tooz_core::{
    Characteristics, Elections, Groups, Lease, Locks, Loss, Moment, Result, Session, async_trait,
};
use tracing::debug;

use crate::config::CHARACTERISTICS;
use crate::election::FileElections;
use crate::group::{self, FileGroups};
use crate::lock::FileLocks;
use crate::state::State;

/// A session that has announced itself.
#[derive(Debug)]
pub(crate) struct FileSession {
    state: Arc<State>,
    locks: FileLocks,
    groups: FileGroups,
    elections: FileElections,
}

impl FileSession {
    pub(crate) fn new(state: Arc<State>) -> Self {
        Self {
            locks: FileLocks(state.clone()),
            groups: FileGroups(state.clone()),
            elections: FileElections(state.clone()),
            state,
        }
    }
}

#[async_trait]
impl Session for FileSession {
    fn lease(&self) -> &Lease {
        &self.state.lease
    }

    fn characteristics(&self) -> Characteristics {
        CHARACTERISTICS
    }

    fn heartbeat_interval(&self) -> Option<Duration> {
        Some(self.state.directory.timeout / 3)
    }

    async fn heartbeat(&self) -> Result<()> {
        let sent = Moment::now();
        if !self.state.presence.is_in_place() {
            self.state.lease.lose(Loss::SessionEnded);
            return Ok(());
        }
        group::touch_all(&self.state)?;
        self.state.lease.renewed(sent);
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        self.state.lease.lose(Loss::GivenUp);
        for grant in
            self.state.grants.take_all().iter().filter_map(|(_, grant)| Weak::upgrade(grant))
        {
            grant.release();
        }
        // From here on the members of this session are dead to everybody.
        self.state.presence.end();
        if let Err(error) = group::forget_all(&self.state).await {
            debug!(%error, "remnants are left for others to remove");
        }
        Ok(())
    }

    fn locks(&self) -> Option<&dyn Locks> {
        Some(&self.locks)
    }

    fn groups(&self) -> Option<&dyn Groups> {
        Some(&self.groups)
    }

    fn elections(&self) -> Option<&dyn Elections> {
        Some(&self.elections)
    }
}
