use std::path::PathBuf;
use std::time::Duration;

use tooz_core::{
    Characteristic, Characteristics, CoordinatorUrl, Error, Host, Options, Result, Secret,
};
use tooz_http::{Endpoint, Settings, Tls, TlsFiles};

use crate::keys::Keys;
use crate::token::Token;

/// What Consul ensures.
pub(crate) const CHARACTERISTICS: Characteristics = Characteristics::of(&[
    Characteristic::DistributedAcrossThreads,
    Characteristic::DistributedAcrossProcesses,
    Characteristic::DistributedAcrossHosts,
    Characteristic::Linearizable,
    Characteristic::Sequential,
    Characteristic::Causal,
    Characteristic::Serializable,
]);

const PORT: u16 = 8500;

/// The shortest time to live of a session that servers allow by default, and the longest that any
/// does.
const SESSION_TTL: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(86_400));

/// The longest namespace, in bytes: it stands in each key.
const NAMESPACE: usize = 512;

/// The longest lock-delay that servers accept.
const LOCK_DELAY: Duration = Duration::from_secs(60);

/// What the URL, the options and the environment say.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) access: Access,
    pub(crate) keys: Keys,
    /// How long a silent coordinator keeps what it has.
    pub(crate) ttl: Duration,
    /// How long what a dead session had is kept from everybody.
    pub(crate) lock_delay: Duration,
    pub(crate) check: Check,
}

/// What agents are reached by, and how.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Access {
    pub(crate) http: Settings,
    pub(crate) token: Option<Token>,
    /// Datacenter and, with Consul Enterprise, namespace.
    pub(crate) scope: Vec<(&'static str, String)>,
    /// What all keys begin with.
    pub(crate) namespace: String,
    /// How long an answer may take.
    pub(crate) response_timeout: Duration,
    pub(crate) heartbeat_timeout: Duration,
}

/// Whether a session depends on a check of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    Yes,
    No,
    /// If there is one agent and the token may register a check with it.
    Auto,
}

/// The environment, as Consul's own tools read it.
type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Config {
    pub(crate) fn read(url: &CoordinatorUrl, options: Options) -> Result<Self> {
        Self::read_with(url, options, &|name| std::env::var(name).ok().filter(|v| !v.is_empty()))
    }

    fn read_with(url: &CoordinatorUrl, mut options: Options, env: Environment<'_>) -> Result<Self> {
        if !matches!(url.path(), "" | "/") {
            return Err(Error::invalid("a Consul URL has no path; use ?namespace=NAME"));
        }
        let ttl = options.seconds("ttl", Duration::from_secs(15))?;
        if ttl < Duration::from_secs(1) || ttl > SESSION_TTL.1 {
            return Err(Error::invalid("ttl must be from 1 to 86400 seconds"));
        }
        let lock_delay = match options.parse::<f64>("lock_delay", "a number of seconds")? {
            None => Duration::from_secs(15),
            Some(seconds) => Duration::try_from_secs_f64(seconds)
                .ok()
                .filter(|delay| *delay <= LOCK_DELAY)
                .ok_or_else(|| Error::invalid("lock_delay must be from 0 to 60 seconds"))?,
        };
        let check = match options.text("check").as_deref() {
            None | Some("auto") => Check::Auto,
            Some("yes") => Check::Yes,
            Some("no") => Check::No,
            Some(_) => return Err(Error::invalid("check must be yes, no or auto")),
        };
        let longest = ttl / 3;
        let response_timeout = options.seconds("timeout", longest)?.min(longest);
        let connect_timeout = options.seconds("connect_timeout", longest)?.min(longest);

        let keys = namespace(&mut options)?;
        let scope =
            [("dc", options.text("dc")), ("ns", text(&mut options, "ns", env, "NAMESPACE"))];
        let scope = scope.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let mut http = servers(url, &mut options, env)?
            .connect_timeout(connect_timeout)
            .response_timeout(response_timeout);
        let token = token(&mut options, env)?;
        if let Some((user, password)) = login(url, env)? {
            http = http.basic_auth(&user, &password)?;
        }
        options.finish()?;
        let namespace = keys.namespace().to_owned();
        let heartbeat_timeout = response_timeout.min(heartbeat_timeout(ttl));
        let access = Access { http, token, scope, namespace, response_timeout, heartbeat_timeout };
        Ok(Self { access, keys, ttl, lock_delay, check })
    }

    /// How long a write is repeated of which nobody knows what became of it.
    pub(crate) fn write_timeout(&self) -> Duration {
        self.access.response_timeout * 2
    }

    /// How often everything is renewed.
    pub(crate) fn heartbeat_interval(&self) -> Duration {
        self.ttl / 3
    }

    /// The time to live of a session that depends on a check besides: for the case that the agent
    /// dies with its machine, and nobody is left to tell that the check was not passed.
    pub(crate) fn fallback_ttl(&self) -> Duration {
        self.ttl.max(SESSION_TTL.0)
    }
}

/// How long the answer to a heartbeat may take. Two unanswered ones and a third by a new connection
/// fit between the last that was answered and the local deadline, which is after nine tenths of the
/// time to live.
fn heartbeat_timeout(ttl: Duration) -> Duration {
    ttl / 6
}

fn namespace(options: &mut Options) -> Result<Keys> {
    let namespace = options.text("namespace").unwrap_or_else(|| "tooz".to_owned());
    if namespace.len() > NAMESPACE {
        return Err(Error::invalid(format!("the namespace has at most {NAMESPACE} bytes")));
    }
    if namespace.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        return Err(Error::invalid("the namespace must not have empty path segments"));
    }
    Ok(Keys::new(&namespace))
}

/// An option that Consul's own tools take from the environment.
fn text(
    options: &mut Options,
    name: &'static str,
    env: Environment<'_>,
    variable: &str,
) -> Option<String> {
    options.text(name).or_else(|| env(&format!("CONSUL_{variable}")))
}

fn token(options: &mut Options, env: Environment<'_>) -> Result<Option<Token>> {
    if let Some(token) = options.secret("acl_token") {
        return Ok(Some(Token::new(token)));
    }
    if let Some(token) = env("CONSUL_HTTP_TOKEN") {
        return Ok(Some(Token::new(Secret::new(token))));
    }
    text(options, "acl_token_file", env, "HTTP_TOKEN_FILE").map(Token::of_file).transpose()
}

fn login(url: &CoordinatorUrl, env: Environment<'_>) -> Result<Option<(String, Secret)>> {
    match (url.user(), url.password()) {
        (Some(user), Some(password)) => Ok(Some((user.to_owned(), password.clone()))),
        (None, None) => Ok(env("CONSUL_HTTP_AUTH").map(|login| {
            // Without a password it is an empty one, as for Consul's own tools.
            let (user, password) = login.split_once(':').unwrap_or((&login, ""));
            (user.to_owned(), Secret::new(password))
        })),
        _ => Err(Error::invalid(
            "a user and a password go together, as in USER:PASSWORD@HOST; an empty \
             password can be had by CONSUL_HTTP_AUTH=USER:",
        )),
    }
}

/// The servers, and how to speak TLS with them if that is wanted.
fn servers(url: &CoordinatorUrl, options: &mut Options, env: Environment<'_>) -> Result<Settings> {
    let mut https = url.scheme() == "consul+https";
    let endpoint = |host: &Host| Endpoint::new(host.name.clone(), host.port.unwrap_or(PORT));
    let mut endpoints: Vec<_> = url.hosts().iter().map(endpoint).collect();
    if endpoints.is_empty() {
        let address = env("CONSUL_HTTP_ADDR").unwrap_or_else(|| "localhost".to_owned());
        let address = match address.split_once("://") {
            None => address,
            Some(("http", rest)) => rest.to_owned(),
            Some(("https", rest)) => {
                https = true;
                rest.to_owned()
            }
            Some(_) => {
                return Err(Error::invalid("CONSUL_HTTP_ADDR is not an http(s) address"));
            }
        };
        // The URL's own parser knows IPv6.
        let parsed: CoordinatorUrl = format!("consul://{address}").parse()?;
        endpoints.extend(parsed.hosts().iter().map(endpoint));
    }
    let truth =
        |variable| env(variable).map(|text| matches!(&*text, "1" | "true" | "TRUE" | "True"));
    https |= truth("CONSUL_HTTP_SSL") == Some(true);
    let mut file = |name, variable| match text(options, name, env, variable) {
        None => Ok(None),
        Some(path) => match std::fs::read(&path) {
            Ok(pem) => Ok(Some((pem, PathBuf::from(path)))),
            Err(e) => Err(Error::invalid("a certificate or key cannot be read")
                .with("option", name)
                .with("path", path)
                .caused_by(e)),
        },
    };
    let (authorities, authorities_file) = file("ca_cert", "CACERT")?.unzip();
    let identity = match (file("client_cert", "CLIENT_CERT")?, file("client_key", "CLIENT_KEY")?) {
        (Some((certificate, its)), Some((key, file))) => Some(((certificate, key), (its, file))),
        (None, None) => None,
        _ => return Err(Error::invalid("client_cert and client_key must be given together")),
    };
    let server_name = text(options, "tls_server_name", env, "TLS_SERVER_NAME");
    if !https {
        return Ok(Settings::new(endpoints));
    }
    if truth("CONSUL_HTTP_SSL_VERIFY") == Some(false) {
        return Err(Error::invalid(
            "certificates are always verified; name the authority in ca_cert or \
             CONSUL_CACERT rather than setting CONSUL_HTTP_SSL_VERIFY=false",
        ));
    }
    let (identity, identity_files) = identity.unzip();
    let files = TlsFiles { authorities: authorities_file, identity: identity_files };
    let tls = Tls { authorities, identity, server_name };
    Ok(Settings::new(endpoints).tls(tls).tls_files(files))
}

#[cfg(test)]
mod tests {
    use tooz_http::Http;

    use super::*;

    fn read_in(url: &str, environment: &[(&str, &str)]) -> Result<Config> {
        let url = url.parse()?;
        Config::read_with(&url, Options::of(&url), &|name| {
            environment.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn read(url: &str) -> Result<Config> {
        read_in(url, &[])
    }

    #[test]
    fn every_option_of_the_original_is_known() {
        let config = read("consul://h:1?ttl=20&namespace=n&acl_token=hush").unwrap();
        assert_eq!((config.ttl.as_secs(), config.keys.namespace()), (20, "n"));
        let shown = format!("{config:?}");
        assert!(shown.contains("x-consul-token") && !shown.contains("hush"), "{shown}");
    }

    #[test]
    fn the_defaults_are_the_originals() {
        let config = read("consul://h").unwrap();
        assert_eq!((config.ttl.as_secs(), config.keys.namespace()), (15, "tooz"));
        assert_eq!((config.lock_delay.as_secs(), config.check), (15, Check::Auto));
        assert_eq!(config.access.response_timeout.as_secs(), 5);
        assert!(format!("{config:?}").contains("port: 8500"), "{config:?}");
    }

    #[test]
    fn the_environment_counts_where_the_url_says_nothing() {
        let environment = [
            ("CONSUL_HTTP_ADDR", "http://[::1]:8501"),
            ("CONSUL_HTTP_TOKEN", "hush"),
            ("CONSUL_HTTP_AUTH", "user:hush"),
            ("CONSUL_NAMESPACE", "team"),
        ];
        let shown = format!("{:?}", read_in("consul://", &environment).unwrap());
        assert!(shown.contains("\"::1\", port: 8501") && shown.contains("\"team\""), "{shown}");
        assert!(shown.contains("x-consul-token") && shown.contains("authorization"), "{shown}");
        assert!(!shown.contains("hush"), "{shown}");
        let shown = format!("{:?}", read_in("consul://h?ns=own", &environment).unwrap());
        assert!(shown.contains("\"h\"") && shown.contains("\"own\""), "{shown}");
    }

    #[test]
    fn two_unanswered_heartbeats_and_a_reconnection_fit() {
        for ttl in [1_000, 1_500, 15_000, 86_400_000].map(Duration::from_millis) {
            let config = read(&format!("consul://h?ttl={}", ttl.as_secs_f64())).unwrap();
            let silent = config.heartbeat_interval() + heartbeat_timeout(ttl) * 2;
            assert!(silent + Duration::from_millis(200) < ttl * 9 / 10, "{ttl:?}");
        }
    }

    #[test]
    fn half_a_login_is_refused_with_what_would_be_right() {
        for url in ["consul://user@h", "consul://:hush@h"] {
            let error = read(url).unwrap_err().to_string();
            assert!(error.contains("USER:PASSWORD@HOST") && !error.contains("hush"), "{error}");
        }
        assert!(read("consul://user:hush@h").is_ok());
    }

    #[test]
    fn tls_is_asked_for_by_scheme_or_environment() {
        let pem = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let wanted = [("CONSUL_HTTP_SSL", "true")];
        for (url, environment) in [
            (format!("consul+https://h?ca_cert={pem}"), &[][..]),
            (format!("consul://h?ca_cert={pem}"), &wanted),
        ] {
            // That it is not a certificate is noticed only if it is to be used.
            let config = read_in(&url, environment).unwrap();
            let error = Http::new(config.access.http).unwrap_err().to_string();
            assert!(error.contains("PEM"), "{error}");
        }
        let careless = [("CONSUL_HTTP_SSL_VERIFY", "false")];
        let error = read_in("consul+https://h", &careless).unwrap_err().to_string();
        assert!(error.contains("CONSUL_CACERT"), "{error}");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for refused in [
            "consul://h/path",
            "consul://h?ttl=0.5",
            "consul://h?ttl=86401",
            "consul://h?lock_delay=61",
            "consul://h?lock_delay=-1",
            "consul://h?check=maybe",
            "consul://h?namespace=a//b",
            "consul://h?client_cert=/nowhere",
            "consul://h?acl_token_file=/nowhere",
            "consul://h?tttl=1",
            "consul://user@h",
            "consul://user:@h",
            "consul://:hush@h",
        ] {
            assert!(read(refused).is_err(), "{refused}");
        }
        assert_eq!(read("consul://h?lock_delay=0").unwrap().lock_delay, Duration::ZERO);
    }
}
