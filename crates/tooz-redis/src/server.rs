//! What a server says of itself, and whether it may have forgotten what it granted: see the option
//! `restart_grace`.

use std::collections::HashMap;
use std::net::IpAddr;

use redis::aio::MultiplexedConnection;
use tooz_core::{Moment, Result};

use crate::config::{Address, Config};
use crate::errors::translate;

/// What the server says about itself.
#[derive(Clone, Debug)]
pub(crate) struct ServerInfo {
    pub(crate) is_master: bool,
    pub(crate) replicas: u32,
    pub(crate) eviction: String,
    /// How long it has run, and when it said so.
    uptime: (u64, Moment),
    run: String,
    has_aof: bool,
}

/// A run of the server that may grant nothing yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Closed {
    pub(crate) until: Moment,
    /// The server's name for its run.
    pub(crate) run: String,
}

impl ServerInfo {
    pub(crate) async fn ask(connection: &mut MultiplexedConnection) -> Result<Self> {
        let info: String = redis::cmd("INFO").query_async(connection).await.map_err(translate)?;
        let answered = Moment::now();
        let fields: HashMap<_, _> = info.lines().filter_map(|line| line.split_once(':')).collect();
        let field = |name| fields.get(name).map(|value| value.trim()).unwrap_or_default();
        Ok(Self {
            is_master: field("role") == "master",
            replicas: field("connected_slaves").parse().unwrap_or(0),
            eviction: field("maxmemory_policy").to_owned(),
            // A server that does not say is taken for one that has just started.
            uptime: (field("uptime_in_seconds").parse().unwrap_or(0), answered),
            run: field("run_id").to_owned(),
            has_aof: field("aof_enabled") == "1",
        })
    }

    /// Whether it may grant nothing yet, and until when.
    pub(crate) async fn closed(
        &self,
        config: &Config,
        address: &Address,
        connection: &mut MultiplexedConnection,
    ) -> Result<Option<Closed>> {
        let (uptime, answered) = self.uptime;
        let Some(until) = config.restart_grace.until_by_seconds(uptime, answered) else {
            return Ok(None);
        };
        let closed = Closed { until, run: self.run.clone() };
        if config.restart_grace_is_set {
            return Ok(Some(closed));
        }
        // Of its own crash the kernel tells all who are connected on the same host.
        if is_local(address) {
            return Ok(None);
        }
        // An append-only file that has the namespace's counter, which never ends, was read again.
        if self.has_aof {
            let mut ask = redis::cmd("EXISTS");
            ask.arg(config.keys.counter());
            let remembers: bool = ask.query_async(connection).await.map_err(translate)?;
            return Ok((!remembers).then_some(closed));
        }
        Ok(Some(closed))
    }
}

fn is_local(address: &Address) -> bool {
    match address {
        Address::Unix(_) => true,
        Address::Tcp(host, _) => {
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_of_this_host_is_known_by_its_address() {
        for (host, local) in [
            ("localhost", true),
            ("127.0.0.1", true),
            ("127.8.0.1", true),
            ("::1", true),
            ("10.0.0.1", false),
            ("localhost.example", false),
            ("redis", false),
        ] {
            assert_eq!(is_local(&Address::Tcp(host.to_owned(), 1)), local, "{host}");
        }
        assert!(is_local(&Address::Unix("/run/redis.sock".to_owned())));
    }
}
