//! A socket to one server, TLS and the log-in over it.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use sqlx::ConnectOptions as _;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlSslMode};
use tooz_core::{Error, ErrorKind, Outcome, Result};

use crate::config::{Address, Config, TlsMode};
use crate::errors::Failure;

/// A connection that is logged in.
pub(crate) async fn open(config: &Config, address: &Address) -> Result<MySqlConnection> {
    tooz_core::ensure_crypto_provider();
    let options = options(config, address);
    let connecting = well_formed(async { Ok(options.connect().await?) });
    match tokio::time::timeout(config.connect_timeout, connecting).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(failure)) => Err(refused(failure, address)),
        Err(_) => Err(refused_as(silent(config.connect_timeout), address)),
    }
}

fn options(config: &Config, address: &Address) -> MySqlConnectOptions {
    let mut options = MySqlConnectOptions::new()
        .database(&config.database)
        .ssl_mode(match config.tls.mode {
            TlsMode::Disabled => MySqlSslMode::Disabled,
            TlsMode::Preferred => MySqlSslMode::Preferred,
            TlsMode::Required => MySqlSslMode::Required,
            TlsMode::VerifyCa => MySqlSslMode::VerifyCa,
            TlsMode::VerifyIdentity => MySqlSslMode::VerifyIdentity,
        })
        // None of these settings matters to our statements, and each costs a round trip.
        .pipes_as_concat(false)
        .no_engine_substitution(false)
        .timezone(None)
        .set_names(false)
        .disable_statement_logging();
    options = match address {
        Address::Tcp(host, port) => options.host(host).port(*port),
        Address::Unix(path) => options.socket(path),
    };
    if let Some(user) = &config.user {
        options = options.username(user);
    }
    if let Some(password) = &config.password {
        options = options.password(password.expose());
    }
    if let Some(authorities) = &config.tls.files.authorities {
        options = options.ssl_ca(authorities.path());
    }
    if let Some((certificate, key)) = &config.tls.files.identity {
        options = options.ssl_client_cert(certificate.path()).ssl_client_key(key.path());
    }
    options
}

fn refused(failure: Failure, address: &Address) -> Error {
    if failure.to_string().contains("rsa") {
        // A password is not sent where it could be read.
        let message = "the server wants the password, which is not sent without TLS: use \
                       ssl_mode=required, and let the server have TLS";
        let error = Error::new(ErrorKind::Authentication, message).caused_by(failure);
        return refused_as(error, address);
    }
    let error = match failure {
        Failure::Client(sqlx::Error::Io(error)) => {
            Error::new(ErrorKind::Connection, "could not connect").caused_by(error)
        }
        failure => failure.into(),
    };
    refused_as(error, address)
}

pub(crate) fn silent(limit: Duration) -> Error {
    let seconds = limit.as_secs_f64();
    Error::new(ErrorKind::TimedOut, format!("the server does not answer within {seconds} s"))
}

pub(crate) fn refused_as(error: Error, address: &Address) -> Error {
    let error = error.outcome_is(Outcome::NotApplied);
    match address {
        Address::Tcp(host, port) => error.with("server", format!("{host}:{port}")),
        Address::Unix(path) => error.with("server", path),
    }
}

/// The client library panics on some answers that it cannot read.
pub(crate) async fn well_formed<T>(
    request: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    // Nothing of it is used after a panic: the connection is dropped.
    AssertUnwindSafe(request).catch_unwind().await.unwrap_or(Err(Failure::Malformed))
}
