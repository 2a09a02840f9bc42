//! TLS, which is the client's affair; and why a handshake fails, which the client does not tell.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription as Alert, Error as Cause};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tooz_core::kit::{PemFile, PemFiles};
use tooz_core::{Error, ErrorKind, Result};
use zookeeper_client::TlsOptions;

/// How long to listen for what a server says after a handshake.
const LISTEN: Duration = Duration::from_millis(300);

/// The client's form of the files. They are read again for each session: certificates are renewed.
pub(crate) async fn options(files: &PemFiles) -> Result<TlsOptions> {
    // It names what is not usable.
    files.client_config_now().await?;
    let unusable = |cause| Error::invalid("the certificates cannot be used").caused_by(cause);
    let authorities = files.authorities.as_ref().map_or_else(|| Ok(system_authorities()), text)?;
    let options = TlsOptions::new().with_pem_ca(&authorities).map_err(unusable)?;
    match &files.identity {
        Some((certificate, key)) => {
            options.with_pem_identity(&text(certificate)?, &text(key)?).map_err(unusable)
        }
        None => Ok(options),
    }
}

fn text(file: &PemFile) -> Result<String> {
    Ok(String::from_utf8_lossy(&file.read()?).into_owned())
}

/// Whose certificate is refused by whom, if that is why there is no TLS with a server.
pub(crate) async fn diagnose(files: &PemFiles, host: &str, stream: TcpStream) -> Option<Error> {
    let name = ServerName::try_from(host.to_owned()).ok()?;
    let config = files.client_config_now().await.ok()?;
    let error = match TlsConnector::from(Arc::new(config)).connect(name, stream).await {
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
            "the server requires a client certificate: see the option certfile"
        }
        Some(Cause::AlertReceived(_)) if files.identity.is_some() => {
            "the server refuses TLS with us; the certificate that certfile names may be the reason"
        }
        Some(Cause::AlertReceived(_)) => {
            "the server refuses TLS with us; it may require a client certificate (option certfile)"
        }
        _ => return None,
    };
    Some(Error::new(ErrorKind::Connection, message).caused_by(error))
}

/// The client reads PEM alone, and has no authorities by itself.
fn system_authorities() -> String {
    let certificates = rustls_native_certs::load_native_certs().certs;
    let pem = |der: &[u8]| {
        let body = STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    };
    certificates.iter().map(|certificate| pem(certificate)).collect()
}
