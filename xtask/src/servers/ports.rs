//! Free ports on the loopback interface.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::RangeInclusive;
use std::sync::Mutex;

use anyhow::{Context as _, bail, ensure};

/// Below the range that kernels give to outgoing connections, so that none of those can take a
/// port between our look and the server's start.
const DEFAULT_RANGE: RangeInclusive<u16> = 20000..=32000;

/// Where Linux tells the range of outgoing connections.
const EPHEMERAL_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Names another range, as `LOW-HIGH`.
const RANGE_VARIABLE: &str = "TOOZ_TEST_PORTS";

/// Hands out ports that nobody listens on, none twice before the range is used up.
#[derive(Debug)]
pub(crate) struct Ports {
    range: RangeInclusive<u16>,
    next: Mutex<u16>,
}

impl Ports {
    /// The range that the environment names, or the default one.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let range = match std::env::var(RANGE_VARIABLE) {
            Ok(text) => parse_range(&text)
                .with_context(|| format!("{RANGE_VARIABLE} must be LOW-HIGH, not `{text}`"))?,
            Err(_) => {
                let ephemeral = std::fs::read_to_string(EPHEMERAL_RANGE).unwrap_or_default();
                below_ephemeral(DEFAULT_RANGE, &ephemeral)
            }
        };
        // Runners side by side begin at different places. The standard library's hash seeds are
        // random enough for that.
        let size = u64::from(range.end() - range.start()) + 1;
        let offset = RandomState::new().build_hasher().finish() % size;
        let next = range.start() + u16::try_from(offset)?;
        Ok(Self { range, next: Mutex::new(next) })
    }

    /// A port that is free now. Another program may still take it: who starts a server tries
    /// again then.
    pub(crate) fn free(&self) -> anyhow::Result<u16> {
        for _ in self.range.clone() {
            let port = self.take();
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Ok(port);
            }
        }
        bail!("no port from {} to {} is free", self.range.start(), self.range.end())
    }

    fn take(&self) -> u16 {
        let mut next = self.next.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let port = *next;
        *next = if port == *self.range.end() { *self.range.start() } else { port + 1 };
        port
    }
}

fn parse_range(text: &str) -> anyhow::Result<RangeInclusive<u16>> {
    let (low, high) = text.split_once('-').context("no `-`")?;
    let (low, high) = (low.trim().parse()?, high.trim().parse()?);
    ensure!(low > 0 && low <= high, "an empty range");
    Ok(low..=high)
}

/// Cuts off what reaches into the kernel's own range, unless nothing would be left.
fn below_ephemeral(range: RangeInclusive<u16>, ephemeral: &str) -> RangeInclusive<u16> {
    let low = ephemeral.split_whitespace().next().and_then(|low| low.parse::<u16>().ok());
    match low {
        Some(low) if low > *range.start() => *range.start()..=(*range.end()).min(low - 1),
        _ => range,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        assert_eq!(parse_range("20000-21999").unwrap(), 20000..=21999);
        for wrong in ["", "20000", "5-4", "0-9", "a-b", "1-70000"] {
            assert!(parse_range(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_kernels_range_is_avoided() {
        assert_eq!(below_ephemeral(20000..=32000, "32768\t60999\n"), 20000..=32000);
        assert_eq!(below_ephemeral(20000..=32000, "25000 60999"), 20000..=24999);
        assert_eq!(below_ephemeral(20000..=32000, "1024 65535"), 20000..=32000);
        assert_eq!(below_ephemeral(20000..=32000, ""), 20000..=32000);
    }

    #[test]
    fn a_taken_port_is_passed_over_and_the_range_wraps() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let ports = Ports { range: port..=port, next: Mutex::new(port) };
        assert!(ports.free().is_err());
        drop(taken);
        assert_eq!(ports.free().unwrap(), port);
        assert_eq!(ports.free().unwrap(), port);
    }
}
