//! Redis with TLS, client certificates and a user with no more rights than it needs.

use nix::sys::signal::Signal;

use super::certificates::{self, Certificates, OPENSSL};
use super::probe::answers;
use super::server::{Need, Server};
use super::stage::Stage;

/// The setup's server.
pub(super) const SERVER: Server = Server {
    name: "redis-tls",
    needs: &[Need { file: "redis-server", package: "redis-server" }, OPENSSL],
    start,
};

/// What docs/drivers/redis.md says that a user needs, and KEYS for the look at what is left.
const USERS: &str = "user default off
user tooz on >secret ~* &* -@all +@connection +@read +@write +@pubsub +@scripting +info +time +wait \
+keys
";

fn start(stage: &mut Stage<'_>) -> anyhow::Result<String> {
    let Certificates { authority, certificate, key } = certificates::make(stage)?;
    stage.write("users.acl", USERS)?;
    let (port, plain) = (stage.port()?, stage.port()?);
    let mut command = stage.command("redis-server")?;
    command.args(["--bind", "127.0.0.1", "--tls-port", &port.to_string()]);
    // The probe speaks no TLS.
    command.args(["--port", &plain.to_string()]);
    command.args(["--dir", &stage.path("")?, "--save", "", "--appendonly", "no"]);
    command.args(["--aclfile", &stage.path("users.acl")?, "--tls-auth-clients", "yes"]);
    command.args(["--tls-ca-cert-file", &authority]);
    command.args(["--tls-cert-file", &certificate]);
    command.args(["--tls-key-file", &key]);
    stage.spawn("redis-server", command, Signal::SIGTERM)?;
    stage.wait_ready(move || answers(plain, b"PING\r\n", b"NOAUTH"))?;
    Ok(format!(
        "tooz:secret@localhost:{port}?ssl_ca_certs={authority}&ssl_certfile={certificate}\
         &ssl_keyfile={key}"
    ))
}
