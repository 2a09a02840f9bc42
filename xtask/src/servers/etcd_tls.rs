//! etcd with TLS, client certificates, users and a role with no more rights than it needs.

use nix::sys::signal::Signal;

use super::etcd::{node, wait_healthy};
use super::server::{Need, Server};
use super::stage::Stage;

/// The setup's server.
pub(super) const SERVER: Server = Server {
    name: "etcd-tls",
    needs: &[
        Need { file: "etcd", package: "etcd-server" },
        Need { file: "etcdctl", package: "etcd-client" },
        Need { file: "openssl", package: "openssl" },
    ],
    start,
};

/// An authority, and from it a certificate for the server and one for clients. The gateway refuses
/// clients whose certificate has a common name, which gRPC takes for a user's.
const CERTIFICATES: &str = "
set -e
new='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30'
openssl req -x509 $new -keyout ca.key -out ca.pem -subj '/CN=tooz test authority' \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
certificate() {
    openssl req $new -keyout $1-key.pem -out request.pem -subj $2
    printf '%s\\n' subjectAltName=DNS:localhost,IP:127.0.0.1 \
        extendedKeyUsage=serverAuth,clientAuth basicConstraints=critical,CA:FALSE >extensions
    openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 \
        -extfile extensions -out $1.pem
}
certificate server /CN=localhost
certificate client /O=tooz
";

/// What docs/drivers/etcd3.md says that a user needs: reading and writing its keys. Here they are
/// all, since the tests choose namespaces of their own.
const USERS: &str = "
set -e
etcdctl user add root:root-secret
etcdctl user add tooz:secret
etcdctl role add tooz
etcdctl role grant-permission tooz --prefix=true readwrite ''
etcdctl user grant-role tooz tooz
etcdctl auth enable
";

fn start(stage: &mut Stage<'_>) -> anyhow::Result<String> {
    let mut openssl = stage.command("sh")?;
    openssl.arg("-c").arg(CERTIFICATES);
    stage.run("openssl", openssl)?;
    let (port, plain) = (stage.port()?, stage.port()?);
    let client = format!("https://127.0.0.1:{port}");
    let peer = format!("http://127.0.0.1:{}", stage.port()?);
    let mut command = node(stage, "n1", (&client, &peer), &format!("n1={peer}"))?;
    command.args(["--client-cert-auth", "--trusted-ca-file", &stage.path("ca.pem")?]);
    command.args(["--cert-file", &stage.path("server.pem")?]);
    command.args(["--key-file", &stage.path("server-key.pem")?]);
    // The probe speaks no TLS.
    command.args(["--listen-metrics-urls", &format!("http://127.0.0.1:{plain}")]);
    stage.spawn("etcd", command, Signal::SIGTERM)?;
    wait_healthy(stage, plain)?;

    let [ca, certificate, key] = ["ca.pem", "client.pem", "client-key.pem"].map(|n| stage.path(n));
    let (ca, certificate, key) = (ca?, certificate?, key?);
    let mut users = stage.command("sh")?;
    users.arg("-c").arg(USERS).env("ETCDCTL_API", "3").env("ETCDCTL_ENDPOINTS", &client);
    users.envs([("ETCDCTL_CACERT", &ca), ("ETCDCTL_CERT", &certificate), ("ETCDCTL_KEY", &key)]);
    stage.run("etcdctl", users)?;
    Ok(format!("tooz:secret@localhost:{port}?ca_cert={ca}&cert_cert={certificate}&cert_key={key}"))
}
