//! etcd, three nodes.

use nix::sys::signal::Signal;

use super::etcd::{node, wait_healthy};
use super::server::{Need, Server};
use super::stage::Stage;

/// The setup's server.
pub(super) const SERVER: Server =
    Server { name: "etcd-cluster", needs: &[Need { file: "etcd", package: "etcd-server" }], start };

fn start(stage: &mut Stage<'_>) -> anyhow::Result<String> {
    let clients = [stage.port()?, stage.port()?, stage.port()?];
    let peers = [stage.port()?, stage.port()?, stage.port()?];
    let cluster: Vec<_> = (0..3).map(|n| format!("n{n}=http://127.0.0.1:{}", peers[n])).collect();
    for n in 0..3 {
        let client = format!("http://127.0.0.1:{}", clients[n]);
        let peer = format!("http://127.0.0.1:{}", peers[n]);
        let command = node(stage, &format!("n{n}"), (&client, &peer), &cluster.join(","))?;
        // Told to end all at once, they spend seconds on handing over the leadership.
        stage.spawn("etcd", command, Signal::SIGKILL)?;
    }
    for port in clients {
        wait_healthy(stage, port)?;
    }
    Ok(clients.map(|port| format!("127.0.0.1:{port}")).join(","))
}
