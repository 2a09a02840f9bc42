//! The private servers of the tests.
//!
//! A server is one small file beside this one that exports a `SERVER`. To add one: write the file,
//! then its `mod` line and its place in [`SERVERS`]; a setup names it.

mod certificates;
mod control;
mod fetched;
mod host;
mod install;
mod ports;
mod probe;
mod server;
mod stage;

mod consul;
mod consul_acl;
mod consul_cluster;
mod etcd;
mod etcd_cluster;
mod etcd_tls;
mod mariadb;
mod memcached;
mod mysql;
mod postgresql;
mod postgresql_pgbouncer;
mod redis;
mod redis_cluster;
mod redis_sentinel;
mod redis_tls;
mod valkey;
mod zookeeper;
mod zookeeper_ensemble;

use tooz_setups::Setup;

pub(crate) use self::host::{Host, bound_command};
pub(crate) use self::install::{install, install_packages};
pub(crate) use self::server::{Running, Server};

/// Every server that a setup may name.
const SERVERS: &[&Server] = &[
    &consul::SERVER,
    &consul_acl::SERVER,
    &consul_cluster::SERVER,
    &etcd::SERVER,
    &etcd_cluster::SERVER,
    &etcd_tls::SERVER,
    &mariadb::SERVER,
    &memcached::SERVER,
    &mysql::SERVER,
    &postgresql::SERVER,
    &postgresql_pgbouncer::SERVER,
    &redis::SERVER,
    &redis_cluster::SERVER,
    &redis_sentinel::SERVER,
    &redis_tls::SERVER,
    &valkey::SERVER,
    &zookeeper::SERVER,
    &zookeeper_ensemble::SERVER,
];

/// What has to run for a setup; `None` when its driver needs nothing but this machine.
pub(crate) fn of(setup: &Setup) -> Option<&'static Server> {
    SERVERS.iter().copied().find(|server| setup.server == Some(server.name))
}

/// The servers of these setups, one for each that needs one.
pub(crate) fn of_each(setups: &[&'static Setup]) -> Vec<&'static Server> {
    setups.iter().filter_map(|setup| of(setup)).collect()
}

/// The environment variables that give tests the URLs of servers.
type Urls = Vec<(String, String)>;

/// Starts a server for each of them that needs one.
pub(crate) fn launch_each<'a>(
    setups: &[&'static Setup],
    host: &'a Host,
) -> anyhow::Result<(Vec<Running<'a>>, Urls)> {
    let (mut running, mut urls) = (Vec::new(), Urls::new());
    for setup in setups {
        let Some(server) = of(setup) else { continue };
        let server = server.launch(host)?;
        urls.push((setup.url_variable(), setup.url(server.address())));
        running.push(server);
    }
    Ok((running, urls))
}

/// The setup called `name`; the error names those there are.
pub(crate) fn find(name: &str) -> anyhow::Result<&'static Setup> {
    tooz_setups::find(name).map_err(anyhow::Error::msg)
}

#[cfg(test)]
mod tests {
    use tooz_setups::SETUPS;

    use super::*;

    #[test]
    fn every_setup_has_the_server_that_it_names() {
        for setup in SETUPS {
            assert_eq!(of(setup).map(|server| server.name), setup.server, "{}", setup.name);
        }
    }

    #[test]
    fn every_server_has_a_setup() {
        for server in SERVERS {
            let is_used = SETUPS.iter().any(|setup| setup.server == Some(server.name));
            assert!(is_used, "{}", server.name);
        }
    }
}
