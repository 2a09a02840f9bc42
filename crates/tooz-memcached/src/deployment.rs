//! What is known of the server before it is relied upon.

use std::collections::BTreeMap;

use tooz_core::{Error, ErrorKind, Moment, Result};
use tracing::warn;

use crate::config::Config;
use crate::connection::Connection;
use crate::wire::{Reply, Request};

/// The seconds with which the server's uptime begins.
const AHEAD: u64 = 2;

/// Warns of what weakens the guarantees, and refuses what takes them away. Until when the server may
/// grant nothing, if it may not now.
pub(crate) async fn look_at(connection: &Connection, config: &Config) -> Result<Option<Moment>> {
    if config.unused_hosts > 0 {
        warn!(
            used = config.server(),
            unused = config.unused_hosts,
            "memcached servers know nothing of each other, so only the first is used"
        );
    }
    let ask = [Request::Version, Request::Stats("settings"), Request::Stats("")];
    let [version, settings, stats] = connection.call_each(ask).await?;
    let answered = Moment::now();
    let version = match version {
        Reply::Version(version) => version,
        _ => String::new(),
    };
    let stats_in = |reply| match reply {
        Reply::Stats(stats) => stats,
        _ => BTreeMap::new(),
    };
    let (settings, stats) = (stats_in(settings), stats_in(stats));
    let uptime = stats.get("uptime").and_then(|time| time.parse().ok());
    if !version.starts_with(|c: char| c.is_ascii_digit()) || !settings.contains_key("evictions") {
        warn!(
            version,
            "this looks like a proxy: a server behind it may restart unnoticed, and then a lock can \
             be held twice until the next renewal"
        );
    }
    let says = |name: &str, value: &str| settings.get(name).is_some_and(|v| v == value);
    if says("cas_enabled", "no") {
        return Err(without_cas());
    }
    if says("evictions", "on") {
        warn!(
            megabytes =
                settings.get("maxbytes").and_then(|b| b.parse::<u64>().ok()).map(|b| b >> 20),
            "the server evicts locks and groups when its memory is full: its option -M prevents that"
        );
    }
    // One that does not say is a proxy, and the word of that would be about itself.
    Ok(uptime.and_then(|uptime: u64| {
        config.restart_grace.until_by_seconds(uptime.saturating_sub(AHEAD), answered)
    }))
}

pub(crate) fn without_cas() -> Error {
    Error::new(
        ErrorKind::DriverChosenPoorly,
        "the server runs without CAS ids (its option -C), and nothing here is safe without them",
    )
}
