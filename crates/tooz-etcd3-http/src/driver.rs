use std::sync::Arc;

use tooz_core::{CoordinatorUrl, Driver, Options, Result};

use crate::config::GatewayConfig;
use crate::connection::Gateway;

pub(crate) fn open(url: &CoordinatorUrl, options: Options) -> Result<Arc<dyn Driver>> {
    let config = GatewayConfig::read(url, options)?;
    let connector = Arc::new(Gateway::new(&config)?);
    Ok(tooz_etcd3_core::open(config.shared, connector))
}
