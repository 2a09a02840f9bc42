//! A session: what one coordinator is and has in a namespace, until it ends.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tooz_core::{Characteristics, Elections, Groups, Lease, Locks, Result, Session, async_trait};
use tracing::debug;

use crate::DRIVER;
use crate::group_list::GroupList;
use crate::lock::{self, Holds};
use crate::place::Place;
use crate::presence::{self, Presence};

/// After how many heartbeats what dead processes have left is looked for. The next of ours that
/// wants it has it at once; this is for Python, which would wait.
const BEATS_TO_SWEEP: u32 = 10;

/// A session that has announced itself.
#[derive(Debug)]
pub(crate) struct IpcSession {
    pub(crate) place: Arc<Place>,
    /// Its groups and elections, and its life: the session is lost when this one is.
    pub(crate) file: Arc<dyn Session>,
    pub(crate) holds: Arc<Holds>,
    presence: Mutex<Option<Presence>>,
    beats: AtomicU32,
}

impl IpcSession {
    pub(crate) async fn new(place: Arc<Place>, file: Arc<dyn Session>) -> Result<Self> {
        let presence = Mutex::new(Some(Presence::announce(&place).await?));
        let (holds, beats) = (Arc::default(), AtomicU32::new(0));
        Ok(Self { place, file, holds, presence, beats })
    }

    /// Sees to it that Python finds our groups, and is not kept waiting by the dead.
    async fn serve_python(&self) -> Result<()> {
        self.list_again().await?;
        if self.beats.fetch_add(1, Ordering::Relaxed) % BEATS_TO_SWEEP == BEATS_TO_SWEEP - 1 {
            lock::sweep(&self.place).await?;
        }
        Ok(())
    }

    /// Removes what nobody needs any more when the last of ours leaves.
    async fn tidy_up(&self) -> Result<()> {
        lock::sweep(&self.place).await?;
        if presence::sweep(&self.place).await? > 0 {
            return Ok(());
        }
        tooz_file::inspect::sweep(&self.place.file());
        for group in self.of_file()?.list().await? {
            // Removes what dead members have left in it.
            self.of_file()?.members(&group).await?;
        }
        GroupList::remove_unused(&self.place).await
    }
}

#[async_trait]
impl Session for IpcSession {
    fn lease(&self) -> &Lease {
        self.file.lease()
    }

    fn characteristics(&self) -> Characteristics {
        DRIVER.characteristics
    }

    fn heartbeat_interval(&self) -> Option<Duration> {
        self.file.heartbeat_interval()
    }

    async fn heartbeat(&self) -> Result<()> {
        self.file.heartbeat().await?;
        self.holds.check().await?;
        // What is done for Python is no reason to doubt the session.
        if let Err(error) = self.serve_python().await {
            debug!(%error, "left to the next heartbeat");
        }
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        self.holds.close().await;
        self.file.close().await?;
        let presence = self.presence.lock().unwrap_or_else(PoisonError::into_inner).take();
        if presence.is_none() {
            return Ok(());
        }
        drop(presence);
        if let Err(error) = self.tidy_up().await {
            debug!(%error, "left to others to remove");
        }
        Ok(())
    }

    fn locks(&self) -> Option<&dyn Locks> {
        Some(self)
    }

    fn groups(&self) -> Option<&dyn Groups> {
        Some(self)
    }

    fn elections(&self) -> Option<&dyn Elections> {
        Some(self)
    }
}
