//! Locks: a turn in the queue of ours, then the semaphores that exclude Python.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError, Weak};

use tooz_core::{
    Acquisition, FencingToken, Hold, Lease, LockName, Locks, Loss, Mode, OperationId, Release,
    Result, Session, async_trait,
};
use tooz_file::queue::{Queue, Ticket};
use tracing::warn;

use crate::errors::session_lost;
use crate::gate::{self, Gate, Waited};
use crate::place::Place;
use crate::session::IpcSession;

/// A lock that a session holds.
#[derive(Debug)]
pub(crate) struct LockHold {
    id: OperationId,
    token: FencingToken,
    lease: Lease,
    place: Arc<Place>,
    key: i32,
    /// None once it was given back. Locked for the whole of that.
    gate: tokio::sync::Mutex<Option<Gate>>,
    ticket: Ticket,
    holds: Arc<Holds>,
}

#[async_trait]
impl Locks for IpcSession {
    async fn acquire(&self, acquisition: Acquisition<LockName>) -> Result<Option<Arc<dyn Hold>>> {
        let key = self.place.keys.lock(&acquisition.target)?;
        let acquisition = acquisition.with_target(key);
        let hold = LockHold::take(&self.place, self.lease(), &self.holds, acquisition).await?;
        Ok(hold.map(|hold| hold as Arc<dyn Hold>))
    }

    async fn break_lock(&self, name: &LockName) -> Result<bool> {
        break_lock(&self.place, name).await
    }
}

impl LockHold {
    /// Waits for the lock; `None` if the waiting ended before.
    pub(crate) async fn take(
        place: &Arc<Place>,
        session: &Lease,
        holds: &Arc<Holds>,
        acquisition: Acquisition<i32>,
    ) -> Result<Option<Arc<Self>>> {
        let over = async {
            tokio::select! {
                () = acquisition.wait.over() => {}
                _ = session.lost() => {}
            }
        };
        let (id, key, mode) = (acquisition.id, acquisition.target, acquisition.mode);
        let taken = take(place, id, key, mode, over).await?;
        let Some((gate, ticket)) = taken else {
            return if session.is_held() { Ok(None) } else { Err(session_lost()) };
        };
        let hold = Arc::new(Self {
            id,
            token: place.token()?,
            lease: session.child(),
            place: place.clone(),
            key,
            gate: tokio::sync::Mutex::new(Some(gate)),
            ticket,
            holds: holds.clone(),
        });
        if !holds.add(&hold) {
            hold.give_back(Loss::GivenUp).await?;
            return Err(session_lost());
        }
        tokio::spawn(hold.clone().watch());
        Ok(Some(hold))
    }

    /// Ends the hold when somebody breaks it or the session ends.
    async fn watch(self: Arc<Self>) {
        let loss = tokio::select! {
            () = self.ticket.taken_away() => Loss::Taken,
            loss = self.lease.lost() => loss,
        };
        if let Err(error) = self.give_back(loss).await {
            warn!(%error, "a lock that was lost is left to be cleaned up");
        }
    }

    /// Gives it back; whether it was still ours.
    async fn give_back(&self, loss: Loss) -> Result<Release> {
        let mut gate = self.gate.lock().await;
        if self.lease.is_held() {
            self.lease.lose(loss);
        }
        let Some(held) = &*gate else { return Ok(Release::WasLost) };
        let was_ours = give_back(&self.place, self.key, &self.ticket, held).await?;
        *gate = None;
        self.holds.remove(self.id);
        Ok(if was_ours { Release::Released } else { Release::WasLost })
    }

    /// Looks whether it is still ours, and loses the lease if not.
    async fn check(&self) -> Result<bool> {
        let gate = self.gate.lock().await;
        let is_ours = match &*gate {
            Some(gate) => self.ticket.is_in_place() && gate.is_there()?,
            None => false,
        };
        if !is_ours && self.lease.is_held() {
            self.lease.lose(Loss::Taken);
        }
        Ok(self.lease.is_held())
    }
}

#[async_trait]
impl Hold for LockHold {
    fn token(&self) -> FencingToken {
        self.token
    }

    fn lease(&self) -> &Lease {
        &self.lease
    }

    async fn verify(&self) -> Result<bool> {
        self.check().await
    }

    async fn release(&self) -> Result<Release> {
        self.give_back(Loss::GivenUp).await
    }
}

/// What became of a ticket whose turn it was.
enum Passed {
    Through(Gate),
    Over,
    /// Somebody took the ticket away meanwhile.
    Bumped,
}

/// Takes a place in the queue, and at its head the semaphores; `None` if `over` came before.
pub(crate) async fn take(
    place: &Place,
    id: OperationId,
    key: i32,
    mode: Mode,
    over: impl Future<Output = ()>,
) -> Result<Option<(Gate, Ticket)>> {
    let mut over = std::pin::pin!(over);
    let queue = place.queue(key);
    loop {
        let mutex = place.mutex(key).await?;
        let ticket = queue.draw(id, mode)?;
        drop(mutex);
        let passed = match queue.turn(&ticket, over.as_mut()).await {
            Ok(true) => pass(place, &ticket, key, mode, over.as_mut()).await,
            Ok(false) => Ok(Passed::Over),
            Err(error) => Err(error),
        };
        match passed {
            Ok(Passed::Through(gate)) => return Ok(Some((gate, ticket))),
            Ok(Passed::Bumped) => drop(ticket),
            Ok(Passed::Over) => return leave(place, &queue, key, ticket).await.map(|()| None),
            Err(error) => {
                // The first error tells more.
                let _ = leave(place, &queue, key, ticket).await;
                return Err(error);
            }
        }
    }
}

/// At the head of the queue: takes the semaphores, for which only Python can be waited.
async fn pass(
    place: &Place,
    ticket: &Ticket,
    key: i32,
    mode: Mode,
    over: impl Future<Output = ()>,
) -> Result<Passed> {
    let mut over = std::pin::pin!(over);
    loop {
        // Readers must not leave or be cleaned up while one more joins them.
        let mutex = match mode {
            Mode::Shared => Some(place.mutex(key).await?),
            Mode::Exclusive => None,
        };
        let mut gate = Gate::try_take(key, mode)?;
        if gate.is_none() {
            drop(mutex);
            tokio::select! {
                biased; // Who will not wait needs no thread that does.
                () = &mut over => return Ok(Passed::Over),
                () = std::future::ready(()) => {}
            }
            match Gate::wait(key, mode, over.as_mut()).await? {
                Some(Waited::Taken(taken)) => gate = Some(taken),
                Some(Waited::SeenFree) => continue,
                None => return Ok(Passed::Over),
            }
        }
        let Some(gate) = gate else { continue };
        ticket.holds()?;
        // Who breaks a lock removes the semaphores and then the tickets that hold: either we see
        // the one, or the other is done to us.
        if !ticket.is_in_place() {
            return Ok(Passed::Bumped);
        }
        if gate.is_there()? {
            return Ok(Passed::Through(gate));
        }
    }
}

/// Leaves the queue without having held anything. If a holder died meanwhile and nobody else is
/// there, what it has left is cleaned up.
async fn leave(place: &Place, queue: &Queue, key: i32, ticket: Ticket) -> Result<()> {
    let _mutex = place.mutex(key).await?;
    drop(ticket);
    if queue.remove_if_empty() { gate::clean(key) } else { Ok(()) }
}

/// Gives back what was taken; whether it was still ours. The semaphores always before the ticket,
/// because the next of ours acts on them as soon as the ticket is gone.
async fn give_back(place: &Place, key: i32, ticket: &Ticket, gate: &Gate) -> Result<bool> {
    let queue = place.queue(key);
    if gate.mode() == Mode::Exclusive {
        return give_back_alone(&queue, ticket, gate);
    }
    let _mutex = place.mutex(key).await?;
    let was_ours = ticket.is_in_place() && gate.is_there()?;
    let others = || -> Result<bool> {
        let own = ticket.operation();
        Ok(queue.living()?.iter().any(|other| other.is_holding() && other.operation != own))
    };
    if was_ours && !others()? {
        gate.open()?;
    }
    ticket.leave()?;
    queue.remove_if_empty();
    Ok(was_ours)
}

/// The same for an exclusive holder.
pub(crate) fn give_back_alone(queue: &Queue, ticket: &Ticket, gate: &Gate) -> Result<bool> {
    let was_ours = ticket.is_in_place() & gate.open()?;
    ticket.leave()?;
    queue.remove_if_empty();
    Ok(was_ours)
}

/// Takes a lock away from all who hold it; whether anybody did. A *Python* holder is not told.
async fn break_lock(place: &Place, name: &LockName) -> Result<bool> {
    let key = place.keys.lock(name)?;
    let queue = place.queue(key);
    let _mutex = place.mutex(key).await?;
    let mut was_held = gate::break_open(key)?;
    for entry in queue.living()?.iter().filter(|entry| entry.is_holding()) {
        entry.take_away()?;
        was_held = true;
    }
    queue.remove_if_empty();
    Ok(was_held)
}

/// Removes what dead processes have left of any lock.
pub(crate) async fn sweep(place: &Place) -> Result<()> {
    for (key, queue) in place.queues()? {
        if queue.has_living()? {
            continue;
        }
        let _mutex = place.mutex(key).await?;
        if queue.living()?.is_empty() {
            gate::clean(key)?;
            queue.remove_if_empty();
        }
    }
    Ok(())
}

/// All locks that a session holds.
#[derive(Debug, Default)]
pub(crate) struct Holds(std::sync::Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    closed: bool,
    holds: HashMap<OperationId, Weak<LockHold>>,
}

impl Holds {
    fn lock(&self) -> MutexGuard<'_, Held> {
        // Nothing panics while it is locked, so it is whole even if poisoned.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the session was still open for it.
    fn add(&self, hold: &Arc<LockHold>) -> bool {
        let mut held = self.lock();
        if !held.closed {
            held.holds.insert(hold.id, Arc::downgrade(hold));
        }
        !held.closed
    }

    fn remove(&self, id: OperationId) {
        self.lock().holds.remove(&id);
    }

    fn all(&self) -> Vec<Arc<LockHold>> {
        self.lock().holds.values().filter_map(Weak::upgrade).collect()
    }

    /// Loses what Python has broken, which it tells nobody.
    pub(crate) async fn check(&self) -> Result<()> {
        for hold in self.all() {
            hold.check().await?;
        }
        Ok(())
    }

    /// Gives all back, and takes no more.
    pub(crate) async fn close(&self) {
        self.lock().closed = true;
        for hold in self.all() {
            if let Err(error) = hold.give_back(Loss::GivenUp).await {
                warn!(%error, "a lock is left to be cleaned up");
            }
        }
    }
}
