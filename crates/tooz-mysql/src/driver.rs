use std::sync::Arc;

use tooz_core::{CoordinatorUrl, Driver, MemberId, Options, Result, Session, async_trait};

use crate::config::Config;
use crate::session::MySqlSession;

pub(crate) fn open(url: &CoordinatorUrl, options: Options) -> Result<Arc<dyn Driver>> {
    Ok(Arc::new(MySqlDriver { config: Arc::new(Config::read(url, options)?) }))
}

#[derive(Debug)]
struct MySqlDriver {
    config: Arc<Config>,
}

#[async_trait]
impl Driver for MySqlDriver {
    async fn connect(&self, member: &MemberId) -> Result<Arc<dyn Session>> {
        Ok(Arc::new(MySqlSession::open(self.config.clone(), member.clone()).await?))
    }
}
