use std::sync::Arc;

use tooz_core::{CoordinatorUrl, Driver, Options, Result};

use crate::config;
use crate::connection::Grpc;

pub(crate) fn open(url: &CoordinatorUrl, options: Options) -> Result<Arc<dyn Driver>> {
    let config = config::read(url, options)?;
    let connector = Arc::new(Grpc::new(&config)?);
    Ok(tooz_etcd3_core::open(config, connector))
}
