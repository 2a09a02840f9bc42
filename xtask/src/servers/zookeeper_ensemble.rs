//! ZooKeeper, an ensemble of three.

use super::probe::answers;
use super::server::Server;
use super::stage::Stage;
use super::zookeeper;

/// The setup's server.
pub(super) const SERVER: Server =
    Server { name: "zookeeper-ensemble", needs: zookeeper::SERVER.needs, start };

fn start(stage: &mut Stage<'_>) -> anyhow::Result<String> {
    let ports = || Ok::<_, anyhow::Error>([stage.port()?, stage.port()?, stage.port()?]);
    let servers = [ports()?, ports()?, ports()?];
    let members: String = (1..)
        .zip(servers)
        .map(|(id, [_, quorum, election])| format!("server.{id}=127.0.0.1:{quorum}:{election}\n"))
        .collect();
    // `syncLimit` is how long a follower goes without its leader.
    let ensemble = format!(
        "initLimit=50
syncLimit=10
quorumListenOnAllIPs=false
standaloneEnabled=false
{members}"
    );
    for (id, [port, ..]) in (1..).zip(servers) {
        let name = format!("server-{id}");
        zookeeper::spawn(stage, &name, port, &ensemble, Some(id))?;
    }
    for [port, ..] in servers {
        stage.wait_ready(move || answers(port, b"srvr", b"Mode: "))?;
    }
    Ok(servers.map(|[port, ..]| format!("127.0.0.1:{port}")).join(","))
}
