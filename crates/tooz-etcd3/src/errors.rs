//! What the client library's errors mean.

use std::error::Error as StdError;
use std::fmt;

use tonic::{Code, ConnectError, Status};
use tooz_core::kit::find_cause;
use tooz_etcd3_core::Failure;

pub(crate) fn from_status(status: Status) -> Failure {
    // What the library says of an answer that is above our limit.
    if status.code() == Code::OutOfRange && status.message().contains("message length too large") {
        return Failure::too_large(status.message());
    }
    // What the server says has no cause here.
    if status.source().is_none() {
        return Failure::status(status.code() as i32, status.message());
    }
    if is_refusal(&status) {
        return Failure::untrusted(Lost(status));
    }
    match find_cause::<ConnectError>(&status) {
        Some(_) => Failure::unreachable(Lost(status)),
        None => Failure::broken(Lost(status)),
    }
}

/// A status that the client library made of an error underneath, whose parts it all shows at once.
#[derive(Debug)]
struct Lost(Status);

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.message())
    }
}

impl StdError for Lost {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

pub(crate) fn from_connect(error: impl StdError + Send + Sync + 'static) -> Failure {
    if is_refusal(&error) { Failure::untrusted(error) } else { Failure::unreachable(error) }
}

/// Whether one side refused the other's certificate: trying again helps nobody.
#[cfg(feature = "tls")]
fn is_refusal(error: &(dyn StdError + 'static)) -> bool {
    use rustls::AlertDescription::*;
    match find_cause::<rustls::Error>(error) {
        Some(rustls::Error::InvalidCertificate(_)) => true,
        Some(rustls::Error::AlertReceived(alert)) => matches!(
            alert,
            CertificateRequired
                | BadCertificate
                | UnsupportedCertificate
                | CertificateRevoked
                | CertificateExpired
                | CertificateUnknown
                | UnknownCA
                | AccessDenied
        ),
        _ => false,
    }
}

#[cfg(not(feature = "tls"))]
fn is_refusal(_: &(dyn StdError + 'static)) -> bool {
    false
}
