//! The driver: a namespace, not looked at yet.

use std::sync::Arc;

use tooz_core::{CoordinatorUrl, Driver, MemberId, Options, Result, Session, async_trait};
use tracing::warn;

use crate::config::Config;
use crate::errors::failed;
use crate::lock;
use crate::namespace::{FILE, Namespace};
use crate::session::IpcSession;

/// One coordinator's access to its namespace.
#[derive(Debug)]
struct IpcDriver {
    config: Config,
    /// Groups and elections.
    file: Arc<dyn Driver>,
}

pub(crate) fn open(url: &CoordinatorUrl, options: Options) -> Result<Arc<dyn Driver>> {
    let config = Config::read(url, options)?;
    let root =
        Namespace::root(&config).map_err(|error| failed("examine", &config.directory, error))?;
    // Its heartbeat is a third of its timeout, and carries ours.
    let url = format!("file://{}/{FILE}?timeout=3", root.display());
    let url: CoordinatorUrl = url.parse()?;
    let file = (tooz_file::DRIVER.open)(&url, Options::of(&url))?;
    Ok(Arc::new(IpcDriver { config, file }))
}

#[async_trait]
impl Driver for IpcDriver {
    async fn connect(&self, member: &MemberId) -> Result<Arc<dyn Session>> {
        let namespace = Arc::new(Namespace::open(&self.config)?);
        if let Err(error) = lock::sweep(&namespace).await {
            warn!(%error, "remnants of dead processes are not cleaned up");
        }
        let file = self.file.connect(member).await?;
        match IpcSession::new(namespace, file.clone()).await {
            Ok(session) => Ok(Arc::new(session)),
            Err(error) => {
                // The first error tells more.
                let _ = file.close().await;
                Err(error)
            }
        }
    }
}
