use std::path::{Path, PathBuf};

use crate::{Error, Options, Result};

/// The options that name a driver's certificates.
#[derive(Clone, Copy, Debug)]
pub struct PemOptions {
    /// The option for the authorities to trust instead of the system's.
    pub authorities: &'static str,
    /// The option for our own certificate.
    pub certificate: &'static str,
    /// The option for its key.
    pub key: &'static str,
    /// Whether the key may be in the certificate's file.
    pub one_file: bool,
}

/// The files of the certificates that TLS uses. They are read again for each connection, so a
/// rotated certificate is used from the next one on.
#[derive(Clone, Debug)]
pub struct PemFiles {
    /// Trusted instead of the system's authorities.
    pub authorities: Option<PemFile>,
    /// Our own certificate and its key.
    pub identity: Option<(PemFile, PemFile)>,
    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "for what only TLS finds wrong"))]
    options: PemOptions,
}

/// A file with certificates or a key in PEM form.
#[derive(Clone, Debug)]
pub struct PemFile {
    option: &'static str,
    path: PathBuf,
}

impl PemFiles {
    /// Reads the options, and the files once, so that a missing one is reported at once.
    pub fn from_options(options: &mut Options, names: PemOptions) -> Result<Self> {
        let mut file = |option| -> Result<Option<PemFile>> {
            let file = options.text(option).map(|path| PemFile { option, path: path.into() });
            if let Some(file) = &file {
                file.read()?;
            }
            Ok(file)
        };
        let PemOptions { certificate, key, .. } = names;
        let identity = match (file(certificate)?, file(key)?) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (Some(both), None) if names.one_file => Some((both.clone(), both)),
            (Some(_), None) => return Err(Error::invalid(format!("{certificate} needs {key}"))),
            (None, Some(_)) => return Err(Error::invalid(format!("{key} needs {certificate}"))),
            (None, None) => None,
        };
        Ok(Self { authorities: file(names.authorities)?, identity, options: names })
    }

    /// Whether any file is named.
    pub fn are_named(&self) -> bool {
        self.authorities.is_some() || self.identity.is_some()
    }
}

impl PemFile {
    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its present content.
    pub fn read(&self) -> Result<Vec<u8>> {
        std::fs::read(&self.path)
            .map_err(|error| self.error("a certificate or key cannot be read").caused_by(error))
    }

    /// An error about it.
    pub fn error(&self, message: &'static str) -> Error {
        Error::invalid(message).with("option", self.option).with("path", self.path.display())
    }
}

/// With `rustls`, which all drivers use that speak TLS themselves.
#[cfg(feature = "tls")]
mod client {
    use std::io;
    use std::sync::Arc;

    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use rustls::{ClientConfig, RootCertStore};
    use tokio::io::{AsyncRead, AsyncWrite};
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;

    use super::*;
    use crate::{ErrorKind, ensure_crypto_provider};

    impl PemFiles {
        /// The client's side of TLS, which checks the server's name. Reads the files.
        pub fn client_config(&self) -> Result<ClientConfig> {
            ensure_crypto_provider();
            let builder = ClientConfig::builder().with_root_certificates(self.roots()?);
            let Some((certificate, key)) = &self.identity else {
                return Ok(builder.with_no_client_auth());
            };
            builder.with_client_auth_cert(certificate.certificates()?, key.key()?).map_err(
                |error| {
                    let PemOptions { certificate, key, .. } = self.options;
                    Error::invalid(format!("{certificate} and {key} are not usable together"))
                        .caused_by(error)
                },
            )
        }

        /// The same for a connection that is about to be opened: the files may be on a slow disk, so
        /// they are not read on the runtime's thread. A file that is just being replaced is complete a
        /// moment later, so an error is retryable.
        pub async fn client_config_now(&self) -> Result<ClientConfig> {
            let files = self.clone();
            let read = tokio::task::spawn_blocking(move || files.client_config()).await;
            read.map_err(|error| {
                Error::new(ErrorKind::Internal, "TLS is not set up").caused_by(error)
            })?
            .map_err(|error| error.retryable(true))
        }

        /// Speaks TLS on a stream to `host`, whose name the server's certificate must have, with the
        /// files as they are [now](Self::client_config_now). The inner error is that of the
        /// handshake, which each driver reports in its own way.
        ///
        /// # Errors
        /// If the files or the name cannot be used. Nothing was sent then.
        pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
            &self,
            host: &str,
            stream: S,
        ) -> Result<io::Result<TlsStream<S>>> {
            let name = ServerName::try_from(host.to_owned()).map_err(|error| {
                Error::invalid("the host is not a name that a certificate can have")
                    .caused_by(error)
            })?;
            let connector = TlsConnector::from(Arc::new(self.client_config_now().await?));
            Ok(connector.connect(name, stream).await)
        }

        /// The authorities named, or those of the system.
        pub fn roots(&self) -> Result<RootCertStore> {
            let authorities = match &self.authorities {
                Some(file) => file.certificates()?,
                None => rustls_native_certs::load_native_certs().certs,
            };
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(authorities);
            if roots.is_empty() {
                return Err(Error::invalid(format!(
                    "there is no authority to trust; name one with {}",
                    self.options.authorities
                )));
            }
            Ok(roots)
        }
    }

    impl PemFile {
        /// Its certificates, of which there is at least one.
        pub fn certificates(&self) -> Result<Vec<CertificateDer<'static>>> {
            let read = CertificateDer::pem_slice_iter(&self.read()?).collect::<Result<Vec<_>, _>>();
            let wrong = || self.error("a file holds no certificates in PEM form");
            let certificates = read.map_err(|error| wrong().caused_by(error))?;
            if certificates.is_empty() { Err(wrong()) } else { Ok(certificates) }
        }

        /// Its private key.
        pub fn key(&self) -> Result<PrivateKeyDer<'static>> {
            PrivateKeyDer::from_pem_slice(&self.read()?).map_err(|error| {
                self.error("a file holds no unencrypted key in PEM form").caused_by(error)
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CoordinatorUrl;

    const NAMES: PemOptions =
        PemOptions { authorities: "ca", certificate: "cert", key: "key", one_file: false };

    fn read(query: &str, one_file: bool) -> Result<PemFiles> {
        let url: CoordinatorUrl = format!("redis://h?{query}").parse()?;
        PemFiles::from_options(&mut Options::of(&url), PemOptions { one_file, ..NAMES })
    }

    #[test]
    fn a_certificate_and_its_key_belong_together() {
        let file = std::env::temp_dir().join(format!("tooz-kit-pem-{}", std::process::id()));
        std::fs::write(&file, "PEM").unwrap();
        let pem = file.display();
        assert!(!read("", false).unwrap().are_named());
        let files = read(&format!("ca={pem}&cert={pem}&key={pem}"), false).unwrap();
        assert!(files.are_named() && files.identity.is_some());
        assert_eq!(files.authorities.unwrap().read().unwrap(), b"PEM");
        assert!(read(&format!("cert={pem}"), true).unwrap().identity.is_some());
        for (query, expected) in [("cert", "cert needs key"), ("key", "key needs cert")] {
            let error = read(&format!("{query}={pem}"), false).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
        std::fs::remove_file(file).unwrap();
    }

    #[test]
    fn a_file_that_is_not_there_is_named_at_once() {
        let error = read("ca=/nowhere", false).unwrap_err().to_string();
        assert!(error.contains("option=ca, path=/nowhere"), "{error}");
    }

    #[cfg(feature = "tls")]
    #[test]
    fn what_is_no_certificate_is_named() {
        let file = std::env::temp_dir().join(format!("tooz-kit-no-pem-{}", std::process::id()));
        std::fs::write(&file, "nothing of the kind").unwrap();
        let pem = file.display();
        let error = read(&format!("ca={pem}"), false).unwrap().client_config().unwrap_err();
        assert!(error.to_string().contains("no certificates in PEM form (option=ca"), "{error}");
        std::fs::remove_file(file).unwrap();
    }
}
