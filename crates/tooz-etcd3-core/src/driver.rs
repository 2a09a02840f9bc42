use std::sync::Arc;

use tooz_core::{Driver, MemberId, Result, Session, async_trait};

use crate::config::Config;
use crate::connection::Connector;
use crate::session::EtcdSession;

/// A driver over these connections.
pub fn open(config: Config, connector: Arc<dyn Connector>) -> Arc<dyn Driver> {
    Arc::new(EtcdDriver { config: Arc::new(config), connector })
}

#[derive(Debug)]
struct EtcdDriver {
    config: Arc<Config>,
    connector: Arc<dyn Connector>,
}

#[async_trait]
impl Driver for EtcdDriver {
    async fn connect(&self, member: &MemberId) -> Result<Arc<dyn Session>> {
        let (config, connector) = (self.config.clone(), self.connector.clone());
        Ok(Arc::new(EtcdSession::open(config, connector, member.clone()).await?))
    }
}
