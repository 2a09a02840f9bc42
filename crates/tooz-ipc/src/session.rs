//! A session: what one coordinator is and has in a namespace, until it ends.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tooz_core::kit::locked;
use tooz_core::{
    Characteristics, Elections, Groups, Lease, Locks, Loss, Result, Session, async_trait,
};
use tracing::debug;

use crate::config::CHARACTERISTICS;
use crate::election::IpcElections;
use crate::group::{self, IpcGroups};
use crate::group_list::GroupList;
use crate::lock::{self, IpcLocks};
use crate::namespace::Namespace;
use crate::presence::{self, Presence};
use crate::state::State;

/// After how many heartbeats what dead processes have left is looked for. The next of ours that
/// wants it has it at once; this is for Python, which would wait.
const HEARTBEATS_TO_SWEEP: u32 = 10;

/// A session that has announced itself.
#[derive(Debug)]
pub(crate) struct IpcSession {
    state: Arc<State>,
    locks: IpcLocks,
    groups: IpcGroups,
    elections: IpcElections,
    heartbeats: AtomicU32,
}

impl IpcSession {
    pub(crate) async fn new(namespace: Arc<Namespace>, file: Arc<dyn Session>) -> Result<Self> {
        let presence = Mutex::new(Some(Presence::announce(&namespace).await?));
        let state = Arc::new(State { namespace, file, grants: Arc::default(), presence });
        Ok(Self {
            locks: IpcLocks(state.clone()),
            groups: IpcGroups(state.clone()),
            elections: IpcElections(state.clone()),
            state,
            heartbeats: AtomicU32::new(0),
        })
    }

    /// Sees to it that Python finds our groups, and is not kept waiting by the dead.
    async fn serve_python(&self) -> Result<()> {
        group::list_again(&self.state).await?;
        let before = self.heartbeats.fetch_add(1, Ordering::Relaxed);
        if before % HEARTBEATS_TO_SWEEP == HEARTBEATS_TO_SWEEP - 1 {
            lock::sweep(&self.state.namespace).await?;
        }
        Ok(())
    }

    /// Removes what nobody needs any longer when the last of ours leaves.
    async fn sweep(&self) -> Result<()> {
        let namespace = &self.state.namespace;
        lock::sweep(namespace).await?;
        if presence::sweep(namespace).await? > 0 {
            return Ok(());
        }
        tooz_file::inspect::sweep(&namespace.file());
        let groups = self.state.file_groups()?;
        for group in groups.list().await? {
            // Removes what dead members have left in it.
            groups.members(&group).await?;
        }
        GroupList::remove_unused(namespace).await
    }
}

#[async_trait]
impl Session for IpcSession {
    fn lease(&self) -> &Lease {
        self.state.lease()
    }

    fn characteristics(&self) -> Characteristics {
        CHARACTERISTICS
    }

    fn heartbeat_interval(&self) -> Option<Duration> {
        self.state.file.heartbeat_interval()
    }

    async fn heartbeat(&self) -> Result<()> {
        self.state.file.heartbeat().await?;
        lock::check_all(&self.state.grants).await?;
        // What is done for Python is no reason to doubt the session.
        if let Err(error) = self.serve_python().await {
            debug!(%error, "Python could not be served; the next heartbeat tries again");
        }
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        self.state.lease().lose(Loss::GivenUp);
        lock::release_all(&self.state).await;
        self.state.file.close().await?;
        let presence = locked(&self.state.presence).take();
        if presence.is_none() {
            return Ok(());
        }
        drop(presence);
        if let Err(error) = self.sweep().await {
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
