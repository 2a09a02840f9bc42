//! Locks and terms: the lock of a file each, for as long as a lease.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tooz_core::kit::locked;
use tooz_core::{
    Acquisition, FencingToken, Hold, Lease, LockName, Locks, Loss, Release, Result, async_trait,
};

use crate::access;
use crate::counter::{self, Counting};
use crate::directory::Directory;
use crate::errors::{failed, session_lost};
use crate::guard::Guard;
use crate::locked_file::LockedFile;
use crate::ofd::{self, Identity, is_missing};
use crate::state::{Grant, Grants, State};

/// The locks of a session.
#[derive(Debug)]
pub(crate) struct FileLocks(pub(crate) Arc<State>);

#[async_trait]
impl Locks for FileLocks {
    async fn acquire(&self, acquisition: Acquisition<LockName>) -> Result<Option<Arc<dyn Hold>>> {
        let acquired = async {
            let path = self.0.directory.keys.lock(&acquisition.target)?;
            acquire(&self.0, acquisition.with_target(path), None).await
        };
        let hold = self.0.blame(acquired.await)?;
        Ok(hold.map(|hold| hold as Arc<dyn Hold>))
    }

    async fn break_lock(&self, name: &LockName) -> Result<bool> {
        break_lock(&self.0.directory, name).await
    }
}

/// What a file says about its holder, by the token.
pub(crate) type Signature<'a> = &'a (dyn Fn(u64) -> String + Sync);

/// Waits for the file, counts on, and watches over it from then on.
pub(crate) async fn acquire(
    state: &Arc<State>,
    acquisition: Acquisition<PathBuf>,
    signature: Option<Signature<'_>>,
) -> Result<Option<Arc<FileHold>>> {
    let Acquisition { id, target: path, mode, wait, .. } = acquisition;
    let directory = &state.directory;
    loop {
        let over = async {
            tokio::select! {
                () = wait.over() => {}
                _ = state.lease.lost() => {}
            }
        };
        let turn = directory.turn(&path, id, mode);
        let Some(file) = LockedFile::lock(directory, &path, mode, turn, over).await? else {
            return if state.lease.is_held() { Ok(None) } else { Err(session_lost()) };
        };
        let counting = Counting::of(&file).await?;
        // Whoever replaces the file has read its counter under the same lock: from here on it is ours
        // to change only if the file is in place.
        if !file.is_in_place() {
            continue;
        }
        let token = counting.next(|token| signature.map(|sign| sign(token)).unwrap_or_default())?;
        drop(counting);
        let lease = state.lease.child();
        let guard = Guard::over(directory, &path, file.identity(), &lease, Loss::Taken);
        let grant = Arc::new(Grant {
            id,
            token,
            lease,
            locked: Mutex::new(Some(file)),
            is_signed: signature.is_some(),
            _guard: guard,
        });
        state.grants.insert(id, Arc::downgrade(&grant));
        let hold = FileHold { grants: state.grants.clone(), grant };
        // A session that ends from here on releases it itself.
        if !state.lease.is_held() {
            hold.release_now();
            return Err(session_lost());
        }
        return Ok(Some(Arc::new(hold)));
    }
}

/// A lock or a term that is ours.
#[derive(Debug)]
pub(crate) struct FileHold {
    /// Not the session's state: a hold that somebody keeps must not keep the session present.
    grants: Arc<Grants>,
    grant: Arc<Grant>,
}

impl FileHold {
    /// Releases it; whether it was still ours.
    pub(crate) fn release_now(&self) -> Release {
        self.grants.remove(&self.grant.id);
        self.grant.release()
    }
}

#[async_trait]
impl Hold for FileHold {
    fn token(&self) -> FencingToken {
        FencingToken(self.grant.token)
    }

    fn lease(&self) -> &Lease {
        &self.grant.lease
    }

    async fn verify(&self) -> Result<bool> {
        let is_in_place = locked(&self.grant.locked).as_ref().is_some_and(LockedFile::is_in_place);
        if !is_in_place {
            self.grant.lease.lose(Loss::Taken);
        }
        Ok(self.grant.lease.is_held())
    }

    async fn release(&self) -> Result<Release> {
        Ok(self.release_now())
    }
}

/// Breaks a lock; whether anybody held it.
///
/// Nobody can unlock another's open file, so a new file with the same counter is put in its place:
/// what is locked elsewhere excludes nobody. The holders watch the path and lose their leases at
/// once, and waiters turn to the new file. A *Python* holder does not look: it still believes
/// that it holds the lock.
async fn break_lock(directory: &Directory, name: &LockName) -> Result<bool> {
    let path = directory.keys.lock(name)?;
    access::refuse_links(directory.keys.root(), &path)?;
    let _one_breaker = LockedFile::driver_lock(directory).await?;
    let file = match access::options().open(&path) {
        Ok(file) => file,
        Err(error) if is_missing(&error) => return Ok(false),
        Err(error) => return Err(failed("open", &path, error)),
    };
    // A holder that has not counted yet finds the file replaced and starts again.
    let counting = Counting::of_file(&file, &path).await?;
    let identity = Identity::of(&file).map_err(|e| failed("examine", &path, e))?;
    if !identity.is_at(&path) || !ofd::is_locked(&file).map_err(|e| failed("examine", &path, e))? {
        return Ok(false);
    }
    replace(directory, &path, &file, counting.read()?)
        .map_err(|error| failed("replace", &path, error))?;
    Ok(true)
}

fn replace(directory: &Directory, path: &Path, old: &File, token: u64) -> std::io::Result<()> {
    let new = directory.keys.new_temporary();
    let replaced = access::write_new(&new, counter::content(token, "").as_ref())
        .and_then(|()| fs::set_permissions(&new, old.metadata()?.permissions()))
        .and_then(|()| fs::rename(&new, path));
    if replaced.is_err() {
        // What cannot be removed now is removed at a later start.
        let _ = fs::remove_file(&new);
    }
    replaced
}
