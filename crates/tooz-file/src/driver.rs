//! The driver: a directory, not looked at yet.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use tooz_core::{CoordinatorUrl, Driver, MemberId, Options, Result, Session, async_trait};

use crate::config::Config;
use crate::place::Place;
use crate::presence::{self, Presence, SessionId};
use crate::session::FileSession;

/// The ids of all sessions of one coordinator: what they have left is its own.
pub(crate) type OwnSessions = Arc<Mutex<HashSet<SessionId>>>;

/// One coordinator's way to its directory.
#[derive(Debug)]
struct FileDriver {
    config: Config,
    own: OwnSessions,
}

pub(crate) fn open(url: &CoordinatorUrl, options: Options) -> Result<Arc<dyn Driver>> {
    Ok(Arc::new(FileDriver { config: Config::read(url, options)?, own: OwnSessions::default() }))
}

#[async_trait]
impl Driver for FileDriver {
    async fn connect(&self, member: &MemberId) -> Result<Arc<dyn Session>> {
        let place = Place::open(&self.config)?;
        presence::sweep(&place.layout);
        let presence = Presence::announce(&place.layout, member)?;
        self.own.lock().unwrap_or_else(PoisonError::into_inner).insert(presence.id.clone());
        Ok(Arc::new(FileSession::new(place, presence, member.clone(), self.own.clone())))
    }
}
