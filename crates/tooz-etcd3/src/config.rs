use tooz_core::{CoordinatorUrl, Error, Options, Result};
use tooz_etcd3_core::{Config, Defaults};

/// Every option is one that both transports have.
pub(crate) fn read(url: &CoordinatorUrl, mut options: Options) -> Result<Config> {
    let defaults = Defaults { backend: "etcd3", tls: false };
    let config = Config::read(url, &mut options, defaults)?;
    options.finish()?;
    if config.tls.is_some() && !cfg!(feature = "tls") {
        return Err(Error::not_implemented("TLS (the feature tls of tooz-etcd3)"));
    }
    Ok(config)
}
