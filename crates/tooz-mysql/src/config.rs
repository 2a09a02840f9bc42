use std::time::Duration;

use tooz_core::kit::{PemFiles, PemOptions};
use tooz_core::{
    Characteristic, Characteristics, CoordinatorUrl, Error, Options, RestartGrace, Result, Secret,
};

use crate::keys::{DEFAULT_NAMESPACE, Keys, Layout};

pub(crate) const CHARACTERISTICS: Characteristics = Characteristics::of(&[
    Characteristic::DistributedAcrossThreads,
    Characteristic::DistributedAcrossProcesses,
    Characteristic::DistributedAcrossHosts,
    Characteristic::Linearizable,
]);

const PEM: PemOptions =
    PemOptions { authorities: "ssl_ca", certificate: "ssl_cert", key: "ssl_key", one_file: true };

const PORT: u16 = 3306;

/// The bounds of the default time limit for a connection: a TLS handshake must fit, and a
/// server that hangs must not keep us long from the next, nor a person from the error.
const CONNECT: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(3));

/// Tables are called after the namespace, and the server takes 64 characters.
const LONGEST_NAMESPACE: usize = 48;

/// The settings from the URL.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// The first of these that answers and takes writes.
    pub(crate) addresses: Vec<Address>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) database: String,
    pub(crate) tls: Tls,
    pub(crate) keys: Keys,
    /// How long the server keeps what a silent connection holds, in whole seconds.
    pub(crate) timeout: Duration,
    pub(crate) connect_timeout: Duration,
    /// How long an answer may take.
    pub(crate) response_timeout: Duration,
    /// How often watches and holders look for what the server does not push.
    pub(crate) poll_interval: Duration,
    /// How long nothing is granted after the server's start, if it may have forgotten.
    pub(crate) restart_grace: RestartGrace,
    /// How long what was not released is not granted again; none if zero.
    pub(crate) lock_delay: Duration,
    /// The operator vouches that all use one server of several that take writes.
    pub(crate) single_writer: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(String, u16),
    Unix(String),
}

/// How far a server must prove itself. The names are those of the server's own client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TlsMode {
    Disabled,
    Preferred,
    Required,
    VerifyCa,
    VerifyIdentity,
}

#[derive(Clone, Debug)]
pub(crate) struct Tls {
    pub(crate) mode: TlsMode,
    pub(crate) files: PemFiles,
}

impl Config {
    pub(crate) fn read(url: &CoordinatorUrl, mut options: Options) -> Result<Self> {
        let timeout = options.seconds("timeout", Duration::from_secs(30))?;
        if timeout < Duration::from_secs(1) || timeout.subsec_nanos() != 0 {
            return Err(Error::invalid(
                "the timeout must be a whole number of seconds, at least 1",
            ));
        }
        // A heartbeat, which is due each third, waits for at most one slow statement.
        let longest = timeout / 3;
        let response_timeout = options.seconds("read_timeout", longest)?.min(longest);
        let connect_timeout =
            options.seconds("connect_timeout", (timeout / 2).clamp(CONNECT.0, CONNECT.1))?;
        let poll_interval = options.seconds("poll_interval", Duration::from_millis(250))?;
        if poll_interval < Duration::from_millis(10) || poll_interval > Duration::from_secs(10) {
            return Err(Error::invalid("the poll_interval must be from 0.01 to 10 seconds"));
        }
        let restart_grace = RestartGrace::read(&mut options, timeout)?;
        let lock_delay = options.seconds_or_zero("lock_delay", Duration::ZERO)?;
        let single_writer = options.flag("single_writer", false)?;
        let database = database(url)?;
        let layout = match options.text("layout").as_deref() {
            None | Some("safe") => Layout::Safe,
            Some("python") => Layout::Python,
            Some(_) => return Err(Error::invalid("the layout must be safe or python")),
        };
        let namespace = options.text("namespace").unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
        let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if namespace.is_empty()
            || namespace.len() > LONGEST_NAMESPACE
            || !namespace.bytes().all(known)
        {
            return Err(Error::invalid(format!(
                "the namespace has from 1 to {LONGEST_NAMESPACE} of the characters a-z, 0-9 \
                 and _"
            )));
        }
        let socket = options.text("unix_socket");
        let tls = Tls::read(&mut options)?;
        options.finish()?;
        Ok(Self {
            addresses: addresses(url, socket),
            user: url.user().map(str::to_owned),
            password: url.password().cloned(),
            keys: Keys::new(&database, &namespace, layout),
            database,
            tls,
            timeout,
            connect_timeout,
            response_timeout,
            poll_interval,
            restart_grace,
            lock_delay,
            single_writer,
        })
    }

    /// How often everything is renewed.
    pub(crate) fn heartbeat_interval(&self) -> Duration {
        self.timeout / 3
    }
}

fn database(url: &CoordinatorUrl) -> Result<String> {
    let name = url.path().trim_start_matches('/');
    if name.is_empty() || name.contains('/') {
        return Err(Error::invalid("the URL's path must name a database: mysql://HOST/DATABASE"));
    }
    Ok(name.to_owned())
}

fn addresses(url: &CoordinatorUrl, socket: Option<String>) -> Vec<Address> {
    if let Some(path) = socket {
        return vec![Address::Unix(path)];
    }
    let hosts = url.hosts().iter();
    let mut addresses: Vec<_> =
        hosts.map(|host| Address::Tcp(host.name.clone(), host.port.unwrap_or(PORT))).collect();
    if addresses.is_empty() {
        addresses.push(Address::Tcp("localhost".to_owned(), PORT));
    }
    addresses
}

impl Tls {
    fn read(options: &mut Options) -> Result<Self> {
        let files = PemFiles::from_options(options, PEM)?;
        for (name, instead) in [
            ("ssl_capath", "name one file with all authorities in ssl_ca"),
            ("ssl_cipher", "only the secure ciphers of TLS 1.2 and 1.3 are used"),
        ] {
            if options.text(name).is_some() {
                return Err(Error::invalid(format!("there is no {name} here: {instead}")));
            }
        }
        let mode = match options.text("ssl_mode") {
            Some(text) => Some(mode(&text)?),
            None => None,
        };
        // The original's own: what is verified, and whether the name counts.
        let verify = options.text("ssl_verify_mode");
        let verify = match verify.as_deref().map(str::to_ascii_lowercase).as_deref() {
            None => None,
            Some("none" | "cert_none" | "0" | "false" | "no") => Some(false),
            Some(
                "optional" | "cert_optional" | "required" | "cert_required" | "1" | "2" | "true"
                | "yes",
            ) => Some(true),
            Some(_) => {
                return Err(Error::invalid("the ssl_verify_mode must be none or required"));
            }
        };
        let named = options.text("ssl_check_hostname").is_some();
        let check_name = options.flag("ssl_check_hostname", files.authorities.is_some())?;
        let mode = mode.unwrap_or(match (&files.authorities, verify, check_name) {
            (_, Some(false), _) => TlsMode::Required,
            (Some(_), _, true) => TlsMode::VerifyIdentity,
            (Some(_), _, false) => TlsMode::VerifyCa,
            (None, Some(true), name) => {
                if name || !named {
                    TlsMode::VerifyIdentity
                } else {
                    TlsMode::VerifyCa
                }
            }
            (None, None, true) => TlsMode::VerifyIdentity,
            (None, None, false) if files.identity.is_some() => TlsMode::Required,
            (None, None, false) => TlsMode::Preferred,
        });
        Ok(Self { mode, files })
    }
}

fn mode(text: &str) -> Result<TlsMode> {
    Ok(match &*text.to_ascii_lowercase().replace('-', "_") {
        "disabled" => TlsMode::Disabled,
        "preferred" => TlsMode::Preferred,
        "required" => TlsMode::Required,
        "verify_ca" => TlsMode::VerifyCa,
        "verify_identity" => TlsMode::VerifyIdentity,
        _ => {
            return Err(Error::invalid(
                "the ssl_mode must be disabled, preferred, required, verify_ca or verify_identity",
            ));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<Config> {
        let url = url.parse()?;
        Config::read(&url, Options::of(&url))
    }

    fn mode_of(options: &str) -> TlsMode {
        read(&format!("mysql://h/d?{options}")).unwrap().tls.mode
    }

    #[test]
    fn every_option_of_the_original_is_known() {
        let ca = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let config = read(&format!(
            "mysql://u:hush@h:1/d?ssl_ca={ca}&ssl_cert={ca}&ssl_key={ca}\
             &ssl_verify_mode=CERT_REQUIRED&ssl_check_hostname=false"
        ))
        .unwrap();
        assert_eq!(config.addresses, [Address::Tcp("h".into(), 1)]);
        assert_eq!((config.user.as_deref(), &config.database[..]), (Some("u"), "d"));
        assert_eq!(config.tls.mode, TlsMode::VerifyCa);
        assert!(config.tls.files.authorities.is_some() && config.tls.files.identity.is_some());
        assert!(!format!("{config:?}").contains("hush"));
        let socket = read("mysql://u@/d?unix_socket=/run/s").unwrap();
        assert_eq!(socket.addresses, [Address::Unix("/run/s".into())]);
    }

    #[test]
    fn hosts_times_and_names() {
        let config = read("mysql://a,b:1/d?timeout=9&poll_interval=0.1&namespace=n_1").unwrap();
        assert_eq!(config.addresses, [Address::Tcp("a".into(), 3306), Address::Tcp("b".into(), 1)]);
        assert_eq!((config.timeout.as_secs(), config.heartbeat_interval().as_secs()), (9, 3));
        assert_eq!(config.keys.table("group"), "`n_1_group`");
        for refused in [
            "mysql://h",
            "mysql://h/a/b",
            "mysql://h/d?timeout=0.5",
            "mysql://h/d?timeout=1.5",
            "mysql://h/d?poll_interval=60",
            "mysql://h/d?restart_grace=-1",
            "mysql://h/d?lock_delay=soon",
            "mysql://h/d?namespace=No",
            "mysql://h/d?namespace=a`b",
            "mysql://h/d?layout=own",
            "mysql://h/d?ssl_mode=maybe",
            "mysql://h/d?ssl_verify_mode=maybe",
            "mysql://h/d?ssl_ca=/nowhere",
            "mysql://h/d?ssl_key=/nowhere",
            "mysql://h/d?ssl_capath=/etc",
            "mysql://h/d?ssl_cipher=x",
            "mysql://h/d?tiemout=1",
        ] {
            assert!(read(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn how_far_the_server_proves_itself() {
        assert_eq!(mode_of(""), TlsMode::Preferred);
        assert_eq!(mode_of("ssl_mode=VERIFY-CA"), TlsMode::VerifyCa);
        assert_eq!(mode_of("ssl_mode=DISABLED"), TlsMode::Disabled);
        assert_eq!(mode_of("ssl_verify_mode=required"), TlsMode::VerifyIdentity);
        assert_eq!(mode_of("ssl_verify_mode=none"), TlsMode::Required);
        assert_eq!(mode_of("ssl_check_hostname=yes"), TlsMode::VerifyIdentity);
    }
}
