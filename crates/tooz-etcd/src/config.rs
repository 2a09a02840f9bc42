use std::time::Duration;

use tooz_core::kit::{PemFile, PemFiles, PemOptions};
use tooz_core::{Characteristic, Characteristics, CoordinatorUrl, Error, Options, Result};
use tooz_http::{Endpoint, Settings, Tls};

use crate::keys::Keys;

/// What the v2 API ensures.
pub(crate) const CHARACTERISTICS: Characteristics = Characteristics::of(&[
    Characteristic::DistributedAcrossThreads,
    Characteristic::DistributedAcrossProcesses,
    Characteristic::DistributedAcrossHosts,
    Characteristic::Linearizable,
    Characteristic::Sequential,
    Characteristic::Causal,
    Characteristic::Serializable,
]);

const PORT: u16 = 2379;

const PEM: PemOptions = PemOptions {
    authorities: "ca_cert",
    certificate: "cert_cert",
    key: "cert_key",
    one_file: false,
};

/// How long a connection may take, and the answer to the first request.
const LONGEST_OPENING: Duration = Duration::from_secs(5);
/// How long any answer may take.
const LONGEST_ANSWER: Duration = Duration::from_secs(10);

/// The settings from the URL.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// All but the certificates: see [`settings`](Self::settings).
    http: Settings,
    tls: Option<PemFiles>,
    /// How many servers there are to ask.
    pub(crate) servers: u32,
    pub(crate) keys: Keys,
    /// The time to live of a session and its memberships, in whole seconds as the server wants it.
    pub(crate) membership_timeout: Ttl,
    /// The time to live of a lock or a term.
    pub(crate) lock_timeout: Ttl,
}

/// A time to live: what leases count with, and the whole seconds that the server gets, which
/// may be more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ttl(pub(crate) Duration);

impl Ttl {
    pub(crate) fn seconds(self) -> u64 {
        self.0.as_secs() + u64::from(self.0.subsec_nanos() > 0)
    }
}

impl Config {
    pub(crate) fn read(url: &CoordinatorUrl, mut options: Options) -> Result<Self> {
        let timeout = options.seconds("timeout", Duration::from_secs(30))?;
        let membership_timeout = options.seconds("membership_timeout", timeout)?;
        let lock_timeout = options.seconds("lock_timeout", timeout)?;
        let shortest = membership_timeout.min(lock_timeout);
        if shortest < Duration::from_secs(1) {
            return Err(Error::invalid("a time to live must be at least 1 s"));
        }
        let tls = match options.text("protocol").as_deref() {
            None | Some("http") => {
                // Known, but without effect.
                for name in [PEM.authorities, PEM.certificate, PEM.key] {
                    drop(options.text(name));
                }
                None
            }
            Some("https") => Some(PemFiles::from_options(&mut options, PEM)?),
            Some(_) => return Err(Error::invalid("the protocol must be http or https")),
        };
        if !matches!(url.path(), "" | "/") {
            return Err(Error::invalid("an etcd URL has no path; use ?namespace=NAME"));
        }
        let namespace = options.text("namespace").unwrap_or_default();
        let keys = Keys::new(&namespace)?;
        options.finish()?;

        let mut endpoints: Vec<_> = url
            .hosts()
            .iter()
            .map(|host| Endpoint::new(host.name.clone(), host.port.unwrap_or(PORT)))
            .collect();
        if endpoints.is_empty() {
            endpoints.push(Endpoint::new("localhost", PORT));
        }
        let longest = shortest / 3;
        let servers = u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
        let mut http = Settings::new(endpoints)
            .connect_timeout(longest.min(LONGEST_OPENING))
            .response_timeout(longest.min(LONGEST_ANSWER));
        match (url.user(), url.password()) {
            (Some(user), Some(password)) => http = http.basic_auth(user, password)?,
            (None, None) => {}
            _ => {
                return Err(Error::invalid(
                    "a user needs a password, and a password needs a user: etcd://USER:PASSWORD@HOST",
                ));
            }
        }
        let (membership_timeout, lock_timeout) = (Ttl(membership_timeout), Ttl(lock_timeout));
        Ok(Self { http, tls, servers, keys, membership_timeout, lock_timeout })
    }

    /// What to connect with. Reads the certificates, which may have been replaced.
    pub(crate) fn settings(&self) -> Result<Settings> {
        let Some(files) = &self.tls else { return Ok(self.http.clone()) };
        let authorities = files.authorities.as_ref().map(PemFile::read).transpose()?;
        let identity = match &files.identity {
            Some((certificate, key)) => Some((certificate.read()?, key.read()?)),
            None => None,
        };
        Ok(self.http.clone().tls(Tls { authorities, identity, server_name: None }))
    }

    fn shortest_ttl(&self) -> Duration {
        self.membership_timeout.0.min(self.lock_timeout.0)
    }

    /// How long the answer to the first request of a session may take.
    pub(crate) fn opening_timeout(&self) -> Duration {
        (self.shortest_ttl() / 3).min(LONGEST_OPENING)
    }

    /// How often everything is renewed.
    pub(crate) fn heartbeat_interval(&self) -> Duration {
        self.shortest_ttl() / 3
    }

    /// How long the answer to a renewal may take. The first one that goes unanswered is sent a
    /// third of a time to live after the last that was answered, so two of them are over after two
    /// thirds; a new connection and a third have the rest, until a tenth before the end.
    pub(crate) fn heartbeat_timeout(&self) -> Duration {
        (self.shortest_ttl() / 6).min(LONGEST_ANSWER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<Config> {
        let url = url.parse()?;
        Config::read(&url, Options::of(&url))
    }

    #[test]
    fn every_option_of_the_original_is_known() {
        let config = read("etcd://h:1?protocol=http&timeout=9&lock_timeout=7.5").unwrap();
        assert_eq!(config.membership_timeout.seconds(), 9);
        assert_eq!(config.lock_timeout, Ttl(Duration::from_millis(7500)));
        assert_eq!(config.lock_timeout.seconds(), 8, "the server wants whole seconds");
    }

    #[test]
    fn two_unanswered_heartbeats_and_a_reconnection_fit() {
        for ttl in (1..=120).chain([3_600]) {
            let config = read(&format!("etcd://h?timeout={ttl}")).unwrap();
            let silent = config.heartbeat_interval() + config.heartbeat_timeout() * 2;
            let left = config.shortest_ttl() * 9 / 10 - silent;
            assert!(left >= config.shortest_ttl() / 5, "{left:?} of {ttl} s for the reconnection");
        }
    }

    #[test]
    fn mistakes_are_told() {
        for (url, expected) in [
            ("etcd://h?timeout=0.5", "must be at least"),
            ("etcd://h?protocol=ftp", "http or https"),
            ("etcd://h/path", "no path"),
            ("etcd://h?protocol=https&ca_cert=/nowhere", "cannot be read"),
            ("etcd://h?namespace=a//b", "namespace"),
            ("etcd://h?tiemout=1", "tiemout"),
            ("etcd://u@h", "a user needs a password"),
        ] {
            let error = read(url).unwrap_err().to_string();
            assert!(error.contains(expected), "{url}: {error}");
        }
    }

    #[test]
    fn no_secret_is_shown() {
        let config = read("etcd://u:hush@h").unwrap();
        assert!(!format!("{config:?}").contains("hush"));
    }
}
