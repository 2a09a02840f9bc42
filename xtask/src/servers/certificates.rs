//! Certificates for servers that speak TLS.

use super::server::Need;
use super::stage::Stage;

/// What [`make`] runs.
pub(super) const OPENSSL: Need = Need { file: "openssl", package: "openssl" };

/// An authority, and from it one certificate for both ends. The keys are in PKCS#8, which all read.
const SCRIPT: &str = "
set -e
new='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30'
openssl req -x509 $new -keyout ca.key -out ca.pem -subj '/CN=tooz test authority' \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
openssl req $new -keyout key.pem -out request.pem -subj /CN=localhost
printf '%s\\n' subjectAltName=DNS:localhost,IP:127.0.0.1 \
    extendedKeyUsage=serverAuth,clientAuth basicConstraints=critical,CA:FALSE >extensions
openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 \
    -extfile extensions -out certificate.pem
";

/// The paths of what [`make`] has made.
pub(super) struct Certificates {
    pub(super) authority: String,
    pub(super) certificate: String,
    pub(super) key: String,
}

/// Makes an authority, and a certificate for `localhost` and `127.0.0.1`, in the stage's folder.
pub(super) fn make(stage: &Stage<'_>) -> anyhow::Result<Certificates> {
    let mut openssl = stage.command("sh")?;
    openssl.arg("-c").arg(SCRIPT);
    stage.run("openssl", openssl)?;
    Ok(Certificates {
        authority: stage.path("ca.pem")?,
        certificate: stage.path("certificate.pem")?,
        key: stage.path("key.pem")?,
    })
}
