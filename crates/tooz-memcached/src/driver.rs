use std::sync::Arc;

use tooz_core::{CoordinatorUrl, Driver, MemberId, Options, Result, Session, async_trait};

use crate::config::Config;
use crate::session::MemcachedSession;

pub(crate) fn open(url: &CoordinatorUrl, options: Options) -> Result<Arc<dyn Driver>> {
    Ok(Arc::new(MemcachedDriver { config: Arc::new(Config::read(url, options)?) }))
}

#[derive(Debug)]
struct MemcachedDriver {
    config: Arc<Config>,
}

#[async_trait]
impl Driver for MemcachedDriver {
    async fn connect(&self, member: &MemberId) -> Result<Arc<dyn Session>> {
        Ok(Arc::new(MemcachedSession::open(self.config.clone(), member.clone()).await?))
    }
}
