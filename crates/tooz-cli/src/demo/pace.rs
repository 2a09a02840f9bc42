//! How fast the demonstration goes on a backend: how soon a death is known there.

use std::time::Duration;

use anyhow::{Result, bail};
use tooz::{Characteristic, CoordinatorUrl, DriverEntry, Features};

/// A time to live that is short to watch, and that every server grants by default.
const TTL: u32 = 4;

/// Consul grants no shorter sessions.
const CONSUL_SESSION: Duration = Duration::from_secs(10);

/// How soon a death is known at the latest if ownership ends with the process.
const AT_ONCE: Duration = Duration::from_secs(2);

/// How long the next holder may need after the time to live: a server looks for expired entries only
/// now and then, and the machine may be busy.
const AFTERWARDS: Duration = Duration::from_secs(4);

/// The driver of a backend that several processes can use, as the demonstrations' processes do.
pub(super) fn driver(url: &CoordinatorUrl) -> Result<DriverEntry> {
    let driver = tooz::registry().driver(url.scheme())?;
    if !driver.characteristics.contains(Characteristic::DistributedAcrossProcesses) {
        bail!(
            "{}:// lives within one process, but the demonstration's workers are several processes; \
             choose another URL, or none",
            url.scheme()
        );
    }
    Ok(driver)
}

/// Fails unless the driver has what is shown.
pub(super) fn needs(driver: &DriverEntry, shown: Features) -> Result<()> {
    let missing = shown.without(driver.features);
    if !missing.is_empty() {
        bail!("the driver {} lacks what the demonstration shows: {missing}", driver.name);
    }
    Ok(())
}

/// The pace on one backend.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// The URL, with short times where the user's URL sets none.
    pub(super) url: String,
    /// How soon a death is known at the latest.
    pub(super) limit: Duration,
}

impl Pace {
    pub(super) fn of(driver: &DriverEntry, text: String, url: &CoordinatorUrl) -> Self {
        if driver.characteristics.contains(Characteristic::NonTimeoutBased) {
            return Self { url: text, limit: AT_ONCE };
        }
        let is_consul = driver.name == "consul";
        let seconds = |name: &str| {
            let found = url.options().iter().rfind(|(option, _)| option == name);
            found.and_then(|(_, value)| Duration::try_from_secs_f64(value.parse().ok()?).ok())
        };
        let mut text = text;
        let mut own = |name: &str, value: u32| match seconds(name) {
            Some(time) => time,
            None => {
                text = with_option(&text, name, value);
                Duration::from_secs(value.into())
            }
        };
        let ttl = if is_consul {
            let ttl = own("ttl", TTL);
            // Without an agent's check, the session lives for one to two times its own time to live.
            let ttl = if url.hosts().len() > 1 { ttl.max(CONSUL_SESSION) * 2 } else { ttl };
            // Otherwise nobody would get what the dead one had locked for another 15 s.
            ttl + own("lock_delay", 0)
        } else {
            let of_parts = ["membership_timeout", "lock_timeout", "leader_timeout"];
            of_parts.into_iter().filter_map(seconds).fold(own("timeout", TTL), Duration::max)
        };
        Self { url: text, limit: ttl + AFTERWARDS }
    }
}

/// The URL with one more option. A fragment is dropped, as the URL's reader does.
fn with_option(url: &str, name: &str, value: u32) -> String {
    let url = url.split('#').next().unwrap_or(url);
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}{name}={value}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(text: &str) -> (String, u64) {
        let url: CoordinatorUrl = text.parse().unwrap();
        let driver = tooz::registry().driver(url.scheme()).unwrap();
        let pace = Pace::of(&driver, text.to_owned(), &url);
        (pace.url, pace.limit.as_secs())
    }

    #[test]
    fn a_backend_with_a_time_to_live_gets_a_short_one() {
        for (url, paced, limit) in [
            ("file:///d", "file:///d", 2),
            ("redis://h", "redis://h?timeout=4", 8),
            ("etcd3://h?ca=x#y", "etcd3://h?ca=x&timeout=4", 8),
            ("zookeeper://h?timeout=20", "zookeeper://h?timeout=20", 24),
            ("redis://h?lock_timeout=9", "redis://h?lock_timeout=9&timeout=4", 13),
            ("consul://h", "consul://h?ttl=4&lock_delay=0", 8),
            ("consul://a,b?lock_delay=1", "consul://a,b?lock_delay=1&ttl=4", 25),
        ] {
            assert_eq!(pace(url), (paced.to_owned(), limit), "{url}");
        }
    }
}
