//! TLS: a private server with certificates of its own, which `openssl` makes.

#![cfg(feature = "tls")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod server;

use std::path::PathBuf;
use std::process::Command;

use server::{Server, asked_for, build};
use tooz_core::{ErrorKind, Result};

/// Two authorities, and a certificate for `127.0.0.1` by the first. The server, which runs as
/// somebody else, must be able to read them.
const CERTIFICATES: &str = "
set -e
new='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30'
for name in right wrong; do
    openssl req -x509 $new -keyout $name.key -out $name.pem -subj \"/CN=$name authority\" \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
done
openssl req $new -keyout key.pem -out request.pem -subj /CN=localhost
printf '%s\\n' subjectAltName=IP:127.0.0.1 extendedKeyUsage=serverAuth \
    basicConstraints=critical,CA:FALSE >extensions
openssl x509 -req -in request.pem -CA right.pem -CAkey right.key -CAcreateserial -days 30 \
    -extfile extensions -out certificate.pem
chmod a+r *
";

/// Removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn with_certificates() -> Self {
        let name = format!("tooz-memcached-tls-{}", std::process::id());
        let folder = Self(std::env::temp_dir().join(name));
        std::fs::create_dir_all(&folder.0).unwrap();
        let made = Command::new("sh").args(["-c", CERTIFICATES]).current_dir(&folder.0).output();
        let made = made.unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        folder
    }

    fn path(&self, file: &str) -> String {
        self.0.join(file).display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn files_that_were_replaced_count_from_the_next_connection_on() -> Result<()> {
    if !asked_for() {
        return Ok(());
    }
    let folder = Folder::with_certificates();
    let files = format!(
        "ssl_chain_cert={},ssl_key={}",
        folder.path("certificate.pem"),
        folder.path("key.pem")
    );
    let server = Server::start(&["-Z", "-o", &files]);
    let ours = folder.path("ours.pem");
    std::fs::copy(folder.path("wrong.pem"), &ours).unwrap();
    let url = server.url(&format!("timeout=10&use_ssl=yes&ca_cert={ours}"));
    let coordinator = build(&url, "a")?;
    let error = coordinator.start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection, "{error:?}");
    std::fs::copy(folder.path("right.pem"), &ours).unwrap();
    coordinator.start().await?;
    coordinator.lock("l")?.acquire().await?.release().await?;
    coordinator.stop().await
}
