use std::sync::Arc;

use tooz_core::{CoordinatorUrl, Driver, MemberId, Options, Result, Session, async_trait};

use crate::config::Config;
use crate::session::EtcdSession;
use crate::store::Store;

pub(crate) fn open(url: &CoordinatorUrl, options: Options) -> Result<Arc<dyn Driver>> {
    let config = Arc::new(Config::read(url, options)?);
    let store = Store::new(&config)?;
    Ok(Arc::new(EtcdDriver { config, store }))
}

#[derive(Debug)]
struct EtcdDriver {
    config: Arc<Config>,
    store: Store,
}

#[async_trait]
impl Driver for EtcdDriver {
    async fn connect(&self, member: &MemberId) -> Result<Arc<dyn Session>> {
        let (config, store) = (self.config.clone(), self.store.clone());
        Ok(Arc::new(EtcdSession::open(config, store, member.clone()).await?))
    }
}
