//! TLS with certificates on both sides, and logins.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod server;

use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use server::{Server, asked_for, build, free_port, start, wait_for};
use tokio::task::JoinSet;
use tooz_core::{ErrorKind, Result};

/// An authority, and from it one certificate for both ends; and another authority. The keys are in
/// PKCS#8, which both ends read.
const CERTIFICATES: &str = "
set -e
new='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30'
for ca in ca other; do
    openssl req -x509 $new -keyout $ca.key -out $ca.pem -subj \"/CN=tooz test $ca\" \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
done
openssl req $new -keyout key.pem -out request.pem -subj /CN=localhost
printf '%s\\n' subjectAltName=DNS:localhost,IP:127.0.0.1 \
    extendedKeyUsage=serverAuth,clientAuth basicConstraints=critical,CA:FALSE >extensions
openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 \
    -extfile extensions -out certificate.pem
cat key.pem certificate.pem >both.pem
";

const LOGINS: &str = "Server {
    org.apache.zookeeper.server.auth.DigestLoginModule required user_tooz=\"right\";
};
";

struct Secure {
    server: Server,
    port: u16,
}

impl Secure {
    fn start() -> Self {
        let port = free_port();
        let logins = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(logins.path(), LOGINS).unwrap();
        let jvm = [format!("-Djava.security.auth.login.config={}", logins.path().display())];
        let settings = |folder: &tempfile::TempDir| {
            make_certificates(folder.path());
            let folder = folder.path().display();
            format!(
                "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory\n\
                 secureClientPortAddress=127.0.0.1\nsecureClientPort={port}\n\
                 ssl.keyStore.location={folder}/both.pem\nssl.keyStore.type=PEM\n\
                 ssl.trustStore.location={folder}/ca.pem\nssl.trustStore.type=PEM\n\
                 ssl.clientAuth=need\nssl.hostnameVerification=false\n\
                 authProvider.sasl=\
                 org.apache.zookeeper.server.auth.SASLAuthenticationProvider"
            )
        };
        let server = Server::start_with(settings, &jvm);
        wait_for("the port for TLS", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { server, port }
    }

    fn tls(&self, login: &str, authority: &str, identity: bool) -> String {
        let folder = self.server.folder().display();
        let identity = match identity {
            true => format!("&certfile={folder}/certificate.pem&keyfile={folder}/key.pem"),
            false => String::new(),
        };
        format!(
            "zookeeper://{login}localhost:{}?timeout=20&use_ssl=yes&ca={folder}/{authority}.pem{identity}",
            self.port
        )
    }
}

fn make_certificates(folder: &Path) {
    let made = Command::new("sh").arg("-c").arg(CERTIFICATES).current_dir(folder).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

#[tokio::test]
async fn tls_and_logins_work_and_are_needed() -> Result<()> {
    if !asked_for() {
        return Ok(());
    }
    let secure = Secure::start();
    // TLS, with a digest login: the nodes belong to it.
    let url = secure.tls("me:right@", "ca", true);
    let a = start(&url, "a").await?;
    a.join_group_create("g", &1).await?;
    let guard = a.lock("it")?.acquire().await?;
    let b = start(&url, "b").await?;
    assert!(b.lock("it")?.try_acquire().await?.is_none());
    guard.release().await?;
    // The same without TLS, which this server also takes.
    let plain = format!("zookeeper://me:right@127.0.0.1:{}?timeout=20", secure.server.port);
    let c = start(&plain, "c").await?;
    assert_eq!(c.members("g").await?.len(), 1);

    let mut refusals = JoinSet::new();
    let unusable = secure.server.folder().join("unusable.pem");
    std::fs::write(&unusable, "no certificate").unwrap();
    for (url, kind, part) in [
        (secure.tls("me:wrong@", "ca", true), ErrorKind::Authentication, "password"),
        (secure.tls("", "ca", true), ErrorKind::Authentication, "denied"),
        (
            secure.tls("me:right@", "other", true),
            ErrorKind::Connection,
            "the server's certificate is refused",
        ),
        (
            secure.tls("me:right@", "ca", false),
            ErrorKind::Connection,
            "require a client certificate (option certfile)",
        ),
        (
            plain.replace(&secure.server.port.to_string(), &secure.port.to_string()),
            ErrorKind::Connection,
            "one side uses TLS and the other does not",
        ),
        (
            secure
                .tls("me:right@", "ca", true)
                .replace(&secure.port.to_string(), &secure.server.port.to_string()),
            ErrorKind::Connection,
            "one side uses TLS and the other does not",
        ),
        (secure.tls("", "unusable", true), ErrorKind::InvalidInput, "option=ca, path="),
        (
            secure.tls("", "ca", true).replace("certificate.pem", "unusable.pem"),
            ErrorKind::InvalidInput,
            "option=certfile, path=",
        ),
        (
            secure.tls("", "ca", true).replace("key.pem", "unusable.pem"),
            ErrorKind::InvalidInput,
            "option=keyfile, path=",
        ),
        // A login that the server knows, which is another one to the nodes' owner.
        (
            format!("{plain}&auth=sasl").replace("me:right", "tooz:right"),
            ErrorKind::Authentication,
            "denied",
        ),
        (
            format!("{plain}&auth=sasl&namespace=s").replace("me:right", "tooz:wrong"),
            ErrorKind::Authentication,
            "password",
        ),
    ] {
        refusals.spawn(async move {
            let begin = Instant::now();
            let url = url.replace("timeout=20", "timeout=3");
            let error = build(&url, "d").unwrap().start().await.unwrap_err();
            assert_eq!(error.kind(), kind, "{url}: {error:?}");
            assert!(error.to_string().contains(part), "{url}: {error}");
            assert!(begin.elapsed() < Duration::from_secs(5), "{url}: {:?}", begin.elapsed());
        });
    }
    refusals.join_all().await;
    for coordinator in [a, b, c] {
        coordinator.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_sasl_login_owns_its_nodes() -> Result<()> {
    if !asked_for() {
        return Ok(());
    }
    let secure = Secure::start();
    for url in [
        format!("zookeeper://tooz:right@127.0.0.1:{}?timeout=20&auth=sasl", secure.server.port),
        secure.tls("tooz:right@", "ca", true) + "&auth=sasl",
    ] {
        let a = start(&url, "a").await?;
        a.lock("it")?.acquire().await?.release().await?;
        a.stop().await?;
    }
    let anybody = format!("zookeeper://127.0.0.1:{}?timeout=20", secure.server.port);
    let error = build(&anybody, "b")?.start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Authentication, "{error:?}");
    Ok(())
}
