use std::sync::Arc;

use tooz_core::{CoordinatorUrl, Driver, MemberId, Options, Result, Session, async_trait};

use crate::config::Config;
use crate::session::ConsulSession;

pub(crate) fn open(url: &CoordinatorUrl, options: Options) -> Result<Arc<dyn Driver>> {
    let mut config = Config::read(url, options)?;
    config.api = config.api.shared();
    Ok(Arc::new(ConsulDriver { config: Arc::new(config) }))
}

#[derive(Debug)]
struct ConsulDriver {
    config: Arc<Config>,
}

#[async_trait]
impl Driver for ConsulDriver {
    async fn connect(&self, member: &MemberId) -> Result<Arc<dyn Session>> {
        Ok(Arc::new(ConsulSession::open(self.config.clone(), member.clone()).await?))
    }
}
