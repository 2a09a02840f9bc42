//! Consul, three servers.

use nix::sys::signal::Signal;

use super::consul::{COMMON, CONSUL, ports, writes};
use super::server::Server;
use super::stage::Stage;

/// The setup's server.
pub(super) const SERVER: Server = Server { name: "consul-cluster", needs: &[CONSUL], start };

fn start(stage: &mut Stage<'_>) -> anyhow::Result<String> {
    let mut nodes = Vec::new();
    for _ in 0..3 {
        let http = stage.port()?;
        nodes.push((http, ports(http, -1, stage)?));
    }
    let join: Vec<_> =
        nodes.iter().map(|(_, ports)| format!("\"127.0.0.1:{}\"", ports.gossip)).collect();
    for (index, (_, ports)) in nodes.iter().enumerate() {
        let (name, data) = (format!("{index}.json"), stage.path(&format!("data-{index}"))?);
        let text = format!(
            r#"{{{COMMON},
    "server": true, "bootstrap_expect": 3, "node_name": "node-{index}", "data_dir": "{data}",
    "retry_join": [{}], "retry_interval": "1s",
    {}}}"#,
            join.join(", "),
            ports.json(),
        );
        stage.write(&name, &text)?;
        let mut command = stage.fetched_command(&CONSUL)?;
        command.args(["agent", "-config-file", &stage.path(&name)?]);
        stage.spawn("consul", command, Signal::SIGKILL)?;
    }
    for &(http, _) in &nodes {
        stage.wait_ready(move || writes(http, ""))?;
    }
    let addresses: Vec<_> = nodes.iter().map(|(http, _)| format!("127.0.0.1:{http}")).collect();
    // Each of these agents is on this host.
    Ok(format!("{}?check=yes", addresses.join(",")))
}
