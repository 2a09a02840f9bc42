//! What a lock and a term have in common: a locked file with a counter, for as long as a lease.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::task::AbortHandle;
use tooz_core::{
    FencingToken, Hold, Lease, Loss, Mode, OperationId, Release, Result, Waiting, async_trait,
};
use tracing::warn;

use crate::counter::{self, Counting};
use crate::errors::session_lost;
use crate::locked_file::LockedFile;
use crate::ofd::Identity;
use crate::place::Place;
use crate::watch::{GONE, Watch};

/// A lock or a term that a session holds.
#[derive(Debug)]
pub(crate) struct Seat {
    id: OperationId,
    token: u64,
    lease: Lease,
    /// None once it was given back.
    locked: Mutex<Option<LockedFile>>,
    /// Whether the file says who holds it.
    is_signed: bool,
    seats: Arc<Seats>,
    _guard: Guard,
}

/// What is asked for.
pub(crate) struct Claim<'a> {
    pub(crate) id: OperationId,
    pub(crate) path: PathBuf,
    pub(crate) mode: Mode,
    pub(crate) waiting: &'a Waiting,
    /// Who asks, if the file is to say so.
    pub(crate) signature: Option<&'a (dyn Fn(u64) -> String + Sync)>,
}

impl Seat {
    /// Waits for the file, counts on, and watches over it from then on.
    pub(crate) async fn take(
        place: &Place,
        session: &Lease,
        seats: &Arc<Seats>,
        claim: Claim<'_>,
    ) -> Result<Option<Arc<Self>>> {
        loop {
            let over = async {
                tokio::select! {
                    () = claim.waiting.over() => {}
                    _ = session.lost() => {}
                }
            };
            let line = place.line(&claim.path, claim.id, claim.mode);
            let locked = LockedFile::lock(place, &claim.path, claim.mode, line, over).await?;
            let Some(locked) = locked else {
                return if session.is_held() { Ok(None) } else { Err(session_lost()) };
            };
            let counting = Counting::of(&locked).await?;
            // Who replaces the file has read its counter under the same lock: from here on it is
            // ours to change only if the file is in place.
            if !locked.is_in_place() {
                continue;
            }
            let token = counting
                .next(|token| claim.signature.map(|sign| sign(token)).unwrap_or_default())?;
            drop(counting);
            let lease = session.child();
            let guard = Guard::over(place, &claim.path, locked.identity(), &lease, Loss::Taken);
            let seat = Arc::new(Self {
                id: claim.id,
                token,
                lease,
                locked: Mutex::new(Some(locked)),
                is_signed: claim.signature.is_some(),
                seats: seats.clone(),
                _guard: guard,
            });
            return if seats.add(&seat) { Ok(Some(seat)) } else { Err(session_lost()) };
        }
    }

    /// Gives it back; whether it was still ours.
    pub(crate) fn give_back(&self) -> Release {
        self.lose(Loss::GivenUp);
        self.seats.remove(self.id);
        let locked = self.locked.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(locked) = locked.filter(LockedFile::is_in_place) else { return Release::WasLost };
        if self.is_signed {
            // Nobody holds it from here on. If that cannot be written, the lock tells so at once.
            if let Err(error) = counter::write(locked.file(), self.token, "") {
                warn!(path = %locked.path().display(), %error, "the leader is not erased");
            }
        }
        Release::Released
    }

    /// Lost for this reason, unless it is lost with the session already.
    fn lose(&self, loss: Loss) {
        if self.lease.is_held() {
            self.lease.lose(loss);
        }
    }
}

#[async_trait]
impl Hold for Seat {
    fn token(&self) -> FencingToken {
        FencingToken(self.token)
    }

    fn lease(&self) -> &Lease {
        &self.lease
    }

    async fn verify(&self) -> Result<bool> {
        let locked = self.locked.lock().unwrap_or_else(PoisonError::into_inner);
        if !locked.as_ref().is_some_and(LockedFile::is_in_place) {
            self.lose(Loss::Taken);
        }
        Ok(self.lease.is_held())
    }

    async fn release(&self) -> Result<Release> {
        Ok(self.give_back())
    }
}

/// All that a session holds.
#[derive(Debug, Default)]
pub(crate) struct Seats(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    closed: bool,
    seats: HashMap<OperationId, Weak<Seat>>,
}

impl Seats {
    /// Whether the session was still open for it.
    fn add(&self, seat: &Arc<Seat>) -> bool {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !held.closed {
            held.seats.insert(seat.id, Arc::downgrade(seat));
        }
        !held.closed
    }

    fn remove(&self, id: OperationId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).seats.remove(&id);
    }

    /// Gives all back, and takes no more.
    pub(crate) fn close(&self) {
        let seats = {
            let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            held.closed = true;
            std::mem::take(&mut held.seats)
        };
        for seat in seats.values().filter_map(Weak::upgrade) {
            let _ = seat.give_back();
        }
    }
}

/// Loses a lease as soon as a path leads elsewhere than it should. Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Guard(AbortHandle);

impl Guard {
    pub(crate) fn over(
        place: &Place,
        path: &Path,
        identity: Identity,
        lease: &Lease,
        loss: Loss,
    ) -> Self {
        Self::over_all(place, path, identity, lease, loss, place.layout.root())
    }

    /// The same for the session itself, which is lost with the whole directory: what it has there
    /// needs to look no further than the directory.
    pub(crate) fn over_session(
        place: &Place,
        path: &Path,
        identity: Identity,
        lease: &Lease,
    ) -> Self {
        Self::over_all(place, path, identity, lease, Loss::SessionEnded, Path::new("/"))
    }

    fn over_all(
        place: &Place,
        path: &Path,
        identity: Identity,
        lease: &Lease,
        loss: Loss,
        top: &Path,
    ) -> Self {
        let (path, top) = (path.to_owned(), top.to_owned());
        Self::while_true(place, lease, loss, move |watch| {
            watch.on_way(&path, &top);
            watch.on(&path, GONE) && identity.is_at(&path)
        })
    }

    /// Loses a lease as soon as something is no longer true. `holds` puts the watch where a change
    /// would show, then looks.
    pub(crate) fn while_true(
        place: &Place,
        lease: &Lease,
        loss: Loss,
        holds: impl Fn(&mut Watch) -> bool + Send + 'static,
    ) -> Self {
        let (mut watch, lease) = (place.watch(), lease.clone());
        let task = tokio::spawn(async move {
            while holds(&mut watch) {
                watch.changed().await;
            }
            lease.lose(loss);
        });
        Self(task.abort_handle())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abort();
    }
}
