use std::fmt;
use std::time::Duration;

use tooz_core::{
    Characteristic, Characteristics, CoordinatorUrl, Error, Options, RestartGrace, Result, Secret,
};

use crate::keys::{Keys, Layout};
use crate::tls::Tls;

pub(crate) const CHARACTERISTICS: Characteristics = Characteristics::of(&[
    Characteristic::DistributedAcrossThreads,
    Characteristic::DistributedAcrossProcesses,
    Characteristic::DistributedAcrossHosts,
    Characteristic::Linearizable,
    Characteristic::Sequential,
    Characteristic::Causal,
]);

const PORT: u16 = 5432;

/// The bytes that a server's identifiers may have.
const LONGEST_NAME: usize = 63;

/// How many statements may be under way at a time on one connection, of those that may have to wait
/// for each other or for somebody else.
pub(crate) const LANES: u32 = 4;

/// The bounds of the default time limit for a connection: a TLS handshake must fit, and a
/// hung server must not keep us from the next one for long.
const CONNECT: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(5));

/// The settings from the URL.
#[derive(Clone)]
pub(crate) struct Config {
    /// The first of these that answers and can be written to.
    pub(crate) servers: Vec<Address>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) database: Option<String>,
    pub(crate) tls: Tls,
    pub(crate) keys: Keys,
    /// How long the server keeps a session that is silent.
    pub(crate) timeout: Duration,
    /// How long an answer may take.
    pub(crate) response_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    /// How many waiters for one lock are in the server's queue.
    pub(crate) waiters_per_lock: usize,
    /// How long a server that may have forgotten grants nothing.
    pub(crate) restart_grace: RestartGrace,
    /// How long what was not released is not granted again.
    pub(crate) lock_delay: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(String, u16),
    /// The socket file.
    Unix(String),
}

impl Config {
    pub(crate) fn read(url: &CoordinatorUrl, options: Options) -> Result<Self> {
        Self::read_in(url, options, |name| std::env::var(name).ok())
    }

    /// The same with an environment: libpq's variables are the defaults.
    fn read_in(
        url: &CoordinatorUrl,
        mut options: Options,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let servers = servers(url, &mut options, &environment)?;
        let path = url.path().strip_prefix('/').unwrap_or_default();
        let path = Some(path).filter(|path| !path.is_empty()).map(str::to_owned);
        let database = options.text("dbname").or(path).or_else(|| environment("PGDATABASE"));
        let user = options.text("user").or_else(|| url.user().map(str::to_owned));
        let user = user.or_else(|| environment("PGUSER"));
        let password = options.secret("password").or_else(|| url.password().cloned());
        let password = password.or_else(|| environment("PGPASSWORD").map(Secret::new));

        let timeout = options.seconds("timeout", Duration::from_secs(30))?;
        if timeout < Duration::from_secs(1) {
            return Err(Error::invalid("the timeout must be at least 1 s"));
        }
        // Two unanswered heartbeats fit into the timeout.
        let response_timeout = timeout / 3;
        let connect_timeout =
            options.seconds("connect_timeout", response_timeout.clamp(CONNECT.0, CONNECT.1))?;
        let waiters_per_lock = options
            .parse::<u16>("waiters_per_lock", "how many waiters for one lock have a connection")?
            .unwrap_or(4);
        if waiters_per_lock == 0 {
            return Err(Error::invalid("waiters_per_lock must be 1 or more"));
        }
        match options.text("target_session_attrs").as_deref() {
            None | Some("read-write" | "primary") => {}
            Some(_) => {
                return Err(Error::invalid(
                    "target_session_attrs is read-write: a lock on a standby excludes \
                     nobody on the primary",
                ));
            }
        }
        let layout = match options.text("layout").as_deref() {
            None | Some("wide") => Layout::Wide,
            Some("python") => Layout::Python,
            Some(_) => return Err(Error::invalid("the layout must be wide or python")),
        };
        let schema = options.text("schema").unwrap_or_else(|| "tooz".to_owned());
        if schema.len() > LONGEST_NAME || schema.chars().any(char::is_control) {
            return Err(Error::invalid(format!(
                "the schema has at most {LONGEST_NAME} bytes and no control characters"
            )));
        }
        let restart_grace = RestartGrace::read(&mut options, timeout)?;
        let lock_delay = options.seconds_or_zero("lock_delay", Duration::ZERO)?;
        let tls = Tls::read(&mut options)?;
        options.finish()?;
        Ok(Self {
            servers,
            user,
            password,
            database,
            tls,
            keys: Keys::new(&schema, layout),
            timeout,
            response_timeout,
            connect_timeout,
            waiters_per_lock: usize::from(waiters_per_lock),
            restart_grace,
            lock_delay,
        })
    }

    /// How long a statement may wait for what somebody has locked. All that are under way on a
    /// connection together, and a heartbeat behind them, fit into the time that an answer may take.
    pub(crate) fn lock_timeout(&self) -> Duration {
        self.response_timeout / 2 / LANES
    }

    /// How often everything is renewed.
    pub(crate) fn heartbeat_interval(&self) -> Duration {
        self.timeout / 3
    }

    /// How often the server looks whether the client of a waiting session is still there.
    pub(crate) fn check_interval(&self) -> Duration {
        (self.timeout / 10).clamp(Duration::from_millis(100), Duration::from_secs(1))
    }
}

fn servers(
    url: &CoordinatorUrl,
    options: &mut Options,
    environment: &impl Fn(&str) -> Option<String>,
) -> Result<Vec<Address>> {
    let list = |text: String| text.split(',').map(|part| part.trim().to_owned()).collect();
    let mut ports: Vec<String> = options.text("port").map(list).unwrap_or_default();
    let mut names: Vec<(String, Option<u16>)> = match options.text("host").map(list) {
        Some(names) => {
            let names: Vec<String> = names;
            // The port of the URL stays, as in the original.
            let port = url.hosts().first().and_then(|host| host.port);
            names.into_iter().map(|name| (name, port)).collect()
        }
        None => url.hosts().iter().map(|host| (host.name.clone(), host.port)).collect(),
    };
    if names.is_empty() {
        let host = environment("PGHOST").map(list).unwrap_or_else(|| vec!["localhost".to_owned()]);
        names = host.into_iter().map(|name| (name, None)).collect();
        if ports.is_empty() {
            ports = environment("PGPORT").map(list).unwrap_or_default();
        }
    }
    if !matches!(ports.len(), 0 | 1) && ports.len() != names.len() {
        return Err(Error::invalid("give as many ports as hosts, or one port for all"));
    }
    let mut servers = Vec::new();
    for (index, (name, own)) in names.into_iter().enumerate() {
        let port = match ports.get(index).or_else(|| ports.first()).filter(|port| !port.is_empty())
        {
            None => own.unwrap_or(PORT),
            Some(port) => port.parse().map_err(|_| {
                // Not repeated: it may be a secret in the wrong option.
                Error::invalid("a port must be a number from 1 to 65535")
            })?,
        };
        servers.push(match name.strip_prefix('/') {
            // libpq's way to name a socket: its folder, and the port for its name.
            Some(_) => Address::Unix(format!("{}/.s.PGSQL.{port}", name.trim_end_matches('/'))),
            None if name.is_empty() => {
                return Err(Error::invalid("a host's name is empty"));
            }
            None => Address::Tcp(name, port),
        });
    }
    Ok(servers)
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("servers", &self.servers)
            .field("user", &self.user)
            .field("password", &self.password)
            .field("database", &self.database)
            .field("tls", &self.tls)
            .field("keys", &self.keys)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read_in(url: &str, environment: &[(&str, &str)]) -> Result<Config> {
        let url = url.parse()?;
        Config::read_in(&url, Options::of(&url), |name| {
            let found = environment.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn read(url: &str) -> Result<Config> {
        read_in(url, &[])
    }

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp(host.to_owned(), port)
    }

    #[test]
    fn every_option_of_the_original_is_known_and_comes_before_the_url() {
        let config = read("postgresql://u:hush@a:1/one?host=b&port=2&dbname=two").unwrap();
        assert_eq!(config.servers, [tcp("b", 2)]);
        assert_eq!(config.database.as_deref(), Some("two"));
        assert_eq!(config.user.as_deref(), Some("u"));
        assert_eq!(config.password.as_ref().map(Secret::expose), Some("hush"));
        assert!(!format!("{config:?}").contains("hush"));
        assert_eq!(read("postgresql://a:1/one?host=b").unwrap().servers, [tcp("b", 1)]);
    }

    #[test]
    fn hosts_sockets_and_the_environment() {
        let servers = |url| read(url).unwrap().servers;
        assert_eq!(
            servers("postgres://a,b:1,[::1]"),
            [tcp("a", 5432), tcp("b", 1), tcp("::1", 5432)]
        );
        assert_eq!(servers("postgres:///x?host=a,b&port=1,2"), [tcp("a", 1), tcp("b", 2)]);
        let socket = Address::Unix("/run/postgresql/.s.PGSQL.5432".to_owned());
        assert_eq!(servers("postgres://%2Frun%2Fpostgresql/x")[0], socket);
        assert_eq!(servers("postgres:///x?host=/run/postgresql"), [socket]);
        let all = [
            ("PGHOST", "h"),
            ("PGPORT", "7"),
            ("PGUSER", "u"),
            ("PGPASSWORD", "p"),
            ("PGDATABASE", "d"),
        ];
        let config = read_in("postgres://", &all).unwrap();
        assert_eq!(config.servers, [tcp("h", 7)]);
        assert_eq!((config.user.as_deref(), config.database.as_deref()), (Some("u"), Some("d")));
        assert_eq!(config.password.as_ref().map(Secret::expose), Some("p"));
        assert_eq!(read("postgres://").unwrap().servers, [tcp("localhost", 5432)]);
    }

    #[test]
    fn times_follow_from_the_timeout() {
        let config = read("postgresql://a?timeout=6").unwrap();
        assert_eq!(config.heartbeat_interval(), Duration::from_secs(2));
        assert!(config.response_timeout <= Duration::from_secs(2));
        assert_eq!(config.check_interval(), Duration::from_millis(600));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (refused, words) in [
            ("postgresql://a?layout=narrow", "wide or python"),
            ("postgresql://a?timeout=0.5", "must be at least"),
            ("postgresql://a?target_session_attrs=any", "standby"),
            ("postgresql://a?waiters_per_lock=0", "1 or more"),
            ("postgresql://a?schema=x%0Ay", "control characters"),
            ("postgresql://a?sslmode=maybe", "verify-full"),
            ("postgresql://a?sslrootcert=/nowhere", "cannot be read"),
            ("postgresql://a?sslmode=disable&sslcert=/x", "needs sslkey"),
            ("postgresql://a,b?port=1,2,3", "as many ports"),
            ("postgresql://a?port=x", "a port must be"),
            ("postgresql://a?restart_grace=-1", "restart_grace"),
            ("postgresql://a?lock_delay=x", "lock_delay"),
            ("postgresql://a?tiemout=1", "tiemout is unknown"),
        ] {
            let error = read(refused).unwrap_err();
            assert!(error.to_string().contains(words), "{refused}: {error}");
        }
    }
}
