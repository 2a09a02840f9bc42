use std::net::IpAddr;
use std::time::Duration;

#[cfg(feature = "tls")]
use tooz_core::kit::{PemFiles, PemOptions};
use tooz_core::{
    Characteristic, Characteristics, CoordinatorUrl, Error, Options, RestartGrace, Result, Secret,
};

use crate::keys::Keys;
use crate::wire::LONGEST_TIME;

const PORT: u16 = 11211;

/// What the backend ensures in general.
pub(crate) const CHARACTERISTICS: Characteristics = Characteristics::of(&[
    Characteristic::DistributedAcrossThreads,
    Characteristic::DistributedAcrossProcesses,
    Characteristic::DistributedAcrossHosts,
    Characteristic::Causal,
]);

/// As the original's client has them.
#[cfg(feature = "tls")]
const PEM_OPTIONS: PemOptions =
    PemOptions { authorities: "ca_cert", certificate: "ssl_cert", key: "ssl_key", one_file: true };

/// The bounds of the time that a connection may take: a TLS handshake must fit.
const CONNECT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// The longest pause between renewals, because nothing else tells that an item was evicted or that
/// a lock was broken.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The settings from the URL.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// How many hosts were named beyond the first, which are not used.
    pub(crate) unused_hosts: usize,
    pub(crate) login: Option<Login>,
    /// The certificates, where TLS is spoken.
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<PemFiles>,
    pub(crate) protocol: Protocol,
    pub(crate) keys: Keys,
    /// The time to live of a member, and so of a session.
    pub(crate) membership_timeout: Duration,
    /// The time to live of a lock.
    pub(crate) lock_timeout: Duration,
    /// The time to live of a term.
    pub(crate) leader_timeout: Duration,
    /// How long an answer may take.
    pub(crate) response_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    /// None by default for a server of this host: the kernel tells all who are connected on the
    /// same host of its crash.
    pub(crate) restart_grace: RestartGrace,
}

/// User and password, of the server's option `-Y`.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: Secret,
}

/// Which commands are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// The meta commands where the server has them.
    Auto,
    /// The meta commands, of memcached 1.6 and newer.
    Meta,
    /// Those of before.
    Classic,
}

impl Config {
    pub(crate) fn read(url: &CoordinatorUrl, mut options: Options) -> Result<Self> {
        let timeout = options.seconds("timeout", Duration::from_secs(30))?;
        let mut time = |name| {
            let time = options.seconds(name, timeout)?;
            if time < Duration::from_secs(1) || time > LONGEST_TIME {
                return Err(Error::invalid("a time to live must be from 1 s to 29 days")
                    .with("option", name));
            }
            Ok(time)
        };
        let membership_timeout = time("membership_timeout")?;
        let lock_timeout = time("lock_timeout")?;
        let leader_timeout = time("leader_timeout")?;
        let shortest = membership_timeout.min(lock_timeout).min(leader_timeout);
        let first = url.hosts().first();
        let host = first.map_or("localhost", |host| &host.name).to_owned();
        let grace = match is_local(&host) {
            true => Duration::ZERO,
            false => lock_timeout.max(leader_timeout),
        };
        let restart_grace = RestartGrace::read(&mut options, grace)?;
        let namespace = options.text("namespace").unwrap_or_default();
        let protocol = match options.text("protocol").as_deref() {
            None | Some("auto") => Protocol::Auto,
            Some("meta") => Protocol::Meta,
            Some("classic") => Protocol::Classic,
            Some(_) => {
                return Err(Error::invalid("the protocol must be auto, meta or classic"));
            }
        };
        if !matches!(url.path(), "" | "/") {
            return Err(Error::invalid("a memcached URL has no path; see the option namespace"));
        }
        #[cfg(feature = "tls")]
        let tls = tls(&mut options)?;
        #[cfg(not(feature = "tls"))]
        no_tls(&mut options)?;
        // One connection carries everything, and all that rustls speaks is safe.
        options.ignore(&["max_pool_size", "ssl_ciphers"]);
        options.finish()?;
        Ok(Self {
            host,
            port: first.and_then(|host| host.port).unwrap_or(PORT),
            unused_hosts: url.hosts().len().saturating_sub(1),
            login: url.user().zip(url.password()).map(|(user, password)| Login {
                user: user.to_owned(),
                password: password.clone(),
            }),
            #[cfg(feature = "tls")]
            tls,
            protocol,
            keys: Keys::new(&namespace)?,
            membership_timeout,
            lock_timeout,
            leader_timeout,
            response_timeout: shortest / 4,
            connect_timeout: (shortest / 3).clamp(CONNECT.0, CONNECT.1),
            restart_grace,
        })
    }

    /// How often everything is renewed.
    pub(crate) fn heartbeat_interval(&self) -> Duration {
        let shortest = self.membership_timeout.min(self.lock_timeout).min(self.leader_timeout);
        (shortest / 4).min(LONGEST_PAUSE)
    }

    /// What tells one server from another within this process.
    pub(crate) fn server(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

fn is_local(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// What the options say; `None` without `use_ssl`.
#[cfg(feature = "tls")]
fn tls(options: &mut Options) -> Result<Option<PemFiles>> {
    let is_wanted = options.flag("use_ssl", false)?;
    let files = PemFiles::from_options(options, PEM_OPTIONS)?;
    if options.secret("ssl_key_password").is_some() {
        return Err(Error::invalid(
            "ssl_key_password is not supported; store the key without encryption",
        ));
    }
    if !options.flag("ssl_check_hostname", true)? {
        return Err(Error::invalid(
            "ssl_check_hostname=no is not supported; use a host name that the certificate has",
        ));
    }
    if !is_wanted {
        return Ok(None);
    }
    // An error in the files is reported at once.
    files.client_config()?;
    Ok(Some(files))
}

#[cfg(not(feature = "tls"))]
fn no_tls(options: &mut Options) -> Result<()> {
    if options.flag("use_ssl", false)? {
        return Err(Error::not_implemented("TLS (the feature tls of tooz-memcached)"));
    }
    options.ignore(&["ca_cert", "ssl_cert", "ssl_key", "ssl_key_password", "ssl_check_hostname"]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use tooz_core::Moment;

    use super::*;

    fn read(url: &str) -> Result<Config> {
        let url = url.parse()?;
        Config::read(&url, Options::of(&url))
    }

    #[test]
    fn every_option_of_the_original_is_known() {
        let config = read(
            "memcached://u:hush@h:1?timeout=9&membership_timeout=8.5&lock_timeout=7\
             &leader_timeout=6&max_pool_size=3&use_ssl=no&ssl_ciphers=x&ssl_check_hostname=yes",
        )
        .unwrap();
        assert_eq!((config.host.as_str(), config.port, config.unused_hosts), ("h", 1, 0));
        assert_eq!(config.membership_timeout, Duration::from_millis(8500));
        assert_eq!((config.lock_timeout.as_secs(), config.leader_timeout.as_secs()), (7, 6));
        assert_eq!(config.heartbeat_interval(), Duration::from_millis(1500));
        assert!(!format!("{config:?}").contains("hush"));
    }

    #[test]
    fn the_defaults_are_those_of_the_original() {
        let config = read("memcached://").unwrap();
        assert_eq!(config.server(), "localhost:11211");
        assert_eq!((config.lock_timeout.as_secs(), config.protocol), (30, Protocol::Auto));
        assert_eq!(config.keys.groups(), b"_TOOZ_GROUP_LIST");
        assert_eq!(read("memcached://a,b:1,[::1]").unwrap().unused_hosts, 2);
    }

    #[test]
    fn a_server_of_another_host_grants_nothing_at_first() {
        let grace = |url| {
            let until = read(url).unwrap().restart_grace.until(Duration::ZERO, Moment::now());
            until.map_or(0, |until| until.remaining().as_secs_f64().round() as u64)
        };
        assert_eq!(grace("memcached://db?lock_timeout=7&leader_timeout=8"), 8);
        assert_eq!(grace("memcached://db?restart_grace=0"), 0);
        for local in ["memcached://", "memcached://127.0.0.1", "memcached://[::1]"] {
            assert_eq!(grace(local), 0, "{local}");
        }
        assert_eq!(grace("memcached://localhost?restart_grace=3"), 3);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for refused in [
            "memcached://h/path",
            "memcached://h?timeout=0.5",
            "memcached://h?lock_timeout=3000000",
            "memcached://h?protocol=binary",
            "memcached://h?namespace=a+b",
            "memcached://h?tiemout=1",
        ] {
            assert!(read(refused).is_err(), "{refused}");
        }
    }

    #[cfg(feature = "tls")]
    #[test]
    fn weaker_tls_is_refused() {
        for refused in ["ssl_check_hostname=no", "ssl_key=/nowhere", "ssl_key_password=x"] {
            let error = read(&format!("memcached://h?use_ssl=yes&{refused}")).unwrap_err();
            assert_eq!(error.kind(), tooz_core::ErrorKind::InvalidInput, "{error}");
        }
    }
}
