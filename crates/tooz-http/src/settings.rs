use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use tooz_core::{Error, Result, Secret};

/// Where to connect, and as whom.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) tls: Option<Tls>,
    pub(crate) tls_files: TlsFiles,
    /// Sent with every request. The values may be secrets, and are marked so.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) connect_timeout: Duration,
    pub(crate) response_timeout: Duration,
    pub(crate) most_idle: usize,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    host: String,
    port: u16,
}

/// Certificates in PEM form.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// The authorities trusted instead of those of the system.
    pub authorities: Option<Vec<u8>>,
    /// Our own certificate and its key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name that the server's certificate must have, if it is not the host of the URL.
    pub server_name: Option<String>,
}

/// Where certificates in PEM form come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The file of [`Tls::authorities`].
    pub authorities: Option<PathBuf>,
    /// The files of [`Tls::identity`].
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl TlsFiles {
    /// What stands in the files now.
    pub(crate) fn read(&self, server_name: Option<String>) -> std::io::Result<Tls> {
        let authorities = self.authorities.as_ref().map(std::fs::read).transpose()?;
        let identity = match &self.identity {
            Some((certificate, key)) => Some((std::fs::read(certificate)?, std::fs::read(key)?)),
            None => None,
        };
        Ok(Tls { authorities, identity, server_name })
    }
}

impl Settings {
    /// Plain HTTP to these, with 5 s to connect and 10 s to answer.
    pub fn new(endpoints: Vec<Endpoint>) -> Self {
        Self {
            endpoints,
            tls: None,
            tls_files: TlsFiles::default(),
            headers: Vec::new(),
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(10),
            most_idle: usize::MAX,
        }
    }

    /// Speaks TLS with these certificates.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Looks at these files again, once a second while anything is asked, so that a rotation of
    /// certificates needs no restart. What cannot be read or used is not taken: half a rotation
    /// harms nobody.
    #[must_use]
    pub fn tls_files(mut self, files: TlsFiles) -> Self {
        self.tls_files = files;
        self
    }

    /// How long the TCP connection may take, for each endpoint.
    #[must_use]
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// How long an attempt may take from the request to the whole answer, unless the request says
    /// otherwise.
    #[must_use]
    pub fn response_timeout(mut self, limit: Duration) -> Self {
        self.response_timeout = limit;
        self
    }

    /// How many connections to each endpoint are kept while nobody uses them; all by default.
    #[must_use]
    pub fn most_idle(mut self, connections: usize) -> Self {
        self.most_idle = connections;
        self
    }

    /// Sends a header with every request. Its value is never shown.
    pub fn header(mut self, name: &'static str, value: &Secret) -> Result<Self> {
        self.headers.push((HeaderName::from_static(name), secret_value(name, value.expose())?));
        Ok(self)
    }

    /// Sends a user and a password with every request (HTTP basic authentication).
    pub fn basic_auth(mut self, user: &str, password: &Secret) -> Result<Self> {
        let login = STANDARD.encode(format!("{user}:{}", password.expose()));
        let value = secret_value("authorization", &format!("Basic {login}"))?;
        self.headers.push((AUTHORIZATION, value));
        Ok(self)
    }
}

/// A header's value that is never printed.
pub(crate) fn secret_value(name: &str, value: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(value).map_err(|_| {
        Error::invalid("a header's value has a character that HTTP does not allow")
            .with("header", name)
    })?;
    value.set_sensitive(true);
    Ok(value)
}

impl Endpoint {
    /// A server at a name or address (IPv6 without brackets) and a port.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }

    /// Its name or address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("authorities", &self.authorities.is_some())
            .field("identity", &self.identity.is_some())
            .field("server_name", &self.server_name)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_shown() {
        let settings = Settings::new(vec![Endpoint::new("::1", 2379)])
            .tls(Tls { identity: Some((b"cert".to_vec(), b"hush".to_vec())), ..Tls::default() })
            .header("x-consul-token", &Secret::new("hush"))
            .and_then(|settings| settings.basic_auth("root", &Secret::new("hush")))
            .unwrap();
        let shown = format!("{settings:?}");
        let login = STANDARD.encode("root:hush");
        assert!(!shown.contains("hush") && !shown.contains(&login), "{shown}");
        assert_eq!(settings.headers[1].1, format!("Basic {login}"));
        assert_eq!(settings.endpoints[0].to_string(), "[::1]:2379");
    }

    #[test]
    fn a_header_with_a_line_break_is_refused() {
        let settings = Settings::new(Vec::new());
        let error = settings.header("x-consul-token", &Secret::new("a\r\nb")).unwrap_err();
        assert!(error.to_string().contains("x-consul-token"), "{error}");
    }
}
