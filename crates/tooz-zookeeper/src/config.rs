use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};
use tooz_core::kit::{PemFiles, PemOptions};
use tooz_core::{
    Characteristic, Characteristics, CoordinatorUrl, Error, Host, Options, Result, Secret,
};
use zookeeper_client::{Acl, Acls, AuthId, CreateMode, CreateOptions, Permission};

use crate::keys::Keys;

/// What ZooKeeper ensures.
pub(crate) const CHARACTERISTICS: Characteristics = Characteristics::of(&[
    Characteristic::DistributedAcrossThreads,
    Characteristic::DistributedAcrossProcesses,
    Characteristic::DistributedAcrossHosts,
    Characteristic::Sequential,
]);

const PORT: u16 = 2181;

/// The server's own limits are narrower; this keeps the arithmetic with it sensible.
const TIMEOUTS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(86_400));

/// The least and the most time for a connection. A TLS handshake must fit, also with a server that
/// has just started; and why there is none must be known before the one who waits for it gives up.
const CONNECT: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(10));

/// The server's own default for what it takes in one request, in bytes.
const MAX_REQUEST: usize = 0xf_ffff;

/// The least that leaves room for names.
const MIN_REQUEST: usize = 1_024;

/// Well below the 128 KiB of `pool.rs`.
const WATCHED: usize = 96 * 1_024;

/// No name needs more bytes, and several fit into what one connection watches.
const LONGEST_PATH: usize = 16 * 1_024;

/// One file may be for both the certificate and the key, as the original's client has it.
const PEM: PemOptions =
    PemOptions { authorities: "ca", certificate: "certfile", key: "keyfile", one_file: true };

/// What one request that creates a node has beside the path, the data and the rights, in bytes.
const FRAME: usize = 24;

/// The settings from the URL.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) servers: Vec<(String, u16)>,
    /// Without the last slash: empty for none.
    pub(crate) chroot: String,
    pub(crate) login: Option<Login>,
    #[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "refused without the feature"))]
    pub(crate) tls: Option<PemFiles>,
    /// The time that a session outlives its last message, as it is asked of the server.
    pub(crate) timeout: Duration,
    /// The time that it may take to open one.
    pub(crate) connect_timeout: Duration,
    pub(crate) keys: Keys,
    /// The largest request that the servers take, in bytes.
    max_request: usize,
    /// Who may use the nodes that we make; empty for everybody.
    acls: Vec<Acl>,
}

/// How we say who we are.
#[derive(Clone, Debug)]
pub(crate) enum Login {
    Digest {
        user: String,
        password: Secret,
    },
    #[cfg_attr(not(feature = "sasl"), allow(dead_code, reason = "refused without the feature"))]
    Sasl {
        user: String,
        password: Secret,
    },
}

impl Config {
    pub(crate) fn read(url: &CoordinatorUrl, mut options: Options) -> Result<Self> {
        let timeout = options.seconds("timeout", Duration::from_secs(10))?;
        if timeout < TIMEOUTS.0 || timeout > TIMEOUTS.1 {
            return Err(Error::invalid("the timeout must be from 0.1 s to a day"));
        }
        let (servers, chroot) = servers(url, &mut options)?;
        let login = Login::read(url, &mut options)?;
        let tls = tls(&mut options)?;
        let namespace = options.text("namespace").unwrap_or_else(|| "tooz".to_owned());
        let max_request =
            options.parse("jute_maxbuffer", "a whole number of bytes")?.unwrap_or(MAX_REQUEST);
        if max_request < MIN_REQUEST {
            return Err(Error::invalid("jute_maxbuffer must be at least 1024 bytes"));
        }
        // The client always tries the servers in a random order.
        options.flag("randomize_hosts", true)?;
        if let Some(handler) = options.text("handler")
            && !matches!(handler.as_str(), "threading" | "eventlet")
        {
            return Err(Error::invalid("the handler must be threading or eventlet"));
        }
        // The original reads these from code alone. What they are for needs no options here.
        options.ignore(&["connection_retry", "command_retry"]);
        options.finish()?;
        let acls = login.as_ref().map(Login::acl).into_iter().collect();
        let longest = longest_path(max_request).saturating_sub(chroot.len());
        let keys = Keys::new(&namespace, longest)?;
        let connect_timeout = timeout.clamp(CONNECT.0, CONNECT.1);
        Ok(Self { servers, chroot, login, tls, timeout, connect_timeout, keys, max_request, acls })
    }

    /// How many bytes of paths one connection watches.
    pub(crate) fn watch_room(&self) -> usize {
        WATCHED.min(self.max_request / 2)
    }

    /// Refuses capabilities that make a request too large. The server would break the connection
    /// each time that it is sent.
    pub(crate) fn must_fit(&self, path: &str, capabilities: &[u8]) -> Result<()> {
        let acls = self.acls.iter().map(|acl| (acl.scheme(), acl.id()));
        let anyone = self.acls.is_empty().then_some(("world", "anyone"));
        let acls: usize = acls.chain(anyone).map(|(scheme, id)| 12 + scheme.len() + id.len()).sum();
        let path = self.chroot.len() + path.len();
        let (size, limit) = (FRAME + path + acls + capabilities.len(), self.max_request);
        if size <= limit {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "the capabilities are too large: the request would have {size} bytes, and the \
             servers take {limit} (their jute.maxbuffer, and the option jute_maxbuffer)"
        )))
    }

    /// The servers and the chroot as the client wants them.
    pub(crate) fn connect_string(&self) -> String {
        let server = |(host, port): &(String, u16)| match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        let servers: Vec<_> = self.servers.iter().map(server).collect();
        format!("{}{}", servers.join(","), self.chroot)
    }

    /// What is made, and for whom.
    pub(crate) fn node(&self, mode: CreateMode) -> CreateOptions<'_> {
        let anyone = self.acls.is_empty();
        mode.with_acls(if anyone { Acls::anyone_all() } else { Acls::new(&self.acls) })
    }
}

/// How many bytes a path may have: a few of them fit into a request.
fn longest_path(max_request: usize) -> usize {
    LONGEST_PATH.min(max_request / 4)
}

fn servers(url: &CoordinatorUrl, options: &mut Options) -> Result<(Vec<(String, u16)>, String)> {
    let mut hosts: Vec<Host> = url.hosts().to_vec();
    let mut chroot = url.path().to_owned();
    for text in options.list("hosts") {
        // The URL's own parser knows IPv6, lists, paths, and users that we do not need here.
        let more: CoordinatorUrl = format!("zookeeper://{text}").parse()?;
        hosts.extend_from_slice(more.hosts());
        if !more.path().is_empty() {
            if !matches!(chroot.as_str(), "" | "/") && chroot != more.path() {
                return Err(Error::invalid("two different chroots are named"));
            }
            chroot = more.path().to_owned();
        }
    }
    if chroot == "/" {
        chroot.clear();
    }
    if !chroot.is_empty() {
        Keys::new(&chroot[1..], LONGEST_PATH).map_err(|error| {
            Error::invalid("the chroot is not a path").with("chroot", &chroot).caused_by(error)
        })?;
    }
    let mut servers: Vec<_> =
        hosts.into_iter().map(|host| (host.name, host.port.unwrap_or(PORT))).collect();
    if servers.is_empty() {
        servers.push(("localhost".to_owned(), PORT));
    }
    Ok((servers, chroot))
}

/// The files with the certificates, if the connections are to be in TLS.
fn tls(options: &mut Options) -> Result<Option<PemFiles>> {
    let files = PemFiles::from_options(options, PEM)?;
    if options.secret("keyfile_password").is_some() {
        return Err(Error::not_implemented("a key that is encrypted (keyfile_password)"));
    }
    if !options.flag("verify_certs", true)? {
        return Err(Error::not_implemented(
            "TLS without a look at the server's certificate (verify_certs=no; name its authority \
             with ca instead)",
        ));
    }
    match options.flag("use_ssl", false)? {
        false => Ok(None),
        true if cfg!(feature = "tls") => Ok(Some(files)),
        true => Err(Error::not_implemented("TLS (the feature tls of tooz-zookeeper)")),
    }
}

impl Login {
    fn read(url: &CoordinatorUrl, options: &mut Options) -> Result<Option<Self>> {
        let how = options.text("auth");
        let (user, password) = match (url.user(), url.password()) {
            (Some(user), Some(password)) => (user.to_owned(), password.clone()),
            (None, None) if how.is_none() => return Ok(None),
            _ => return Err(Error::invalid("a login needs both a user and a password")),
        };
        match how.as_deref() {
            None | Some("digest") => Ok(Some(Self::Digest { user, password })),
            Some("sasl") if cfg!(feature = "sasl") => Ok(Some(Self::Sasl { user, password })),
            Some("sasl") => {
                Err(Error::not_implemented("SASL (the feature sasl of tooz-zookeeper)"))
            }
            Some(_) => Err(Error::invalid("auth must be digest or sasl")),
        }
    }

    /// All permissions for whoever logs in like us.
    fn acl(&self) -> Acl {
        let id = match self {
            Self::Digest { user, password } => {
                let hash = Sha1::digest(format!("{user}:{}", password.expose()));
                AuthId::new("digest", &format!("{user}:{}", STANDARD.encode(hash)))
            }
            Self::Sasl { user, .. } => AuthId::new("sasl", user),
        };
        Acl::new(Permission::ALL, id)
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
        let config = read(
            "kazoo://u:p@a?timeout=9&namespace=n&randomize_hosts=no&use_ssl=no&verify_certs=yes\
             &hosts=b:1,[::1]:2&hosts=x:y@c/root&connection_retry=a&command_retry=b\
             &handler=threading",
        )
        .unwrap();
        assert_eq!(config.connect_string(), "a:2181,b:1,[::1]:2,c:2181/root");
        assert_eq!((config.timeout.as_secs(), config.keys.base()), (9, "/n"));
        assert!(!format!("{config:?}").contains("p@"), "{config:?}");
    }

    #[test]
    fn defaults_are_those_of_the_original() {
        let config = read("zookeeper://").unwrap();
        assert_eq!(config.connect_string(), "localhost:2181");
        assert_eq!((config.timeout.as_secs(), config.keys.base()), (10, "/tooz"));
        assert!(config.login.is_none() && config.tls.is_none() && config.acls.is_empty());
    }

    #[test]
    fn a_path_is_a_chroot() {
        assert_eq!(read("zookeeper://a,b:1/x/y").unwrap().connect_string(), "a:2181,b:1/x/y");
        assert_eq!(read("zookeeper://a/").unwrap().connect_string(), "a:2181");
        assert_eq!(read("zookeeper://a/x?hosts=b/x").unwrap().chroot, "/x");
    }

    #[test]
    fn a_login_owns_its_nodes_as_in_the_original() {
        let config = read("zookeeper://user:password@a").unwrap();
        let [acl] = &config.acls[..] else { panic!() };
        // echo -n user:password | openssl dgst -sha1 -binary | base64
        assert_eq!((acl.scheme(), acl.id()), ("digest", "user:tpUq/4Pn5A64fVZyQ0gOJ8ZWqkY="));
        let config = read("zookeeper://user:hush@a?auth=sasl").unwrap();
        assert_eq!((config.acls[0].scheme(), config.acls[0].id()), ("sasl", "user"));
        assert!(!format!("{config:?}").contains("hush"));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for refused in [
            "zookeeper://a//b",
            "zookeeper://a/b/",
            "zookeeper://a/b?hosts=c/d",
            "zookeeper://a?timeout=0.01",
            "zookeeper://a?namespace=/x",
            "zookeeper://a?handler=gevent",
            "zookeeper://u@a",
            "zookeeper://a?auth=sasl",
            "zookeeper://u:p@a?auth=kerberos",
            "zookeeper://a?verify_certs=no",
            "zookeeper://a?keyfile_password=x",
            "zookeeper://a?ca=/nowhere",
            "zookeeper://a?tiemout=1",
            "zookeeper://a?jute_maxbuffer=1023",
            "zookeeper://a?jute_maxbuffer=1m",
        ] {
            assert!(read(refused).is_err(), "{refused}");
        }
    }
}
