//! etcd, one node. The one process serves gRPC, the JSON gateway and the v2 API.

use std::process::Command;

use nix::sys::signal::Signal;

use super::probe::answers;
use super::server::{Need, Server};
use super::stage::Stage;

/// The server of the setups without a cluster and TLS. The tests revoke leases by `etcdctl`.
pub(super) const SERVER: Server = Server {
    name: "etcd",
    needs: &[
        Need { file: "etcd", package: "etcd-server" },
        Need { file: "etcdctl", package: "etcd-client" },
    ],
    start,
};

fn start(stage: &mut Stage<'_>) -> anyhow::Result<String> {
    let port = stage.port()?;
    let client = format!("http://127.0.0.1:{port}");
    let peer = format!("http://127.0.0.1:{}", stage.port()?);
    let command = node(stage, "n1", (&client, &peer), &format!("n1={peer}"))?;
    stage.spawn("etcd", command, Signal::SIGTERM)?;
    wait_healthy(stage, port)?;
    Ok(format!("127.0.0.1:{port}"))
}

/// One node of a cluster, with the URLs for its clients and its peers.
pub(super) fn node(
    stage: &Stage<'_>,
    name: &str,
    (client, peer): (&str, &str),
    cluster: &str,
) -> anyhow::Result<Command> {
    let mut command = stage.command("etcd")?;
    command.args(["--name", name, "--data-dir", &stage.path(name)?]);
    command.args(["--listen-client-urls", client, "--advertise-client-urls", client]);
    command.args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]);
    command.args(["--initial-cluster", cluster, "--initial-cluster-state", "new"]);
    command.arg("--enable-v2");
    // The shortest lease is bound to the election timeout: this allows leases of one second.
    command.args(["--heartbeat-interval", "50", "--election-timeout", "500"]);
    Ok(command)
}

/// Waits until a node answers over HTTP that it is part of a healthy cluster.
pub(super) fn wait_healthy(stage: &mut Stage<'_>, port: u16) -> anyhow::Result<()> {
    let request = b"GET /health HTTP/1.0\r\n\r\n";
    stage.wait_ready(move || answers(port, request, br#""health":"true""#))
}
