//! What the URL says.

use std::path::PathBuf;

use tooz_core::{Characteristic, Characteristics, CoordinatorUrl, Error, Options, Result};

/// What a namespace ensures.
pub(crate) const CHARACTERISTICS: Characteristics = Characteristics::of(&[
    Characteristic::NonTimeoutBased,
    Characteristic::DistributedAcrossThreads,
    Characteristic::DistributedAcrossProcesses,
]);

/// The settings of a coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// Keeps coordinators apart from others of this host. Python's are in the one without a name.
    pub(crate) namespace: String,
    /// Where to keep what System V IPC has no room for.
    pub(crate) directory: PathBuf,
}

impl Config {
    pub(crate) fn read(url: &CoordinatorUrl, mut options: Options) -> Result<Self> {
        let namespace = options.text("namespace").unwrap_or_default();
        let directory = options.text("directory").unwrap_or_else(|| "/dev/shm".to_owned());
        options.ignore(&["executor"]);
        options.finish()?;
        if let Some(host) = url.hosts().first() {
            return Err(Error::invalid(format!(
                "an ipc URL has no host, and this one has {}; write ipc:// or \
                 ipc://?namespace={}",
                host.name, host.name
            )));
        }
        if !matches!(url.path(), "" | "/") {
            return Err(Error::invalid(format!(
                "an ipc URL has no path, but this one has {}; write ipc://",
                url.path()
            )));
        }
        if !directory.starts_with('/') || directory.contains(['?', '#', '\0']) {
            return Err(Error::invalid(
                "the option directory is not an absolute path without ?, # and NUL bytes; write \
                 directory=/dev/shm or the like",
            ));
        }
        Ok(Self { namespace, directory: PathBuf::from(directory) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<Config> {
        let url: CoordinatorUrl = url.parse()?;
        Config::read(&url, Options::of(&url))
    }

    #[test]
    fn the_url_may_say_nothing() {
        for url in ["ipc://", "ipc:///", "ipc://?executor=thread"] {
            let config = read(url).unwrap();
            assert_eq!(config.namespace, "");
            assert_eq!(config.directory, PathBuf::from("/dev/shm"));
        }
        let config = read("ipc://?namespace=app&directory=/run/app").unwrap();
        assert_eq!(config.namespace, "app");
        assert_eq!(config.directory, PathBuf::from("/run/app"));
    }

    #[test]
    fn what_it_may_not_say_is_refused() {
        for (url, part) in [
            ("ipc://app", "write ipc:// or ipc://?namespace=app"),
            ("ipc:///app", "has /app; write ipc://"),
            ("ipc://?directory=run", "is not an absolute path"),
            ("ipc://?namspace=x", "known are: directory, executor, namespace"),
        ] {
            let error = read(url).unwrap_err().to_string();
            assert!(error.contains(part), "{url}: {error}");
        }
    }
}
