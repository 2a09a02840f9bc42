use std::sync::Arc;
use std::time::Duration;

use tooz_core::{
    Characteristics, Elections, ErrorKind, Groups, Lease, Locks, MemberId, Moment, OperationId,
    Result, Session, async_trait,
};

use crate::config::CHARACTERISTICS;
use crate::election::MemoryElections;
use crate::group::MemoryGroups;
use crate::lock::MemoryLocks;
use crate::state::State;
use crate::store::SessionId;
use crate::world::World;

/// A session with a world: everything in it lives as long as it is renewed.
#[derive(Debug)]
pub(crate) struct MemorySession {
    state: Arc<State>,
    locks: MemoryLocks,
    groups: MemoryGroups,
    elections: MemoryElections,
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
        let state = Arc::new(State { world, id, member, ttl, lease });
        Ok(Arc::new(Self {
            locks: MemoryLocks(state.clone()),
            groups: MemoryGroups(state.clone()),
            elections: MemoryElections(state.clone()),
            state,
        }))
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
        &self.state.lease
    }

    fn characteristics(&self) -> Characteristics {
        CHARACTERISTICS
    }

    fn heartbeat_interval(&self) -> Option<Duration> {
        Some(self.state.ttl / 3)
    }

    async fn heartbeat(&self) -> Result<()> {
        let sent = Moment::now();
        self.state.request(|store, _| store.renew(self.state.id, self.state.ttl)).await?;
        self.state.lease.renewed(sent);
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        let closed = self.state.request(|store, _| {
            store.end_session(self.state.id);
            Ok(())
        });
        match closed.await {
            Err(error) if error.kind() == ErrorKind::SessionLost => Ok(()),
            closed => closed,
        }
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
