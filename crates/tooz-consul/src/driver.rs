use std::sync::Arc;

use tooz_core::{CoordinatorUrl, Driver, MemberId, Options, Result, Session, async_trait};

use crate::config::Config;
use crate::poll::Poller;
use crate::session::ConsulSession;

pub(crate) fn open(url: &CoordinatorUrl, options: Options) -> Result<Arc<dyn Driver>> {
    let config = Arc::new(Config::read(url, options)?);
    let poller = Poller::shared(&config.access)?;
    Ok(Arc::new(ConsulDriver { config, poller }))
}

#[derive(Debug)]
struct ConsulDriver {
    config: Arc<Config>,
    poller: Arc<Poller>,
}

#[async_trait]
impl Driver for ConsulDriver {
    async fn connect(&self, member: &MemberId) -> Result<Arc<dyn Session>> {
        let (config, poller) = (self.config.clone(), self.poller.clone());
        Ok(Arc::new(ConsulSession::open(config, poller, member.clone()).await?))
    }
}
