//! The private servers of the tests.
//!
//! A server is one small file beside this one that exports a `SERVER`; a setup is a row of
//! [`SETUPS`]. To add a backend: write the file, then its `mod` line and its row here.

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

use anyhow::{Context as _, bail};

use crate::workspace;

pub(crate) use self::host::{Host, bound_command};
pub(crate) use self::install::{install, install_packages};
pub(crate) use self::server::{Running, Server};

/// One way to run the conformance suite: a driver, and the server it talks to.
#[derive(Debug)]
pub(crate) struct Setup {
    /// The name on the command line and in front of every test.
    pub(crate) name: &'static str,
    /// The scheme of its URL.
    pub(crate) scheme: &'static str,
    /// The workspace's crate that drives it.
    pub(crate) driver: &'static str,
    /// What has to run; `None` when the driver needs nothing but this machine.
    pub(crate) server: Option<&'static Server>,
}

/// Every setup, in the order in which they run and are shown.
pub(crate) const SETUPS: &[Setup] = &[
    Setup::embedded("memory", "memory", "tooz-memory"),
    Setup::embedded("file", "file", "tooz-file"),
    Setup::embedded("ipc", "ipc", "tooz-ipc"),
    Setup::served("zookeeper", "zookeeper", "tooz-zookeeper", &zookeeper::SERVER),
    Setup::served("zookeeper-ensemble", "zookeeper", "tooz-zookeeper", &zookeeper_ensemble::SERVER),
    Setup::served("redis", "redis", "tooz-redis", &redis::SERVER),
    Setup::served("redis-sentinel", "redis", "tooz-redis", &redis_sentinel::SERVER),
    Setup::served("redis-cluster", "redis", "tooz-redis", &redis_cluster::SERVER),
    Setup::served("redis-tls", "rediss", "tooz-redis", &redis_tls::SERVER),
    Setup::served("valkey", "redis", "tooz-redis", &valkey::SERVER),
    Setup::served("memcached", "memcached", "tooz-memcached", &memcached::SERVER),
    Setup::served("etcd", "etcd", "tooz-etcd", &etcd::SERVER),
    Setup::served("etcd3", "etcd3", "tooz-etcd3", &etcd::SERVER),
    Setup::served("etcd3-http", "etcd3+http", "tooz-etcd3-http", &etcd::SERVER),
    Setup::served("etcd3-cluster", "etcd3", "tooz-etcd3", &etcd_cluster::SERVER),
    Setup::served("etcd3-tls", "etcd3", "tooz-etcd3", &etcd_tls::SERVER),
    Setup::served("consul", "consul", "tooz-consul", &consul::SERVER),
    Setup::served("consul-cluster", "consul", "tooz-consul", &consul_cluster::SERVER),
    Setup::served("consul-acl", "consul+https", "tooz-consul", &consul_acl::SERVER),
    Setup::served("postgresql", "postgresql", "tooz-postgresql", &postgresql::SERVER),
    Setup::served(
        "postgresql-pgbouncer",
        "postgresql",
        "tooz-postgresql",
        &postgresql_pgbouncer::SERVER,
    ),
    Setup::served("mysql", "mysql", "tooz-mysql", &mysql::SERVER),
    Setup::served("mariadb", "mysql", "tooz-mysql", &mariadb::SERVER),
];

impl Setup {
    const fn embedded(name: &'static str, scheme: &'static str, driver: &'static str) -> Self {
        Self { name, scheme, driver, server: None }
    }

    const fn served(
        name: &'static str,
        scheme: &'static str,
        driver: &'static str,
        server: &'static Server,
    ) -> Self {
        Self { name, scheme, driver, server: Some(server) }
    }

    /// The URL of a server at `address`.
    pub(crate) fn url(&self, address: &str) -> String {
        format!("{}://{address}", self.scheme)
    }

    /// The environment variable that gives tests its URL.
    pub(crate) fn url_variable(&self) -> String {
        self.variable("URL")
    }

    /// The environment variable that tells tests where they may harm it.
    pub(crate) fn control_variable(&self) -> String {
        self.variable("CONTROL")
    }

    fn variable(&self, what: &str) -> String {
        format!("TOOZ_TEST_{what}_{}", self.name.to_uppercase().replace('-', "_"))
    }

    /// Whether the workspace has the driver already.
    pub(crate) fn has_driver(&self) -> bool {
        workspace::root().join("crates").join(self.driver).join("src/driver.rs").is_file()
    }

    /// Fails where there is nothing to run yet.
    pub(crate) fn require_driver(&self) -> anyhow::Result<()> {
        if !self.has_driver() {
            bail!("{} cannot run: the workspace has no driver {} yet", self.name, self.driver);
        }
        Ok(())
    }
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
        let Some(server) = setup.server else { continue };
        let server = server.launch(host)?;
        urls.push((setup.url_variable(), setup.url(server.address())));
        running.push(server);
    }
    Ok((running, urls))
}

/// The setup called `name`; the error names those there are.
pub(crate) fn find(name: &str) -> anyhow::Result<&'static Setup> {
    SETUPS.iter().find(|setup| setup.name == name).with_context(|| {
        let known: Vec<_> = SETUPS.iter().map(|setup| setup.name).collect();
        format!("no setup is called `{name}`; there are {}", known.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_fit_an_environment_variable() {
        let mut names: Vec<_> = SETUPS.iter().map(|setup| setup.name).collect();
        for name in &names {
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            );
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), SETUPS.len());
    }

    #[test]
    fn an_unknown_setup_is_told_the_known_ones() {
        let error = find("oracle").unwrap_err().to_string();
        assert!(
            error.contains("`oracle`") && error.contains("zookeeper-ensemble, redis"),
            "{error}"
        );
    }

    #[test]
    fn a_url_is_the_scheme_and_the_address() {
        let setup = find("etcd3-http").unwrap();
        assert_eq!(setup.url("127.0.0.1:20001"), "etcd3+http://127.0.0.1:20001");
    }
}
