use std::sync::Arc;
use std::time::Duration;

use tooz_core::{
    Characteristics, Elections, ErrorKind, Groups, Lease, Locks, Loss, MemberId, Moment,
    OperationId, Outcome, Result, Session, async_trait,
};

use crate::store::{SessionId, Store};
use crate::world::World;

/// A session with a world: everything in it lives as long as it is renewed.
#[derive(Debug)]
pub(crate) struct MemorySession {
    pub(crate) world: World,
    pub(crate) id: SessionId,
    pub(crate) member: MemberId,
    ttl: Duration,
    lease: Lease,
}

impl MemorySession {
    pub(crate) async fn open(world: World, member: MemberId, ttl: Duration) -> Result<Arc<Self>> {
        let id = OperationId::random();
        let lease = Lease::timed(ttl, Moment::now());
        let record = (member.clone(), lease.clone());
        let opened = world.request(ttl, |store| {
            let (member, lease) = record;
            store.open_session(id, member, ttl, lease);
            Ok(())
        });
        if let Err(error) = opened.await {
            // It may have been opened: nobody knows of it, so it must not wait for its expiry.
            world.end_session(id);
            return Err(error);
        }
        tokio::spawn(expire_in_time(world.clone(), id));
        Ok(Arc::new(Self { world, id, member, ttl, lease }))
    }

    /// Who asks: another session of the same member is somebody else.
    pub(crate) fn us(&self) -> (SessionId, &MemberId) {
        (self.id, &self.member)
    }

    /// One request to the world, repeated while it is unknown whether it was carried out. `serve`
    /// is told whether it may have been carried out before.
    pub(crate) async fn request<T>(
        &self,
        serve: impl Fn(&mut Store, bool) -> Result<T>,
    ) -> Result<T> {
        let mut again = false;
        loop {
            let answer = self.world.request(self.ttl, |store| {
                store.check(self.id)?;
                serve(store, again)
            });
            match answer.await {
                Err(error) if error.kind() == ErrorKind::SessionLost => {
                    self.lease.lose(Loss::SessionEnded);
                    return Err(error);
                }
                Err(error) if error.outcome() == Outcome::Unknown && self.lease.is_held() => {
                    again = true;
                }
                answer => return answer,
            }
        }
    }
}

/// The server's own clock for one session.
async fn expire_in_time(world: World, id: SessionId) {
    while let Some(expires) = world.change(|store| store.expires(id)) {
        expires.wait().await;
        world.expire_due();
    }
}

#[async_trait]
impl Session for MemorySession {
    fn lease(&self) -> &Lease {
        &self.lease
    }

    fn characteristics(&self) -> Characteristics {
        crate::DRIVER.characteristics
    }

    fn heartbeat_interval(&self) -> Option<Duration> {
        Some(self.ttl / 3)
    }

    async fn heartbeat(&self) -> Result<()> {
        let sent = Moment::now();
        self.request(|store, _| store.renew(self.id, self.ttl)).await?;
        self.lease.renewed(sent);
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        let closed = self.request(|store, _| {
            store.end_session(self.id);
            Ok(())
        });
        match closed.await {
            Err(error) if error.kind() == ErrorKind::SessionLost => Ok(()),
            closed => closed,
        }
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
