//! Consul with TLS, client certificates and a token with no more rights than it needs.

use anyhow::ensure;
use nix::sys::signal::Signal;

use super::certificates::{self, Certificates, OPENSSL};
use super::consul::{COMMON, CONSUL, ports, writes};
use super::probe::answers;
use super::server::Server;
use super::stage::Stage;

/// The setup's server.
pub(super) const SERVER: Server = Server { name: "consul-acl", needs: &[CONSUL, OPENSSL], start };

/// Of who may do everything.
const MASTER: &str = "11111111-2222-3333-4444-555555555555";
/// Of the tests.
const TOKEN: &str = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";

/// What docs/drivers/consul.md says that a token needs, for every namespace, and the reading of the
/// agent for the look at what is left.
const RULES: &str = r#"key_prefix \"\" { policy = \"write\" } session_prefix \"\" { policy = \"write\" } service_prefix \"\" { policy = \"write\" } node_prefix \"\" { policy = \"read\" } agent_prefix \"\" { policy = \"read\" }"#;

fn start(stage: &mut Stage<'_>) -> anyhow::Result<String> {
    let Certificates { authority, certificate, key } = certificates::make(stage)?;
    // The probe speaks no TLS.
    let (plain, port) = (stage.port()?, stage.port()?);
    let (ports, data) = (ports(plain, i32::from(port), stage)?.json(), stage.path("data")?);
    let text = format!(
        r#"{{{COMMON},
    "server": true, "bootstrap_expect": 1, "node_name": "node", "data_dir": "{data}",
    "ca_file": "{authority}", "cert_file": "{certificate}", "key_file": "{key}",
    "verify_incoming_https": true, "verify_outgoing": true,
    "acl": {{"enabled": true, "default_policy": "deny",
             "tokens": {{"master": "{MASTER}", "agent": "{MASTER}"}}}},
    {ports}}}"#
    );
    stage.write("config.json", &text)?;
    let mut command = stage.fetched_command(&CONSUL)?;
    command.args(["agent", "-config-file", &stage.path("config.json")?]);
    stage.spawn("consul", command, Signal::SIGKILL)?;
    stage.wait_ready(move || writes(plain, MASTER))?;
    put(plain, "policy", &format!(r#"{{"Name": "tooz", "Rules": "{RULES}"}}"#))?;
    let token = format!(r#"{{"SecretID": "{TOKEN}", "Policies": [{{"Name": "tooz"}}]}}"#);
    put(plain, "token", &token)?;
    Ok(format!(
        "localhost:{port}?acl_token={TOKEN}&ca_cert={authority}&client_cert={certificate}\
         &client_key={key}"
    ))
}

fn put(port: u16, what: &str, body: &str) -> anyhow::Result<()> {
    let request = format!(
        "PUT /v1/acl/{what} HTTP/1.0\r\nX-Consul-Token: {MASTER}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    ensure!(answers(port, request.as_bytes(), b"200 OK"), "cannot create the {what}");
    Ok(())
}
