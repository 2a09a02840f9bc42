//! The one TLS provider of all drivers.

/// Installs the process-wide TLS provider, unless the application has installed its own.
///
/// `rustls` needs exactly one, and the backends' clients disagree on which: with several of them in
/// one program and none installed, some panic on their first connection. Every driver that speaks
/// TLS calls this before it connects.
pub fn ensure_crypto_provider() {
    // An error means that there is one already, which is what we want.
    drop(rustls::crypto::ring::default_provider().install_default());
}
