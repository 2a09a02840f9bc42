use std::fmt;
use std::time::Duration;

use tooz_core::kit::{PemFiles, PemOptions};
use tooz_core::{
    Characteristic, Characteristics, CoordinatorUrl, Error, Host, Options, RestartGrace, Result,
    Secret,
};

use crate::keys::{Keys, Layout};

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// The bounds of the default time limit for a connection: a TLS handshake must fit, and a
/// hung server must not keep us from the next one for long.
const CONNECT: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(5));

/// What the backend ensures in general.
pub(crate) const CHARACTERISTICS: Characteristics = Characteristics::of(&[
    Characteristic::DistributedAcrossThreads,
    Characteristic::DistributedAcrossProcesses,
    Characteristic::DistributedAcrossHosts,
    Characteristic::Causal,
]);

/// As the original's client has them.
const PEM_OPTIONS: PemOptions = PemOptions {
    authorities: "ssl_ca_certs",
    certificate: "ssl_certfile",
    key: "ssl_keyfile",
    one_file: true,
};

/// The settings from the URL.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) servers: Servers,
    pub(crate) login: Login,
    /// The certificates, where TLS is spoken.
    pub(crate) tls: Option<PemFiles>,
    pub(crate) db: i64,
    pub(crate) keys: Keys,
    /// The time to live of a member's heartbeat, and so of a session.
    pub(crate) membership_timeout: Duration,
    /// The time to live of a lock.
    pub(crate) lock_timeout: Duration,
    /// How long an answer may take.
    pub(crate) response_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    /// How many replicas must have an acquisition before it counts.
    pub(crate) wait_replicas: u32,
    pub(crate) restart_grace: RestartGrace,
    /// Whether the user set it.
    pub(crate) restart_grace_is_set: bool,
}

/// Where to find the server.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one for each coordinator")]
pub(crate) enum Servers {
    /// The first of these that answers and is a master.
    Listed(Vec<Address>),
    /// The master that the sentinels name.
    Sentinels { at: Vec<Address>, master: String, login: Login, tls: Option<PemFiles> },
    /// The node of the cluster that has the namespace's slot, as one of these knows.
    Cluster(Vec<Address>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(String, u16),
    Unix(String),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(name, port) if name.contains(':') => write!(f, "[{name}]:{port}"),
            Self::Tcp(name, port) => write!(f, "{name}:{port}"),
            Self::Unix(path) => f.write_str(path),
        }
    }
}

/// User and password, if there are any.
#[derive(Clone, Debug, Default)]
pub(crate) struct Login {
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
}

impl Config {
    pub(crate) fn read(url: &CoordinatorUrl, mut options: Options) -> Result<Self> {
        let timeout = options.seconds("timeout", Duration::from_secs(30))?;
        let membership_timeout = options.seconds("membership_timeout", timeout)?;
        let lock_timeout = options.seconds("lock_timeout", timeout)?;
        let shortest = membership_timeout.min(lock_timeout);
        if shortest < Duration::from_millis(500) {
            return Err(Error::invalid("a time to live must be at least 0.5 s"));
        }
        // A heartbeat comes after a third. One that gets no answer leaves three tenths for a
        // reconnection and the next.
        let patience = shortest / 4;
        let response_timeout = options.seconds("socket_timeout", timeout)?.min(patience);
        let connect_timeout = options
            .seconds("socket_connect_timeout", (shortest / 3).clamp(CONNECT.0, CONNECT.1))?;

        let db = options.parse::<u32>("db", "the number of a database")?.unwrap_or(0);
        let wait_replicas =
            options.parse::<u32>("wait_replicas", "the number of replicas to wait for")?;
        let restart_grace = RestartGrace::read(&mut options, lock_timeout)?;
        let restart_grace_is_set = options.text("restart_grace").is_some();
        let login =
            Login { user: url.user().map(str::to_owned), password: url.password().cloned() };
        let files = PemFiles::from_options(&mut options, PEM_OPTIONS)?;
        let tls = match options.flag("ssl", url.scheme() == "rediss")? {
            true => Some(supported(files.clone())?),
            false => None,
        };
        let cluster = options.flag("cluster", false)?;
        let servers = servers(url, &mut options, (cluster, db), files)?;
        if cluster && db != 0 {
            return Err(Error::invalid("a cluster only has database 0"));
        }
        let namespace = options.text("namespace").unwrap_or_else(|| "_tooz".to_owned());
        // One slot for the whole namespace: a script's keys must be on one node.
        let namespace = match cluster && !namespace.contains('{') {
            true => format!("{{{namespace}}}"),
            false => namespace,
        };
        let layout = match options.text("layout").as_deref() {
            None | Some("both") => Layout::Both,
            Some("v9") => Layout::V9,
            Some("legacy") => Layout::Legacy,
            Some(_) => return Err(Error::invalid("the layout must be v9, legacy or both")),
        };
        if let Some(encoding) = options.text("encoding")
            && !matches!(&*encoding.to_ascii_lowercase(), "utf8" | "utf-8" | "utf_8" | "ascii")
        {
            return Err(Error::invalid("ids are bytes here; the encoding must be utf8"));
        }
        // The heartbeat and the response timeout do what these are for.
        options.ignore(&["health_check_interval", "retry_on_timeout", "socket_keepalive"]);
        options.finish()?;
        Ok(Self {
            servers,
            login,
            tls,
            db: i64::from(db),
            keys: Keys::new(&namespace, layout, i64::from(db)),
            membership_timeout,
            lock_timeout,
            response_timeout,
            connect_timeout,
            wait_replicas: wait_replicas.unwrap_or(0),
            restart_grace,
            restart_grace_is_set,
        })
    }

    /// How often everything is renewed.
    pub(crate) fn heartbeat_interval(&self) -> Duration {
        self.membership_timeout.min(self.lock_timeout) / 3
    }

    /// How long replicas may take.
    pub(crate) fn replica_timeout(&self) -> Duration {
        (self.response_timeout / 2).min(Duration::from_secs(1))
    }
}

fn servers(
    url: &CoordinatorUrl,
    options: &mut Options,
    (cluster, db): (bool, u32),
    files: PemFiles,
) -> Result<Servers> {
    let sentinel = options.text("sentinel");
    let fallback = options.list("sentinel_fallback");
    let user = options.text("sentinel_username");
    let password = options.secret("sentinel_password");
    let sentinel_tls = options.flag("sentinel_ssl", false)?;
    let tcp = |port: u16| {
        let address = |host: &Host| Address::Tcp(host.name.clone(), host.port.unwrap_or(port));
        let mut at: Vec<_> = url.hosts().iter().map(address).collect();
        if at.is_empty() {
            at.push(Address::Tcp("localhost".to_owned(), port));
        }
        at
    };
    if let Some(master) = sentinel {
        if cluster {
            return Err(Error::invalid("use either cluster or sentinel"));
        }
        let mut at = tcp(SENTINEL_PORT);
        for text in fallback {
            // The URL's own parser knows IPv6 and lists.
            let more: CoordinatorUrl = format!("redis://{text}").parse()?;
            let port = |host: &Host| host.port.unwrap_or(SENTINEL_PORT);
            at.extend(more.hosts().iter().map(|h| Address::Tcp(h.name.clone(), port(h))));
        }
        let login = Login { user, password };
        let tls = if sentinel_tls { Some(supported(files)?) } else { None };
        return Ok(Servers::Sentinels { at, master, login, tls });
    }
    if cluster {
        return Ok(Servers::Cluster(tcp(PORT)));
    }
    match (url.hosts(), url.path()) {
        ([], "" | "/") => Err(Error::invalid("the URL names neither a host nor a socket")),
        ([], path) => Ok(Servers::Listed(vec![Address::Unix(path.to_owned())])),
        // The original ignores the path, so a path that differs from `db` would mislead.
        (_, path) if matches!(path, "" | "/") || path[1..].parse() == Ok(db) => {
            Ok(Servers::Listed(tcp(PORT)))
        }
        _ => Err(Error::invalid("the URL's path is not a database; use ?db=N")),
    }
}

/// The files, if TLS can use them: an error in them is reported at once.
#[cfg(feature = "tls")]
fn supported(files: PemFiles) -> Result<PemFiles> {
    files.client_config()?;
    Ok(files)
}

#[cfg(not(feature = "tls"))]
fn supported(_files: PemFiles) -> Result<PemFiles> {
    Err(Error::not_implemented("TLS (the feature tls of tooz-redis)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<Config> {
        let url = url.parse()?;
        Config::read(&url, Options::of(&url))
    }

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp(host.to_owned(), port)
    }

    #[test]
    fn every_option_of_the_original_is_known() {
        let config = read(
            "redis://u:p@s1?timeout=9&membership_timeout=8.5&lock_timeout=7&socket_timeout=1\
             &socket_connect_timeout=3&health_check_interval=5&namespace=n&db=2&encoding=utf8\
             &retry_on_timeout=yes&socket_keepalive=yes&ssl=no&sentinel=main\
             &sentinel_fallback=s2:1&sentinel_fallback=[::1]:2&sentinel_username=su\
             &sentinel_password=hush&sentinel_ssl=no",
        )
        .unwrap();
        assert_eq!(config.membership_timeout, Duration::from_millis(8500));
        assert_eq!(config.lock_timeout, Duration::from_secs(7));
        assert_eq!((config.response_timeout.as_secs(), config.connect_timeout.as_secs()), (1, 3));
        let Servers::Sentinels { at, master, login, tls } = &config.servers else { panic!() };
        assert_eq!(at[..], [tcp("s1", 26379), tcp("s2", 1), tcp("::1", 2)]);
        assert_eq!(
            (&master[..], login.user.as_deref(), tls.is_some()),
            ("main", Some("su"), false)
        );
        assert!(!format!("{config:?}").contains("hush"));
    }

    #[test]
    fn hosts_and_sockets() {
        let listed = |url| match read(url).unwrap().servers {
            Servers::Listed(addresses) => addresses,
            other => panic!("{other:?}"),
        };
        assert_eq!(listed("redis://a,b:1"), [tcp("a", 6379), tcp("b", 1)]);
        assert_eq!(listed("redis:///run/redis.sock"), [Address::Unix("/run/redis.sock".into())]);
        assert_eq!(listed("redis://a/2?db=2"), [tcp("a", 6379)]);
        for refused in [
            "redis://",
            "redis:///",
            "redis://a/2",
            "redis://a?db=-1",
            "redis://a?layout=v8",
            "redis://a?cluster=yes&db=1",
            "redis://a?cluster=yes&sentinel=s",
            "redis://a?timeout=0.1",
            "redis://a?ssl_certfile=/nowhere",
            "redis://a?tiemout=1",
        ] {
            assert!(read(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn a_cluster_has_the_namespace_in_one_slot() {
        let keys = read("redis://a?cluster=yes").unwrap().keys;
        assert_eq!(keys.lock(&"l".into()).renewed_keys().0.nth(1), Some(&b"{_tooz}_l_lock"[..]));
        let own = read("redis://a?cluster=yes&namespace=x{y}").unwrap().keys;
        assert_eq!(own.any(), b"x{y}");
    }
}
