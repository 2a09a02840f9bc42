//! Locks.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use tooz_core::{Acquisition, Hold, LockName, Locks, Result, async_trait};

use crate::access;
use crate::counter::{self, Counting};
use crate::errors::failed;
use crate::ofd::{self, Identity, is_missing};
use crate::place::Place;
use crate::seat::{Claim, Seat};
use crate::session::FileSession;

#[async_trait]
impl Locks for FileSession {
    async fn acquire(&self, acquisition: Acquisition<LockName>) -> Result<Option<Arc<dyn Hold>>> {
        self.blame(self.take_lock(acquisition).await)
    }

    async fn break_lock(&self, name: &LockName) -> Result<bool> {
        break_lock(&self.place, name).await
    }
}

impl FileSession {
    async fn take_lock(&self, acquisition: Acquisition<LockName>) -> Result<Option<Arc<dyn Hold>>> {
        let claim = Claim {
            id: acquisition.id,
            path: self.place.layout.lock(&acquisition.target)?,
            mode: acquisition.mode,
            waiting: &acquisition.wait,
            signature: None,
        };
        let seat = Seat::take(&self.place, &self.lease, &self.seats, claim).await?;
        Ok(seat.map(|seat| seat as Arc<dyn Hold>))
    }
}

/// Takes a lock away from all who hold it; whether anybody did.
///
/// Nobody can unlock another's open file, so a new file with the same counter is put in its place:
/// what is locked elsewhere excludes nobody. The holders watch the path and lose their leases at
/// once, and waiters turn to the new file. A *Python* holder does not look: it goes on believing
/// that it holds the lock.
async fn break_lock(place: &Place, name: &LockName) -> Result<bool> {
    let path = place.layout.lock(name)?;
    access::refuse_links(place.layout.root(), &path)?;
    let _one_breaker = place.driver_lock().await?;
    let file = match access::options().open(&path) {
        Ok(file) => file,
        Err(error) if is_missing(&error) => return Ok(false),
        Err(error) => return Err(failed("open", &path, error)),
    };
    // Who has the lock and has not counted yet, finds the file replaced and starts again.
    let counting = Counting::of_file(&file, &path).await?;
    let identity = Identity::of(&file).map_err(|e| failed("examine", &path, e))?;
    if !identity.is_at(&path) || !ofd::is_locked(&file).map_err(|e| failed("examine", &path, e))? {
        return Ok(false);
    }
    replace(place, &path, &file, counting.read()?)
        .map_err(|error| failed("replace", &path, error))?;
    Ok(true)
}

fn replace(place: &Place, path: &Path, old: &File, token: u64) -> std::io::Result<()> {
    let new = place.layout.new_temporary();
    let replaced = access::write_new(&new, counter::content(token, "").as_ref())
        .and_then(|()| fs::set_permissions(&new, old.metadata()?.permissions()))
        .and_then(|()| fs::rename(&new, path));
    if replaced.is_err() {
        // What cannot be removed now is removed at a later start.
        let _ = fs::remove_file(&new);
    }
    replaced
}
