//! The driver: a directory, not looked at yet.

use std::sync::Arc;

use tooz_core::kit::locked;
use tooz_core::{CoordinatorUrl, Driver, MemberId, Options, Result, Session, async_trait};

use crate::config::Config;
use crate::directory::Directory;
use crate::presence::{self, Presence};
use crate::session::FileSession;
use crate::state::{OwnSessions, State};

/// One coordinator's access to its directory.
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
        let directory = Directory::open(&self.config)?;
        presence::sweep(&directory.keys);
        let presence = Presence::announce(&directory.keys, member)?;
        locked(&self.own).insert(presence.id.clone());
        let state = State::new(directory, presence, member.clone(), self.own.clone());
        Ok(Arc::new(FileSession::new(Arc::new(state))))
    }
}
