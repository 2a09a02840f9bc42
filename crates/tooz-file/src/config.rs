//! What the URL says.

use std::path::PathBuf;
use std::time::Duration;

use tooz_core::{Characteristic, Characteristics, CoordinatorUrl, Error, Options, Result};

/// What a directory ensures.
pub(crate) const CHARACTERISTICS: Characteristics = Characteristics::of(&[
    Characteristic::NonTimeoutBased,
    Characteristic::DistributedAcrossThreads,
    Characteristic::DistributedAcrossProcesses,
]);

/// The settings of a coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// The directory that the coordinators share.
    pub(crate) dir: PathBuf,
    /// How long a Python member lives after its file was touched.
    pub(crate) timeout: Duration,
    /// Whether every user of the host may write to the directory.
    pub(crate) world_writable: bool,
}

impl Config {
    pub(crate) fn read(url: &CoordinatorUrl, mut options: Options) -> Result<Self> {
        let timeout = options.seconds("timeout", Duration::from_secs(10))?;
        let world_writable = options.flag("world_writable", false)?;
        options.ignore(&["executor"]);
        options.finish()?;
        if let Some(host) = url.hosts().first() {
            return Err(Error::invalid(format!(
                "a file URL has no host, and this one has {}; write file:///absolute/directory",
                host.name
            )));
        }
        if !url.path().starts_with('/') || url.path().contains('\0') {
            return Err(Error::invalid(
                "the URL names no directory; write file:///absolute/directory",
            ));
        }
        Ok(Self { dir: PathBuf::from(url.path()), timeout, world_writable })
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
    fn the_path_stays_as_written() {
        for (url, dir) in [
            ("file:///var/lib/tooz", "/var/lib/tooz"),
            ("file:///a%20b", "/a%20b"),
            ("file:///a/../b", "/a/../b"),
            ("file:///x?timeout=3&executor=thread", "/x"),
        ] {
            assert_eq!(read(url).unwrap().dir, PathBuf::from(dir), "{url}");
        }
        assert_eq!(read("file:///x?timeout=3").unwrap().timeout, Duration::from_secs(3));
        assert_eq!(read("file:///x").unwrap().timeout, Duration::from_secs(10));
    }

    #[test]
    fn what_is_no_absolute_directory_is_refused() {
        for (url, part) in [
            ("file://rel/dir", "has rel; write file:///"),
            ("file://", "names no directory"),
            (
                "file:///x?timout=3",
                "timout is unknown; known are: executor, timeout, world_writable",
            ),
            ("file:///x?timeout=0", "must be a number of seconds above 0"),
        ] {
            let error = read(url).unwrap_err().to_string();
            assert!(error.contains(part), "{url}: {error}");
        }
    }
}
