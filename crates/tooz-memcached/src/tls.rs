//! TLS, by rustls. Host names of certificates are always checked.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tooz_core::{Error, Options, Result};

use crate::errors;

/// How to talk TLS with the server.
#[derive(Clone)]
pub(crate) struct Tls(Arc<ClientConfig>);

impl Tls {
    /// What the options say; `None` without `use_ssl`.
    pub(crate) fn read(options: &mut Options) -> Result<Option<Self>> {
        let wanted = options.flag("use_ssl", false)?;
        let mut file = |name| match options.text(name) {
            None => Ok(None),
            Some(path) => std::fs::read(&path).map(Some).map_err(|error| {
                Error::invalid("a certificate or key cannot be read")
                    .with("option", name)
                    .with("path", path)
                    .caused_by(error)
            }),
        };
        let (authorities, certificate) = (file("ca_cert")?, file("ssl_cert")?);
        let key = file("ssl_key")?;
        if options.secret("ssl_key_password").is_some() {
            return Err(Error::invalid(
                "ssl_key_password is not supported; store the key without encryption",
            ));
        }
        if !options.flag("ssl_check_hostname", true)? {
            return Err(Error::invalid(
                "ssl_check_hostname=no is not supported; use a name of the certificate",
            ));
        }
        if !wanted {
            return Ok(None);
        }
        tooz_core::ensure_crypto_provider();
        let builder = ClientConfig::builder().with_root_certificates(roots(authorities)?);
        let config = match (certificate, key) {
            (None, None) => builder.with_no_client_auth(),
            (None, Some(_)) => {
                return Err(Error::invalid("ssl_key needs ssl_cert"));
            }
            (Some(certificate), key) => {
                // As the original's client has it: without a key, both are in one file.
                let key = key.unwrap_or_else(|| certificate.clone());
                let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| {
                    Error::invalid("ssl_key holds no key in PEM form").caused_by(error)
                })?;
                let chain = certificates(&certificate, "ssl_cert")?;
                builder.with_client_auth_cert(chain, key).map_err(|error| {
                    Error::invalid("ssl_cert and ssl_key are not usable").caused_by(error)
                })?
            }
        };
        Ok(Some(Self(Arc::new(config))))
    }

    pub(crate) async fn connect(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(|error| {
            Error::invalid("the host is no name that a certificate can have").caused_by(error)
        })?;
        TlsConnector::from(self.0.clone()).connect(name, stream).await.map_err(errors::refused)
    }
}

/// The authorities named, or those of the system.
fn roots(named: Option<Vec<u8>>) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let authorities = match named {
        Some(pem) => certificates(&pem, "ca_cert")?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    roots.add_parsable_certificates(authorities);
    if roots.is_empty() {
        return Err(Error::invalid("no authority to trust; name one with ca_cert"));
    }
    Ok(roots)
}

fn certificates(pem: &[u8], option: &'static str) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(|error| {
        Error::invalid("a file holds no certificates in PEM form")
            .with("option", option)
            .caused_by(error)
    })
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}
