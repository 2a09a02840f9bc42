//! TLS by rustls.

use std::error::Error as StdError;
use std::sync::Arc;

use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, ClientConfig, RootCertStore};
use tooz_core::kit::find_cause;
use tooz_core::{Error, ErrorKind, Outcome, Result, ensure_crypto_provider};

use crate::settings::Tls;

/// Connections over `http`, in TLS if there are certificates or the system's authorities are to do.
pub(crate) fn connector(
    http: HttpConnector,
    tls: Option<&Tls>,
) -> Result<HttpsConnector<HttpConnector>> {
    let Some(tls) = tls else {
        // Nothing is ever asked of it: the URLs are plain ones.
        let unused = config(RootCertStore::empty(), None)?;
        let builder = HttpsConnectorBuilder::new().with_tls_config(unused).https_or_http();
        return Ok(builder.enable_http1().wrap_connector(http));
    };
    let config = config(authorities(tls)?, tls.identity.as_ref())?;
    let mut builder = HttpsConnectorBuilder::new().with_tls_config(config).https_only();
    if let Some(name) = &tls.server_name {
        let name = ServerName::try_from(name.clone())
            .map_err(|e| Error::invalid("the TLS server name is not a host's name").caused_by(e))?;
        builder = builder.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    Ok(builder.enable_http1().wrap_connector(http))
}

fn config(roots: RootCertStore, identity: Option<&(Vec<u8>, Vec<u8>)>) -> Result<ClientConfig> {
    ensure_crypto_provider();
    let builder = ClientConfig::builder().with_root_certificates(Arc::new(roots));
    let Some((chain, key)) = identity else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates(chain, "the client certificate")?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|e| Error::invalid("the client key is not an unencrypted PEM key").caused_by(e))?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|e| Error::invalid("the client certificate and key do not match").caused_by(e))
}

fn authorities(tls: &Tls) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let Some(pem) = &tls.authorities else {
        let found = rustls_native_certs::load_native_certs();
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            return Err(Error::invalid(
                "the system has no certificate authorities; name a file with those to trust",
            ));
        }
        return Ok(roots);
    };
    for certificate in certificates(pem, "the file of authorities")? {
        roots.add(certificate).map_err(|e| {
            Error::invalid("a certificate authority's certificate is not valid").caused_by(e)
        })?;
    }
    Ok(roots)
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let certificates =
        read.map_err(|e| Error::invalid(format!("{what} is not in PEM form")).caused_by(e))?;
    if certificates.is_empty() {
        return Err(Error::invalid(format!("{what} has no certificate in PEM form")));
    }
    Ok(certificates)
}

/// The error if one side refused the other's certificate: trying again helps nobody.
pub(crate) fn refusal(error: &(dyn StdError + 'static)) -> Option<Error> {
    let message = match find_cause::<rustls::Error>(error)? {
        rustls::Error::InvalidCertificate(_) => "the server's certificate is not trusted",
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired => "the server demands a client certificate",
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied => "the server refused the client certificate",
            _ => return None,
        },
        _ => return None,
    };
    Some(Error::new(ErrorKind::Authentication, message).outcome_is(Outcome::NotApplied))
}
