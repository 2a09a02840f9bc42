use std::time::Duration;

use tooz_core::kit::{PemFiles, PemOptions};
use tooz_core::{
    Characteristic, Characteristics, CoordinatorUrl, Error, Host, Options, Result, Secret,
};

use crate::keys::{Keys, Layout};

/// What etcd ensures, whatever the transport.
pub const CHARACTERISTICS: Characteristics = Characteristics::of(&[
    Characteristic::DistributedAcrossThreads,
    Characteristic::DistributedAcrossProcesses,
    Characteristic::DistributedAcrossHosts,
    Characteristic::Linearizable,
    Characteristic::Sequential,
    Characteristic::Causal,
    Characteristic::Serializable,
]);

const PORT: u16 = 2379;

/// The bounds of the time that a connection may take: a TLS handshake must fit, and a server that
/// hangs must not keep us long from the next. One that cannot be reached is reported within 5 s.
const CONNECT: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(4));

/// What etcd takes of a request unless its `--max-request-bytes` says otherwise.
const MAX_REQUEST_BYTES: usize = 1_572_864;

const PEM: PemOptions = PemOptions {
    authorities: "ca_cert",
    certificate: "cert_cert",
    key: "cert_key",
    one_file: false,
};

/// What the URL says, but for the options of one transport alone.
#[derive(Clone, Debug)]
pub struct Config {
    /// The driver's name in errors.
    pub backend: &'static str,
    /// The servers of one cluster, in the order given; at least one.
    pub endpoints: Vec<Endpoint>,
    /// The files with the certificates, if the connections are to be in TLS. Each new connection
    /// reads them: they may have been replaced.
    pub tls: Option<PemFiles>,
    /// How long an answer may take.
    pub response_timeout: Duration,
    /// How long a connection may take.
    pub connect_timeout: Duration,
    pub(crate) login: Option<(String, Secret)>,
    pub(crate) keys: Keys,
    /// The time to live of a session, in whole seconds, as etcd has it.
    pub(crate) ttl: u64,
    /// How long a request is repeated.
    pub(crate) request_timeout: Duration,
    /// How many bytes of a request the server takes.
    pub(crate) max_request_bytes: usize,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its name or address, IPv6 without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// What is as a scheme has it unless the URL says otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    /// The driver's name in errors.
    pub backend: &'static str,
    /// Whether connections are in TLS even without certificates.
    pub tls: bool,
}

impl Config {
    /// Reads the URL and the options that both transports have. The caller reads its own then, and
    /// calls [`Options::finish`].
    pub fn read(url: &CoordinatorUrl, options: &mut Options, defaults: Defaults) -> Result<Self> {
        let backend = defaults.backend;
        if !matches!(url.path(), "" | "/") {
            return Err(Error::invalid(
                "the URL has a path; to keep keys apart use ?namespace=NAME",
            ));
        }
        let request_timeout = options.seconds("timeout", Duration::from_secs(30))?;
        let membership = options.seconds("membership_timeout", request_timeout)?;
        let lock = options.seconds("lock_timeout", request_timeout)?;
        // One lease has it all, so the shorter time counts; a started second is a second.
        let ttl = membership.min(lock);
        let ttl = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let third = Duration::from_secs(ttl) / 3;

        let tls = tls(options, defaults)?;
        let login = match (url.user(), url.password()) {
            (Some(user), Some(password)) => Some((user.to_owned(), password.clone())),
            (None, None) => None,
            _ => {
                return Err(Error::invalid("a user needs a password, and a password needs a user"));
            }
        };
        let max_request_bytes = options
            .parse("max_request_bytes", "a whole number, like the server's --max-request-bytes")?
            .unwrap_or(MAX_REQUEST_BYTES);
        let namespace = options.text("namespace").unwrap_or_default();
        let layout = match options.text("layout").as_deref() {
            None | Some("gateway") => Layout::Gateway,
            Some("etcd3") => Layout::Etcd3,
            Some(_) => return Err(Error::invalid("the layout must be gateway or etcd3")),
        };
        Ok(Self {
            backend,
            endpoints: endpoints(url),
            tls,
            response_timeout: request_timeout.min(third),
            connect_timeout: third.clamp(CONNECT.0, CONNECT.1),
            login,
            keys: Keys::new(&namespace, layout),
            ttl,
            request_timeout,
            max_request_bytes,
        })
    }

    pub(crate) fn session_ttl(&self) -> Duration {
        Duration::from_secs(self.ttl)
    }

    pub(crate) fn heartbeat_interval(&self) -> Duration {
        self.session_ttl() / 3
    }

    /// How long the answer to a heartbeat may take. The first one that goes unanswered is sent a
    /// third of a time to live after the last that was answered, so two of them are over after two
    /// thirds; a new connection and a third have the rest, until a tenth before the end.
    pub(crate) fn heartbeat_timeout(&self) -> Duration {
        self.session_ttl() / 6
    }
}

fn endpoints(url: &CoordinatorUrl) -> Vec<Endpoint> {
    let endpoint =
        |host: &Host| Endpoint { host: host.name.clone(), port: host.port.unwrap_or(PORT) };
    let mut endpoints: Vec<_> = url.hosts().iter().map(endpoint).collect();
    if endpoints.is_empty() {
        endpoints.push(Endpoint { host: "localhost".to_owned(), port: PORT });
    }
    endpoints
}

fn tls(options: &mut Options, Defaults { backend, tls }: Defaults) -> Result<Option<PemFiles>> {
    let files = PemFiles::from_options(options, PEM).map_err(|error| error.on(backend))?;
    let demanded = tls || files.are_named();
    let wanted = options.flag("ssl", demanded)?;
    if demanded && !wanted {
        return Err(Error::invalid("ssl=no contradicts the scheme or the certificates"));
    }
    Ok(wanted.then_some(files))
}

impl Endpoint {
    /// `HOST:PORT`, as it stands in a URL.
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_as(url: &str, tls: bool) -> Result<Config> {
        let url = url.parse()?;
        let mut options = Options::of(&url);
        let config = Config::read(&url, &mut options, Defaults { backend: "etcd3", tls })?;
        options.finish()?;
        Ok(config)
    }

    fn read(url: &str) -> Result<Config> {
        read_as(url, false)
    }

    #[test]
    fn every_option_is_known() {
        let config = read(
            "etcd3://u:hush@a,[::1]:1?timeout=9&membership_timeout=8.5&lock_timeout=7\
             &namespace=n&layout=etcd3&ssl=yes&max_request_bytes=9",
        )
        .unwrap();
        assert_eq!((config.request_timeout.as_secs(), config.ttl), (9, 7));
        assert_eq!(config.heartbeat_interval(), Duration::from_secs(7) / 3);
        assert_eq!(config.max_request_bytes, 9);
        let authorities: Vec<_> = config.endpoints.iter().map(Endpoint::authority).collect();
        assert_eq!(authorities, ["a:2379", "[::1]:1"]);
        assert_eq!(config.login.as_ref().map(|(user, _)| &user[..]), Some("u"));
        assert!(config.tls.is_some());
        assert!(!format!("{config:?}").contains("hush"));
    }

    #[test]
    fn the_defaults_are_the_originals() {
        let config = read("etcd3://").unwrap();
        assert_eq!((config.ttl, config.request_timeout.as_secs()), (30, 30));
        assert_eq!(config.endpoints[0].authority(), "localhost:2379");
        assert!(config.tls.is_none() && config.login.is_none());
        assert!(read_as("etcd3+https://", true).unwrap().tls.is_some());
    }

    #[test]
    fn a_started_second_counts() {
        assert_eq!(read("etcd3://?timeout=1.2").unwrap().ttl, 2);
        assert_eq!(read("etcd3://?timeout=0.5").unwrap().ttl, 1);
    }

    #[test]
    fn two_unanswered_heartbeats_and_a_reconnection_fit() {
        for ttl in (1..=60).chain([3_600]) {
            let config = read(&format!("etcd3://?timeout={ttl}")).unwrap();
            let silent = config.heartbeat_interval() + config.heartbeat_timeout() * 2;
            let left = config.session_ttl() * 9 / 10 - silent;
            assert!(left >= config.session_ttl() / 5, "{left:?} of {ttl} s for the reconnection");
        }
    }

    #[test]
    fn certificates_alone_ask_for_tls() {
        let folder = std::env::temp_dir().join(format!("tooz-etcd3-config-{}", std::process::id()));
        std::fs::write(&folder, "PEM").unwrap();
        let (pem, at) = (folder.display().to_string(), "etcd3://a?");
        let tls = |options: &str| Ok(read(&format!("{at}{options}"))?.tls.unwrap());
        let found = tls(&format!("ca_cert={pem}")).unwrap();
        assert!(found.authorities.is_some() && found.identity.is_none());
        let found = tls(&format!("cert_cert={pem}&cert_key={pem}")).unwrap();
        assert!(found.identity.is_some());
        let error: Error = tls("ca_cert=/nowhere").unwrap_err();
        assert!(error.to_string().contains("option=ca_cert, path=/nowhere"), "{error}");
        assert!(read(&format!("{at}cert_cert={pem}")).is_err(), "a certificate without its key");
        assert!(read(&format!("{at}ca_cert={pem}&ssl=no")).is_err());
        std::fs::remove_file(folder).unwrap();
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for refused in [
            "etcd3://a/path",
            "etcd3://u@a",
            "etcd3://a?layout=v2",
            "etcd3://a?timeout=0",
            "etcd3://a?tiemout=1",
        ] {
            assert!(read(refused).is_err(), "{refused}");
        }
    }
}
