//! A session: what one coordinator is and has in a directory, until it ends.

use std::sync::Arc;
use std::time::Duration;

use tooz_core::{
    Characteristics, Elections, GroupId, Groups, Lease, Locks, Loss, MemberId, Moment, Result,
    Session, async_trait,
};
use tracing::debug;

use crate::DRIVER;
use crate::driver::OwnSessions;
use crate::errors::session_lost;
use crate::group::Group;
use crate::membership::Memberships;
use crate::place::Place;
use crate::presence::Presence;
use crate::seat::{Guard, Seats};

/// A session that has announced itself.
#[derive(Debug)]
pub(crate) struct FileSession {
    pub(crate) place: Place,
    pub(crate) member: MemberId,
    pub(crate) lease: Lease,
    pub(crate) presence: Presence,
    pub(crate) own: OwnSessions,
    pub(crate) seats: Arc<Seats>,
    pub(crate) memberships: Memberships,
    _guard: Guard,
}

impl FileSession {
    pub(crate) fn new(
        place: Place,
        presence: Presence,
        member: MemberId,
        own: OwnSessions,
    ) -> Self {
        let lease = Lease::untimed();
        let _guard = Guard::over_session(&place, &presence.path, presence.identity, &lease);
        let (seats, memberships) = (Arc::default(), Memberships::default());
        Self { place, member, lease, presence, own, seats, memberships, _guard }
    }

    /// An acquisition that failed because the directory is gone failed with the session, perhaps
    /// sooner than the session was told.
    pub(crate) fn blame<T>(&self, result: Result<T>) -> Result<T> {
        if result.is_ok() || self.presence.is_in_place() {
            return result;
        }
        self.lease.lose(Loss::SessionEnded);
        Err(session_lost())
    }

    pub(crate) fn group<'a>(&'a self, id: &'a GroupId) -> Group<'a> {
        Group { place: &self.place, id }
    }
}

#[async_trait]
impl Session for FileSession {
    fn lease(&self) -> &Lease {
        &self.lease
    }

    fn characteristics(&self) -> Characteristics {
        DRIVER.characteristics
    }

    fn heartbeat_interval(&self) -> Option<Duration> {
        Some(self.place.timeout / 3)
    }

    async fn heartbeat(&self) -> Result<()> {
        let sent = Moment::now();
        if !self.presence.is_in_place() {
            self.lease.lose(Loss::SessionEnded);
            return Ok(());
        }
        self.touch_memberships()?;
        self.lease.renewed(sent);
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        self.lease.lose(Loss::GivenUp);
        self.seats.close();
        // From here on the members of this session are dead to everybody.
        self.presence.end();
        if let Err(error) = self.forget_memberships().await {
            debug!(%error, "left to others to remove");
        }
        Ok(())
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
