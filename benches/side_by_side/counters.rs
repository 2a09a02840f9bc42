//! How many requests a server has had: as it says itself, or as counted on the way to it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::setups::Setup;
use crate::tap::{Kind, Tap};

/// Counts the requests of whoever uses its URL.
pub(crate) enum Counter {
    /// The server counts.
    Server { ask: fn(&str) -> anyhow::Result<u64>, address: String, url: String },
    /// We do.
    Tap { tap: Tap, url: String },
}

impl Counter {
    /// Of a backend with a server.
    pub(crate) fn of(setup: &Setup) -> anyhow::Result<Self> {
        let address = address(&setup.url)?;
        let server =
            |ask| Ok(Self::Server { ask, address: address.clone(), url: setup.url.clone() });
        let tap = |kind| {
            let tap = Tap::start(&address, kind)?;
            let mut url = setup.url.replacen(&address, &tap.address, 1);
            if matches!(kind, Kind::MySql) {
                // It must be readable on the way.
                url += "?ssl_mode=disabled";
            }
            Ok(Self::Tap { tap, url })
        };
        match setup.name {
            "redis" => tap(Kind::Redis),
            "zookeeper" => server(zookeeper),
            "memcached" => server(memcached),
            "etcd3" => server(etcd3),
            "etcd" | "etcd3-http" | "consul" => tap(Kind::Http),
            "postgresql" => tap(Kind::PostgreSql),
            "mariadb" => tap(Kind::MySql),
            "mysql" => bail!("it takes a password over TLS alone, where nothing can be counted"),
            other => bail!("{other} has no server"),
        }
    }

    /// The URL to use.
    pub(crate) fn url(&self) -> &str {
        match self {
            Self::Server { url, .. } | Self::Tap { url, .. } => url,
        }
    }

    /// How many there were.
    pub(crate) fn read(&self) -> anyhow::Result<u64> {
        match self {
            Self::Server { ask, address, .. } => ask(address),
            Self::Tap { tap, .. } => Ok(tap.count()),
        }
    }
}

/// The `host:port` of a URL.
fn address(url: &str) -> anyhow::Result<String> {
    let (_, rest) = url.split_once("://").context("no URL")?;
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    Ok(authority.rsplit('@').next().unwrap_or(authority).to_owned())
}

fn zookeeper(address: &str) -> anyhow::Result<u64> {
    number(&talk(address, "mntr")?, "zk_packets_received\t")
}

fn memcached(address: &str) -> anyhow::Result<u64> {
    let stats = talk(address, "stats\r\nquit\r\n")?;
    ["cmd_get", "cmd_set", "cmd_touch", "cmd_meta"]
        .iter()
        .map(|name| number(&stats, &format!("STAT {name} ")))
        .sum()
}

/// Messages rather than calls: a call that watches or renews goes on.
fn etcd3(address: &str) -> anyhow::Result<u64> {
    let metrics = talk(address, "GET /metrics HTTP/1.0\r\n\r\n")?;
    let name = "grpc_server_msg_received_total{";
    let counts = metrics.lines().filter(|line| line.starts_with(name));
    counts.map(|line| number(line, "} ")).sum()
}

/// Sends a request on a connection of its own, and reads to the end.
fn talk(address: &str, request: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).with_context(|| address.to_owned())?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The number behind a name.
fn number(text: &str, name: &str) -> anyhow::Result<u64> {
    let (_, rest) = text.split_once(name).with_context(|| format!("no {name} in the answer"))?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().with_context(|| format!("{name}: {digits}"))
}
