//! TLS, which is the client's affair; and why a handshake fails, which the client does not tell.

use std::fmt;
#[cfg(feature = "tls")]
use std::{io, sync::Arc};

use tooz_core::{Error, Options, Result};

/// Certificates in PEM form.
#[derive(Clone)]
#[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "refused without the feature"))]
pub(crate) struct Tls {
    /// Trusted instead of those of the system.
    authorities: Option<File>,
    /// Our own certificate and its key.
    identity: Option<(File, File)>,
}

/// Read anew for each session: certificates are renewed.
#[derive(Clone)]
struct File {
    option: &'static str,
    path: String,
}

impl File {
    fn read(&self) -> Result<String> {
        std::fs::read_to_string(&self.path)
            .map_err(|e| self.error("a certificate or key cannot be read").caused_by(e))
    }

    fn error(&self, message: &'static str) -> Error {
        Error::invalid(message).with("option", self.option).with("path", &self.path)
    }
}

impl Tls {
    pub(crate) fn read(options: &mut Options) -> Result<Option<Self>> {
        let mut file = |option| {
            let file = options.text(option).map(|path| File { option, path });
            file.map(|file| file.read().map(|_| file)).transpose()
        };
        let (certificate, key) = (file("certfile")?, file("keyfile")?);
        let authorities = file("ca")?;
        let identity = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            // As the original's client has it: one file for both.
            (Some(both), None) => Some((both.clone(), both)),
            (None, Some(_)) => return Err(Error::invalid("keyfile needs certfile")),
            (None, None) => None,
        };
        if options.secret("keyfile_password").is_some() {
            return Err(Error::not_implemented("a key that is encrypted (keyfile_password)"));
        }
        if !options.flag("verify_certs", true)? {
            return Err(Error::not_implemented(
                "TLS without a look at the server's certificate (verify_certs=no; name its \
                 authority with ca instead)",
            ));
        }
        match options.flag("use_ssl", false)? {
            false => Ok(None),
            true if cfg!(feature = "tls") => Ok(Some(Self { authorities, identity })),
            true => Err(Error::not_implemented("TLS (the feature tls of tooz-zookeeper)")),
        }
    }
}

#[cfg(feature = "tls")]
impl Tls {
    /// The same for the client.
    pub(crate) fn options(&self) -> Result<zookeeper_client::TlsOptions> {
        // It names what is not usable.
        self.client()?;
        let unusable = |cause| Error::invalid("the certificates are not usable").caused_by(cause);
        let mut options = zookeeper_client::TlsOptions::new();
        options = options.with_pem_ca(&self.authorities()?).map_err(unusable)?;
        if let Some((certificate, key)) = &self.identity {
            let pems = (certificate.read()?, key.read()?);
            options = options.with_pem_identity(&pems.0, &pems.1).map_err(unusable)?;
        }
        Ok(options)
    }

    fn authorities(&self) -> Result<String> {
        self.authorities.as_ref().map_or_else(|| Ok(system_authorities()), File::read)
    }

    /// Whose certificate is refused by whom, if that is why there is no TLS with a server.
    pub(crate) async fn diagnose(
        &self,
        host: &str,
        stream: tokio::net::TcpStream,
    ) -> Option<Error> {
        use rustls::{AlertDescription as Alert, Error as Cause};
        use tokio::io::AsyncReadExt as _;

        let name = rustls::pki_types::ServerName::try_from(host.to_owned()).ok()?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(self.client().ok()?));
        let error = match connector.connect(name, stream).await {
            Err(error) => error,
            // A server that wants another certificate of ours says so after the handshake.
            Ok(mut stream) => {
                let said = tokio::time::timeout(LISTEN, stream.read_u8()).await;
                said.ok()?.err().filter(|error| error.kind() != io::ErrorKind::UnexpectedEof)?
            }
        };
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<Cause>());
        let message = match cause {
            Some(Cause::InvalidCertificate(_)) => {
                "the server's certificate is refused: its authority must be in the file that the \
                 option ca names (or the system's), and it must be for this host and this time"
            }
            Some(Cause::AlertReceived(Alert::CertificateRequired)) => {
                "the server wants a certificate of ours, which the option certfile names"
            }
            Some(Cause::AlertReceived(_)) if self.identity.is_some() => {
                "the server refuses TLS with us; it may be the certificate that certfile names"
            }
            Some(Cause::AlertReceived(_)) => {
                "the server refuses TLS with us; it may want a certificate (option certfile)"
            }
            _ => return None,
        };
        Some(Error::new(tooz_core::ErrorKind::Connection, message).caused_by(error))
    }

    /// What the client has, for a handshake of ours.
    fn client(&self) -> Result<rustls::ClientConfig> {
        use rustls::pki_types::pem::PemObject as _;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};

        let read = |pem: &str| -> Vec<_> {
            CertificateDer::pem_slice_iter(pem.as_bytes()).flatten().collect()
        };
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(read(&self.authorities()?));
        if roots.is_empty() {
            return Err(match &self.authorities {
                Some(file) => file.error("no certificate in PEM form is in the file"),
                None => Error::invalid("the system trusts no authority; name one by ca"),
            });
        }
        let config = rustls::ClientConfig::builder().with_root_certificates(roots);
        let Some((certificate, key)) = &self.identity else {
            return Ok(config.with_no_client_auth());
        };
        let secret = PrivateKeyDer::from_pem_slice(key.read()?.as_bytes())
            .map_err(|e| key.error("no key in PEM form is in the file").caused_by(e))?;
        config.with_client_auth_cert(read(&certificate.read()?), secret).map_err(|e| {
            certificate.error("no certificate in PEM form to the key is in the file").caused_by(e)
        })
    }
}

/// How long to listen for what a server says after a handshake.
#[cfg(feature = "tls")]
const LISTEN: std::time::Duration = std::time::Duration::from_millis(300);

/// The client reads PEM alone, and has no authorities by itself.
#[cfg(feature = "tls")]
fn system_authorities() -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    let certificates = rustls_native_certs::load_native_certs().certs;
    let pem = |der: &[u8]| {
        let body = STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    };
    certificates.iter().map(|certificate| pem(certificate)).collect()
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("authorities", &self.authorities.is_some())
            .field("identity", &self.identity.is_some())
            .finish()
    }
}
