use std::sync::Arc;

use tooz_core::{CoordinatorUrl, Driver, MemberId, Options, Result, Session, async_trait};

use crate::client::Client;
use crate::config::Config;
use crate::session::EtcdSession;

pub(crate) fn open(url: &CoordinatorUrl, options: Options) -> Result<Arc<dyn Driver>> {
    let config = Arc::new(Config::read(url, options)?);
    let client = Client::new(&config)?;
    Ok(Arc::new(EtcdDriver { config, client }))
}

#[derive(Debug)]
struct EtcdDriver {
    config: Arc<Config>,
    client: Client,
}

#[async_trait]
impl Driver for EtcdDriver {
    async fn connect(&self, member: &MemberId) -> Result<Arc<dyn Session>> {
        let (config, client) = (self.config.clone(), self.client.clone());
        Ok(Arc::new(EtcdSession::open(config, client, member.clone()).await?))
    }
}
