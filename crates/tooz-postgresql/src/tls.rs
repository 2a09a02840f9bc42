//! TLS by the names that libpq gives its modes.

use std::io;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use tooz_core::{Error, Options, Result, ensure_crypto_provider};

use crate::errors::{no_tls, unreachable};

/// How much of TLS is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SslMode {
    Disable,
    /// If the server has it. It protects from those who listen, not from one that stands between.
    Prefer,
    Require,
    /// By an authority that we trust, for whatever name.
    VerifyCa,
    VerifyFull,
}

/// What is asked for. The files are read again for each connection, so that what was rotated
/// counts from the next one on.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    pub(crate) mode: SslMode,
    authorities: Option<String>,
    /// The files of our own certificate and its key.
    identity: Option<(String, String)>,
}

impl Tls {
    /// Reads the options, and the files once, so that an error is reported at once.
    pub(crate) fn read(options: &mut Options) -> Result<Self> {
        let mode = match options.text("sslmode").as_deref() {
            None | Some("prefer") => SslMode::Prefer,
            Some("disable") => SslMode::Disable,
            Some("require") => SslMode::Require,
            Some("verify-ca") => SslMode::VerifyCa,
            Some("verify-full") => SslMode::VerifyFull,
            Some(_) => {
                return Err(Error::invalid(
                    "the sslmode must be disable, prefer, require, verify-ca or verify-full",
                ));
            }
        };
        let authorities = options.text("sslrootcert");
        let identity = match (options.text("sslcert"), options.text("sslkey")) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) => return Err(Error::invalid("sslcert needs sslkey")),
            (None, Some(_)) => return Err(Error::invalid("sslkey needs sslcert")),
        };
        // As libpq has it: whoever names an authority wants it to be asked.
        let mode = match (mode, &authorities) {
            (SslMode::Require, Some(_)) => SslMode::VerifyCa,
            (mode, _) => mode,
        };
        let tls = Self { mode, authorities, identity };
        tls.client()?;
        Ok(tls)
    }

    /// The client's side, unless the mode is `disable`. Reads the files.
    pub(crate) fn client(&self) -> Result<Option<Arc<ClientConfig>>> {
        let roots = match self.authorities.as_deref() {
            None | Some("system") if self.mode < SslMode::VerifyCa => RootCertStore::empty(),
            None | Some("system") => system_authorities()?,
            Some(path) => authorities_in(path)?,
        };
        if self.mode == SslMode::Disable {
            return Ok(None);
        }
        ensure_crypto_provider();
        let provider = CryptoProvider::get_default().cloned();
        let provider = provider.ok_or_else(|| Error::invalid("there is no TLS provider"))?;
        let verifier = Verifier { mode: self.mode, chain: chain(roots, &provider)?, provider };
        let config = ClientConfig::builder()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let config = match &self.identity {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates(certificate, "sslcert")?;
                let key_of = PrivateKeyDer::from_pem_file(key);
                let key = key_of.map_err(|e| unreadable("sslkey", key).caused_by(e))?;
                config
                    .with_client_auth_cert(chain, key)
                    .map_err(|e| Error::invalid("sslcert and sslkey do not match").caused_by(e))?
            }
        };
        Ok(Some(Arc::new(config)))
    }
}

impl PartialOrd for SslMode {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        (*self as u8).partial_cmp(&(*other as u8))
    }
}

fn unreadable(option: &'static str, path: &str) -> Error {
    Error::invalid("a certificate or key cannot be read").with("option", option).with("path", path)
}

fn certificates(path: &str, option: &'static str) -> Result<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| unreadable(option, path).caused_by(e))?;
    if certificates.is_empty() { Err(unreadable(option, path)) } else { Ok(certificates) }
}

fn authorities_in(path: &str) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, "sslrootcert")? {
        roots.add(certificate).map_err(|e| unreadable("sslrootcert", path).caused_by(e))?;
    }
    Ok(roots)
}

fn system_authorities() -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(Error::invalid("the system trusts no authority; name one with sslrootcert"));
    }
    Ok(roots)
}

fn chain(
    roots: RootCertStore,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<WebPkiServerVerifier>>> {
    if roots.is_empty() {
        return Ok(None);
    }
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
    verifier.map(Some).map_err(|e| Error::invalid("sslrootcert cannot be used").caused_by(e))
}

/// Checks a server's certificate as far as the mode asks for.
#[derive(Debug)]
struct Verifier {
    mode: SslMode,
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain = match &self.chain {
            Some(chain) if self.mode >= SslMode::VerifyCa => chain,
            _ => return Ok(ServerCertVerified::assertion()),
        };
        match chain.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            // The name is looked at last: all else is well.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.mode == SslMode::VerifyCa => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// What asks a server for TLS: the length of the request, and its code.
const REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Makes a connection an encrypted one, if the server has TLS or `mode` needs it.
pub(crate) async fn encrypt<S>(
    mut socket: S,
    mode: SslMode,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
) -> Result<Either<TlsStream<S>, S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    socket.write_all(&REQUEST).await.map_err(unreachable)?;
    match socket.read_u8().await.map_err(unreachable)? {
        b'S' => {
            let encrypted = TlsConnector::from(config).connect(name, socket).await;
            encrypted.map(Either::Left).map_err(no_tls)
        }
        _ if mode == SslMode::Prefer => Ok(Either::Right(socket)),
        _ => Err(no_tls(io::Error::other("the server has none"))),
    }
}
