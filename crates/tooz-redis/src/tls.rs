//! TLS, by rustls. Host names of certificates are always checked.

use std::io;
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tooz_core::{Error, ErrorKind, Result};

use crate::config::Tls;
use crate::errors::not_connected;

pub(crate) async fn connect(
    tls: &Tls,
    host: &str,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(host.to_owned()).map_err(|error| {
        Error::invalid("the host is no name that a certificate can have").caused_by(error)
    })?;
    let tls = tls.clone();
    // Files may be far away.
    let client = tokio::task::spawn_blocking(move || client(&tls)).await;
    let client = client
        .map_err(|error| Error::new(ErrorKind::Internal, "TLS is not set up").caused_by(error))?;
    // A file that is replaced just now is whole in a moment.
    let connector = TlsConnector::from(Arc::new(client.map_err(|error| error.retryable(true))?));
    connector.connect(name, stream).await.map_err(|error: io::Error| not_connected(error.into()))
}

/// The client's side. Reads the files, so that what was rotated counts from the next connection on.
pub(crate) fn client(tls: &Tls) -> Result<ClientConfig> {
    tooz_core::ensure_crypto_provider();
    let authorities = match &tls.authorities {
        Some(path) => certificates(path, "ssl_ca_certs")?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(authorities);
    if roots.is_empty() {
        return Err(Error::invalid("no authority to trust; name one with ssl_ca_certs"));
    }
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let Some((certificate, key)) = &tls.identity else { return Ok(builder.with_no_client_auth()) };
    let key = PrivateKeyDer::from_pem_file(key).map_err(|e| unreadable("ssl_keyfile", key, e))?;
    builder.with_client_auth_cert(certificates(certificate, "ssl_certfile")?, key).map_err(
        |error| Error::invalid("ssl_certfile and ssl_keyfile are not usable").caused_by(error),
    )
}

fn certificates(path: &str, option: &'static str) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unreadable(option, path, error))
}

fn unreadable(option: &'static str, path: &str, error: pem::Error) -> Error {
    Error::invalid("a certificate or key cannot be read")
        .with("option", option)
        .with("path", path)
        .caused_by(error)
}
