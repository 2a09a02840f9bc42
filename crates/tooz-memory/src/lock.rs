//! Locks and terms: one queue each, in the order of arrival.

use std::sync::Arc;

use tokio::sync::Notify;
use tooz_core::{
    Acquisition, FencingToken, Hold, Lease, LockName, Locks, OperationId, Release, Result,
    async_trait,
};

use crate::session::MemorySession;
use crate::store::{Entry, Prize, SessionId};
use crate::world::World;

#[async_trait]
impl Locks for MemorySession {
    async fn acquire(&self, acquisition: Acquisition<LockName>) -> Result<Option<Arc<dyn Hold>>> {
        let prize = Prize::Lock(acquisition.target.clone());
        acquire(self, acquisition.with_target(prize)).await
    }

    async fn break_lock(&self, name: &LockName) -> Result<bool> {
        let prize = Prize::Lock(name.clone());
        self.request(|store, again| Ok(store.take_away(&prize) || again)).await
    }
}

/// One round trip if it is free; one more after the wait, to see what the push was about.
pub(crate) async fn acquire(
    session: &MemorySession,
    acquisition: Acquisition<Prize>,
) -> Result<Option<Arc<dyn Hold>>> {
    let Acquisition { id, target: prize, mode, wait, .. } = acquisition;
    let lease = tooz_core::Session::lease(session).child();
    let granted = Arc::new(Notify::new());
    let token = session
        .request(|store, _| {
            let (lease, granted) = (lease.clone(), granted.clone());
            let entry = Entry { id, session: session.id, mode, lease, granted, token: 0 };
            Ok(store.enqueue(&prize, entry))
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
            let token = session.request(|store, _| match store.token(&prize, id) {
                None => {
                    store.withdraw(&prize, id);
                    Ok(None)
                }
                token => Ok(token),
            });
            match token.await {
                Ok(Some(token)) => token,
                Ok(None) => return Ok(None),
                Err(error) => return Err(abandon(session, &prize, id, error)),
            }
        }
        Err(error) => return Err(abandon(session, &prize, id, error)),
    };
    let token = FencingToken(token);
    let (world, session) = (session.world.clone(), session.id);
    Ok(Some(Arc::new(MemoryHold { world, session, id, prize, token, lease })))
}

/// An attempt of which nothing more can be learned is taken back as soon as the server answers.
fn abandon(
    session: &MemorySession,
    prize: &Prize,
    id: OperationId,
    error: tooz_core::Error,
) -> tooz_core::Error {
    let (world, prize) = (session.world.clone(), prize.clone());
    world.change(|store| store.withdraw(&prize, id));
    error
}

/// A lock or a term that is ours.
#[derive(Debug)]
struct MemoryHold {
    world: World,
    session: SessionId,
    id: OperationId,
    prize: Prize,
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
        self.world.request(limit, |store| Ok(store.token(&self.prize, self.id).is_some())).await
    }

    async fn release(&self) -> Result<Release> {
        let limit = self.lease.ttl().unwrap_or_default();
        let released = self.world.request(limit, |store| {
            store.check(self.session)?;
            Ok(store.withdraw(&self.prize, self.id))
        });
        // After a lost reply, asking again finds nothing: the engine knows which of the two it was.
        Ok(if released.await? { Release::Released } else { Release::WasLost })
    }
}
