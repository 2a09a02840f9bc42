use std::sync::Arc;

use tooz_core::{CoordinatorUrl, Driver, MemberId, Options, Result, Session, async_trait};

use crate::config::Config;
use crate::session::MemorySession;
use crate::world::World;

pub(crate) fn open(url: &CoordinatorUrl, options: Options) -> Result<Arc<dyn Driver>> {
    Ok(Arc::new(MemoryDriver { config: Config::read(url, options)? }))
}

#[derive(Debug)]
struct MemoryDriver {
    config: Config,
}

#[async_trait]
impl Driver for MemoryDriver {
    async fn connect(&self, member: &MemberId) -> Result<Arc<dyn Session>> {
        let world = World::named(&self.config.name);
        Ok(MemorySession::open(world, member.clone(), self.config.timeout).await?)
    }
}
