//! Locks: a turn in the queue of ours, then the semaphores that exclude Python.

use std::sync::Arc;

use tooz_core::{
    Acquisition, FencingToken, Hold, Lease, LockName, Locks, Loss, Mode, OperationId, Release,
    Result, async_trait,
};
use tooz_file::queue::{Queue, Ticket};
use tracing::warn;

use crate::errors::session_lost;
use crate::gate::{self, Gate, Waited};
use crate::namespace::Namespace;
use crate::state::{Grant, Grants, State};

/// The locks of a session.
#[derive(Debug)]
pub(crate) struct IpcLocks(pub(crate) Arc<State>);

#[async_trait]
impl Locks for IpcLocks {
    async fn acquire(&self, acquisition: Acquisition<LockName>) -> Result<Option<Arc<dyn Hold>>> {
        let state = &self.0;
        let over = async {
            tokio::select! {
                () = acquisition.wait.over() => {}
                _ = state.lease().lost() => {}
            }
        };
        let (id, mode) = (acquisition.id, acquisition.mode);
        let key = state.namespace.keys.lock(&acquisition.target)?;
        let Some((gate, ticket)) = take(&state.namespace, id, key, mode, over).await? else {
            return if state.lease().is_held() { Ok(None) } else { Err(session_lost()) };
        };
        let grant = Arc::new(Grant {
            id,
            token: state.namespace.token()?,
            lease: state.lease().child(),
            key,
            gate: tokio::sync::Mutex::new(Some(gate)),
            ticket,
        });
        state.grants.insert(id, grant.clone());
        let hold =
            IpcHold { namespace: state.namespace.clone(), grants: state.grants.clone(), grant };
        // A session that ends from here on releases it itself.
        if !state.lease().is_held() {
            hold.end(Loss::GivenUp).await?;
            return Err(session_lost());
        }
        let hold = Arc::new(hold);
        tokio::spawn(hold.clone().watch());
        Ok(Some(hold))
    }

    async fn break_lock(&self, name: &LockName) -> Result<bool> {
        break_lock(&self.0.namespace, name).await
    }
}

/// A lock that a session holds.
#[derive(Debug)]
struct IpcHold {
    /// Not the session's state: a hold that somebody keeps must not keep the session present.
    namespace: Arc<Namespace>,
    grants: Arc<Grants>,
    grant: Arc<Grant>,
}

impl IpcHold {
    /// Ends the hold when somebody breaks it or the session ends.
    async fn watch(self: Arc<Self>) {
        let loss = tokio::select! {
            () = self.grant.ticket.broken() => Loss::Taken,
            loss = self.grant.lease.lost() => loss,
        };
        if let Err(error) = self.end(loss).await {
            warn!(%error, "a lost lock is left to be cleaned up");
        }
    }

    async fn end(&self, loss: Loss) -> Result<Release> {
        let released = end(&self.namespace, &self.grant, loss).await?;
        self.grants.remove(&self.grant.id);
        Ok(released)
    }
}

#[async_trait]
impl Hold for IpcHold {
    fn token(&self) -> FencingToken {
        self.grant.token
    }

    fn lease(&self) -> &Lease {
        &self.grant.lease
    }

    async fn verify(&self) -> Result<bool> {
        check(&self.grant).await
    }

    async fn release(&self) -> Result<Release> {
        self.end(Loss::GivenUp).await
    }
}

/// Gives a lock back; whether it was still ours.
async fn end(namespace: &Namespace, grant: &Grant, loss: Loss) -> Result<Release> {
    let mut gate = grant.gate.lock().await;
    grant.lease.lose(loss);
    let Some(held) = &*gate else { return Ok(Release::WasLost) };
    let was_ours = release(namespace, grant.key, &grant.ticket, held).await?;
    *gate = None;
    Ok(if was_ours { Release::Released } else { Release::WasLost })
}

/// Looks whether a lock is still ours, and loses the lease if not.
async fn check(grant: &Grant) -> Result<bool> {
    let gate = grant.gate.lock().await;
    let is_ours = match &*gate {
        Some(gate) => grant.ticket.is_in_place() && gate.is_there()?,
        None => false,
    };
    if !is_ours {
        grant.lease.lose(Loss::Taken);
    }
    Ok(grant.lease.is_held())
}

/// Loses what Python has broken, which it tells nobody.
pub(crate) async fn check_all(grants: &Grants) -> Result<()> {
    for grant in grants.values() {
        check(&grant).await?;
    }
    Ok(())
}

/// Gives all locks of a session back, whose lease is lost before: none is added from then on.
pub(crate) async fn release_all(state: &State) {
    for (_, grant) in state.grants.take_all() {
        if let Err(error) = end(&state.namespace, &grant, Loss::GivenUp).await {
            warn!(%error, "a lock is left to be cleaned up");
        }
    }
}

/// What became of a ticket whose turn it was.
enum Passed {
    Through(Gate),
    Over,
    /// Somebody took the ticket away meanwhile.
    Bumped,
}

/// Takes a namespace in the queue, and at its head the semaphores; `None` if `over` came before.
pub(crate) async fn take(
    namespace: &Namespace,
    id: OperationId,
    key: i32,
    mode: Mode,
    over: impl Future<Output = ()>,
) -> Result<Option<(Gate, Ticket)>> {
    let mut over = std::pin::pin!(over);
    let queue = namespace.queue(key);
    loop {
        let mutex = namespace.mutex(key).await?;
        let ticket = queue.draw(id, mode)?;
        drop(mutex);
        let passed = match queue.turn(&ticket, over.as_mut()).await {
            Ok(true) => pass(namespace, &ticket, key, mode, over.as_mut()).await,
            Ok(false) => Ok(Passed::Over),
            Err(error) => Err(error),
        };
        match passed {
            Ok(Passed::Through(gate)) => return Ok(Some((gate, ticket))),
            Ok(Passed::Bumped) => drop(ticket),
            Ok(Passed::Over) => return leave(namespace, &queue, key, ticket).await.map(|()| None),
            Err(error) => {
                // The first error tells more.
                let _ = leave(namespace, &queue, key, ticket).await;
                return Err(error);
            }
        }
    }
}

/// At the head of the queue: takes the semaphores, for which only Python can be waited.
async fn pass(
    namespace: &Namespace,
    ticket: &Ticket,
    key: i32,
    mode: Mode,
    over: impl Future<Output = ()>,
) -> Result<Passed> {
    let mut over = std::pin::pin!(over);
    loop {
        // Readers must not leave or be cleaned up while one more joins them.
        let mutex = match mode {
            Mode::Shared => Some(namespace.mutex(key).await?),
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
        // Whoever breaks a lock removes the semaphores and then the tickets that hold: either we see
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
async fn leave(namespace: &Namespace, queue: &Queue, key: i32, ticket: Ticket) -> Result<()> {
    let _mutex = namespace.mutex(key).await?;
    drop(ticket);
    if queue.remove_if_empty() { gate::clean(key) } else { Ok(()) }
}

/// Releases what was taken; whether it was still ours. The semaphores always before the ticket,
/// because the next of ours acts on them as soon as the ticket is gone.
async fn release(namespace: &Namespace, key: i32, ticket: &Ticket, gate: &Gate) -> Result<bool> {
    let queue = namespace.queue(key);
    if gate.mode() == Mode::Exclusive {
        return release_exclusive(&queue, ticket, gate);
    }
    let _mutex = namespace.mutex(key).await?;
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
pub(crate) fn release_exclusive(queue: &Queue, ticket: &Ticket, gate: &Gate) -> Result<bool> {
    let was_ours = ticket.is_in_place() & gate.open()?;
    ticket.leave()?;
    queue.remove_if_empty();
    Ok(was_ours)
}

/// Breaks a lock; whether anybody held it. A *Python* holder is not told.
async fn break_lock(namespace: &Namespace, name: &LockName) -> Result<bool> {
    let key = namespace.keys.lock(name)?;
    let queue = namespace.queue(key);
    let _mutex = namespace.mutex(key).await?;
    let mut was_held = gate::break_open(key)?;
    for entry in queue.living()?.iter().filter(|entry| entry.is_holding()) {
        entry.break_ticket()?;
        was_held = true;
    }
    queue.remove_if_empty();
    Ok(was_held)
}

/// Removes what dead processes have left of any lock.
pub(crate) async fn sweep(namespace: &Namespace) -> Result<()> {
    for (key, queue) in namespace.queues()? {
        if queue.has_living()? {
            continue;
        }
        let _mutex = namespace.mutex(key).await?;
        if queue.living()?.is_empty() {
            gate::clean(key)?;
            queue.remove_if_empty();
        }
    }
    Ok(())
}
