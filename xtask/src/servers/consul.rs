//! Consul, one agent that keeps all in memory.

use nix::sys::signal::Signal;

use super::probe::answers;
use super::server::{Need, Server};
use super::stage::Stage;

/// The setup's server.
pub(super) const SERVER: Server = Server { name: "consul", needs: &[CONSUL], start };

/// Consul, which Debian has in an older release only.
pub(super) const CONSUL: Need = Need { file: "usr/bin/consul", package: "consul/bullseye" };

/// What all servers of the tests have: short times, one host, nobody asked beyond it. The limits are
/// the server's own, 200 connections from one host among them.
pub(super) const COMMON: &str = r#"
    "bind_addr": "127.0.0.1",
    "client_addr": "127.0.0.1",
    "disable_update_check": true,
    "log_level": "WARN",
    "leave_on_terminate": false,
    "skip_leave_on_interrupt": true,
    "session_ttl_min": "1s",
    "performance": {"raft_multiplier": 1, "leave_drain_time": "0s", "rpc_hold_timeout": "2s"}"#;

/// The lasting ports of a server; -1 is none.
pub(super) fn ports(http: u16, https: i32, stage: &Stage<'_>) -> anyhow::Result<Ports> {
    Ok(Ports { http, https, rpc: stage.port()?, gossip: stage.port()? })
}

/// Where a server listens.
pub(super) struct Ports {
    http: u16,
    https: i32,
    pub(super) rpc: u16,
    pub(super) gossip: u16,
}

impl Ports {
    /// Their part of the configuration.
    pub(super) fn json(&self) -> String {
        let Self { http, https, rpc, gossip } = self;
        format!(
            r#""ports": {{"http": {http}, "https": {https}, "server": {rpc}, "serf_lan": {gossip},
               "serf_wan": -1, "dns": -1, "grpc": -1}}"#
        )
    }
}

/// Whether a server has a leader, and so takes writes.
pub(super) fn writes(port: u16, token: &str) -> bool {
    let request = format!(
        "PUT /v1/kv/ready HTTP/1.0\r\nX-Consul-Token: {token}\r\nContent-Length: 0\r\n\r\n"
    );
    answers(port, request.as_bytes(), b"\r\n\r\ntrue")
}

fn start(stage: &mut Stage<'_>) -> anyhow::Result<String> {
    let port = stage.port()?;
    let ports = ports(port, -1, stage)?.json();
    stage.write("config.json", &format!("{{{COMMON},\n{ports}}}"))?;
    let mut command = stage.fetched_command(&CONSUL)?;
    command.args(["agent", "-dev", "-config-file", &stage.path("config.json")?]);
    stage.spawn("consul", command, Signal::SIGKILL)?;
    stage.wait_ready(move || writes(port, ""))?;
    Ok(format!("127.0.0.1:{port}"))
}
