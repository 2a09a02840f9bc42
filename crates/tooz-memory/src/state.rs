use std::time::Duration;

use tooz_core::{ErrorKind, Lease, Loss, MemberId, Outcome, Result};

use crate::store::{SessionId, Store};
use crate::world::World;

/// What the files of a session share.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) world: World,
    pub(crate) id: SessionId,
    pub(crate) member: MemberId,
    pub(crate) ttl: Duration,
    pub(crate) lease: Lease,
}

impl State {
    /// The caller: another session of the same member is somebody else.
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
