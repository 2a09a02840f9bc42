//! Sentinels with a password and TLS of their own: `TOOZ_TEST_URL_REDIS_TLS` names a server whose
//! certificates are used.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod server;

use std::path::Path;

use server::{Folder, Server, build, free_port, start};
use tooz_core::{ErrorKind, Result};

/// The address of the server that was named, and its options.
fn other() -> Option<(String, String)> {
    let Ok(url) = std::env::var("TOOZ_TEST_URL_REDIS_TLS") else {
        eprintln!("not asked for: TOOZ_TEST_URL_REDIS_TLS is not set");
        return None;
    };
    url.split_once('?').map(|(address, options)| (address.to_owned(), options.to_owned()))
}

fn option(options: &str, name: &str) -> String {
    let value = options.split('&').find_map(|o| o.strip_prefix(name)?.strip_prefix('='));
    value.unwrap().to_owned()
}

#[tokio::test]
async fn files_that_were_replaced_count_from_the_next_connection_on() -> Result<()> {
    let Some((address, files)) = other() else { return Ok(()) };
    let folder = Folder::new("tls-files");
    let (right, ours) = (option(&files, "ssl_ca_certs"), folder.path("ca.pem"));
    // A certificate that has signed no other.
    std::fs::copy(option(&files, "ssl_certfile"), &ours).unwrap();
    let coordinator = build(&format!("{address}?{}", files.replace(&right, &ours)), "a")?;
    let error = coordinator.start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection, "{error:?}");
    std::fs::copy(&right, &ours).unwrap();
    coordinator.start().await?;
    coordinator.stop().await
}

#[tokio::test]
async fn the_sentinels_have_their_own_password_and_tls() -> Result<()> {
    let Some((_, files)) = other() else { return Ok(()) };
    let [ca, certificate, key] =
        ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile"].map(|name| option(&files, name));

    let secure_port = free_port().to_string();
    let tls = ["--tls-ca-cert-file", &ca, "--tls-cert-file", &certificate, "--tls-key-file", &key];
    let master = [&["--tls-port", &secure_port, "--requirepass", "data"], &tls[..]].concat();
    let _master = Server::start(&master);

    let (plain, secure) = (free_port(), free_port());
    let folder = Folder::new("sentinel-tls");
    let settings = folder.path("sentinel.conf");
    let text = format!(
        "port {plain}\nbind 127.0.0.1\ntls-port {secure}\nrequirepass guard\ntls-replication yes\n\
         tls-ca-cert-file {ca}\ntls-cert-file {certificate}\ntls-key-file {key}\n\
         sentinel monitor main 127.0.0.1 {secure_port} 1\nsentinel auth-pass main data\n"
    );
    std::fs::write(&settings, text).unwrap();
    let _sentinel = Server::sentinel(plain, Path::new(&settings));

    let url = |data: &str, guard: &str, more: &str| {
        format!(
            "rediss://:{data}@127.0.0.1:{secure}?sentinel=main&sentinel_password={guard}&\
             timeout=2&{more}&{files}"
        )
    };
    let coordinator = start(&url("data", "guard", "sentinel_ssl=yes"), "a").await?;
    let guard = coordinator.lock("l")?.acquire().await?;
    guard.release().await?;
    coordinator.stop().await?;

    for (url, kind) in [
        (url("data", "wrong", "sentinel_ssl=yes"), ErrorKind::Authentication),
        (url("wrong", "guard", "sentinel_ssl=yes"), ErrorKind::Authentication),
        // Plain text to a port that speaks TLS.
        (url("data", "guard", "sentinel_ssl=no"), ErrorKind::Connection),
    ] {
        let error = build(&url, "a")?.start().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(!format!("{error:?}").contains("guard"), "no password is shown: {error:?}");
    }
    Ok(())
}
