//! Locks and terms: one queue each, in the order of arrival.

use std::sync::Arc;

use tokio::sync::Notify;
use tooz_core::{
    Acquisition, FencingToken, Hold, Lease, LockName, Locks, OperationId, Release, Result,
    async_trait,
};

use crate::keys::LockKey;
use crate::state::State;
use crate::store::{Entry, SessionId};
use crate::world::World;

/// The locks of a session.
#[derive(Debug)]
pub(crate) struct MemoryLocks(pub(crate) Arc<State>);

#[async_trait]
impl Locks for MemoryLocks {
    async fn acquire(&self, acquisition: Acquisition<LockName>) -> Result<Option<Arc<dyn Hold>>> {
        let key = LockKey::Lock(acquisition.target.clone());
        acquire(&self.0, acquisition.with_target(key)).await
    }

    async fn break_lock(&self, name: &LockName) -> Result<bool> {
        let key = LockKey::Lock(name.clone());
        self.0.request(|store, again| Ok(store.break_lock(&key) || again)).await
    }
}

/// One round trip if it is free; one more after the wait, to see why it was pushed.
pub(crate) async fn acquire(
    state: &State,
    acquisition: Acquisition<LockKey>,
) -> Result<Option<Arc<dyn Hold>>> {
    let Acquisition { id, target: key, mode, wait, .. } = acquisition;
    let lease = state.lease.child();
    let granted = Arc::new(Notify::new());
    let token = state
        .request(|store, _| {
            let (lease, granted) = (lease.clone(), granted.clone());
            let entry = Entry { id, session: state.id, mode, lease, granted, token: 0 };
            Ok(store.enqueue(&key, entry))
        })
        .await;
    let token = match token {
        Ok(Some(token)) => token,
        Ok(None) => {
            tokio::select! {
                () = granted.notified() => {}
                () = wait.over() => {}
            }
            // Granted in the meantime or not, the queue's word counts.
            let token = state.request(|store, _| match store.token(&key, id) {
                None => {
                    store.release(&key, id);
                    Ok(None)
                }
                token => Ok(token),
            });
            match token.await {
                Ok(Some(token)) => token,
                Ok(None) => return Ok(None),
                Err(error) => return Err(cancel(state, &key, id, error)),
            }
        }
        Err(error) => return Err(cancel(state, &key, id, error)),
    };
    let token = FencingToken(token);
    let (world, session) = (state.world.clone(), state.id);
    Ok(Some(Arc::new(MemoryHold { world, session, id, key, token, lease })))
}

/// Cancels an acquisition of which nothing more can be learned.
fn cancel(
    state: &State,
    key: &LockKey,
    id: OperationId,
    error: tooz_core::Error,
) -> tooz_core::Error {
    let (world, key) = (state.world.clone(), key.clone());
    world.change(|store| store.release(&key, id));
    error
}

/// A lock or a term that is ours.
#[derive(Debug)]
struct MemoryHold {
    world: World,
    session: SessionId,
    id: OperationId,
    key: LockKey,
    token: FencingToken,
    lease: Lease,
}

#[async_trait]
impl Hold for MemoryHold {
    fn token(&self) -> FencingToken {
        self.token
    }

    fn lease(&self) -> &Lease {
        &self.lease
    }

    async fn verify(&self) -> Result<bool> {
        let limit = self.lease.ttl().unwrap_or_default();
        self.world.request(limit, |store| Ok(store.token(&self.key, self.id).is_some())).await
    }

    async fn release(&self) -> Result<Release> {
        let limit = self.lease.ttl().unwrap_or_default();
        let released = self.world.request(limit, |store| {
            store.check(self.session)?;
            Ok(store.release(&self.key, self.id))
        });
        // After a lost reply, asking again finds nothing: the engine knows which of the two it was.
        Ok(if released.await? { Release::Released } else { Release::WasLost })
    }
}
