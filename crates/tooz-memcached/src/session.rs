use std::sync::Arc;
use std::time::Duration;

use tooz_core::{
    Characteristics, Elections, Error, ErrorKind, Groups, Lease, Locks, MemberId, Outcome, Result,
    Session, async_trait,
};

use crate::config::Config;
use crate::heartbeat;
use crate::life::Life;

/// A session: as long as its item is renewed, over any number of connections.
#[derive(Debug)]
pub(crate) struct MemcachedSession(pub(crate) Arc<Life>);

impl MemcachedSession {
    pub(crate) async fn open(config: Arc<Config>, member: MemberId) -> Result<Self> {
        Life::open(config, member).await.map(Self)
    }
}

#[async_trait]
impl Session for MemcachedSession {
    fn lease(&self) -> &Lease {
        &self.0.lease
    }

    fn characteristics(&self) -> Characteristics {
        crate::DRIVER.characteristics
    }

    fn heartbeat_interval(&self) -> Option<Duration> {
        Some(self.0.config.heartbeat_interval())
    }

    async fn heartbeat(&self) -> Result<()> {
        heartbeat::renew(&self.0).await
    }

    async fn close(&self) -> Result<()> {
        let limit = self.0.config.response_timeout * 2;
        self.0.close(limit).await.unwrap_or_else(|| {
            Err(Error::new(ErrorKind::TimedOut, "the server did not answer the goodbye")
                .outcome_is(Outcome::Unknown))
        })
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
