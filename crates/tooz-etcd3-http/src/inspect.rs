//! A look at a namespace from the server's side, for tests and for a person in trouble.

use std::sync::Arc;

use tooz_core::{CoordinatorUrl, Options, Result};

pub use tooz_etcd3_core::inspect::Inspector;

use crate::config::GatewayConfig;
use crate::connection::Gateway;

/// A separate connection to what the coordinators of a URL use.
///
/// # Errors
/// When the URL or its options are not acceptable.
pub fn inspector(url: &str) -> Result<Inspector> {
    let url: CoordinatorUrl = url.parse()?;
    let config = GatewayConfig::read(&url, Options::of(&url))?;
    let connector = Arc::new(Gateway::new(&config)?);
    Ok(Inspector::new(config.shared, connector))
}
