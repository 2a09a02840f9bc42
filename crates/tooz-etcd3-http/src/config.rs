use tooz_core::{CoordinatorUrl, Error, Options, Result};
use tooz_etcd3_core::{Config, Defaults};

/// The settings from the URL.
#[derive(Clone, Debug)]
pub(crate) struct GatewayConfig {
    pub(crate) shared: Config,
    /// The version of the gateway's paths; found out from the server if `None`.
    pub(crate) api_version: Option<String>,
}

impl GatewayConfig {
    pub(crate) fn read(url: &CoordinatorUrl, mut options: Options) -> Result<Self> {
        let defaults = Defaults { backend: "etcd3-http", tls: url.scheme() == "etcd3+https" };
        let shared = Config::read(url, &mut options, defaults)?;
        let api_version = options.text("api_version");
        options.finish()?;
        if shared.tls.is_some() && url.scheme() == "etcd3+http" {
            return Err(Error::invalid("certificates need the scheme etcd3+https"));
        }
        let is_version = |text: &String| {
            text.starts_with('v') && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
        };
        if api_version.as_ref().is_some_and(|version| !is_version(version)) {
            return Err(Error::invalid("the API version must be v3, v3beta or v3alpha"));
        }
        Ok(Self { shared, api_version })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<GatewayConfig> {
        let url = url.parse()?;
        GatewayConfig::read(&url, Options::of(&url))
    }

    #[test]
    fn the_scheme_says_whether_it_is_tls() {
        assert!(read("etcd3+https://a").unwrap().shared.tls.is_some());
        assert!(read("etcd3+http://a").unwrap().shared.tls.is_none());
        assert!(read("etcd3+http://a?ssl=yes").is_err());
        assert!(read("etcd3+https://a?ssl=no").is_err());
    }

    #[test]
    fn the_version_is_part_of_a_path() {
        assert_eq!(read("etcd3+http://a").unwrap().api_version, None);
        let config = read("etcd3+http://a?api_version=v3beta").unwrap();
        assert_eq!(config.api_version.as_deref(), Some("v3beta"));
        assert!(read("etcd3+http://a?api_version=../v2").is_err());
    }
}
