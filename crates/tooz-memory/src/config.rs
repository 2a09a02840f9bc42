use std::time::Duration;

use tooz_core::{Characteristic, Characteristics, CoordinatorUrl, Options, Result};

/// What a world ensures.
pub(crate) const CHARACTERISTICS: Characteristics = Characteristics::of(&[
    Characteristic::DistributedAcrossThreads,
    Characteristic::Linearizable,
    Characteristic::Sequential,
    Characteristic::Causal,
    Characteristic::Serializable,
]);

/// The settings from the URL.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// The world's name: the URL without its scheme and options.
    pub(crate) name: String,
    /// The session's time to live.
    pub(crate) timeout: Duration,
}

impl Config {
    pub(crate) fn read(url: &CoordinatorUrl, mut options: Options) -> Result<Self> {
        let timeout = options.seconds("timeout", Duration::from_secs(10))?;
        options.finish()?;
        let hosts: Vec<_> = url.hosts().iter().map(ToString::to_string).collect();
        Ok(Self { name: format!("{}{}", hosts.join(","), url.path()), timeout })
    }
}
