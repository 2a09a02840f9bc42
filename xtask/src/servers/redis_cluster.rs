//! Redis Cluster, three masters.

use nix::sys::signal::Signal;

use super::probe::answers;
use super::server::{Need, Server};
use super::stage::Stage;

/// The setup's server.
pub(super) const SERVER: Server = Server {
    name: "redis-cluster",
    needs: &[
        Need { file: "redis-server", package: "redis-server" },
        Need { file: "redis-cli", package: "redis-tools" },
    ],
    start,
};

fn start(stage: &mut Stage<'_>) -> anyhow::Result<String> {
    let ports = [stage.port()?, stage.port()?, stage.port()?];
    for port in ports {
        let mut command = stage.command("redis-server")?;
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
        command.args(["--dir", &stage.path("")?, "--save", "", "--appendonly", "no"]);
        command.args(["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"]);
        // By default it is the port and 10,000, which may be taken.
        command.args(["--cluster-port", &stage.port()?.to_string()]);
        command.args(["--cluster-config-file", &format!("nodes-{port}.conf")]);
        command.args(["--cluster-announce-ip", "127.0.0.1"]);
        stage.spawn("redis-server", command, Signal::SIGKILL)?;
    }
    for port in ports {
        stage.wait_ready(move || answers(port, b"PING\r\n", b"+PONG"))?;
    }
    let addresses = ports.map(|port| format!("127.0.0.1:{port}"));
    let mut create = stage.command("redis-cli")?;
    create.args(["--cluster", "create"]).args(&addresses).arg("--cluster-yes");
    stage.run("redis-cli", create)?;
    for port in ports {
        stage.wait_ready(move || answers(port, b"CLUSTER INFO\r\n", b"cluster_state:ok"))?;
    }
    Ok(format!("{}?cluster=yes", addresses.join(",")))
}
