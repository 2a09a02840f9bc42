//! Redis with a replica and three sentinels.

use nix::sys::signal::Signal;

use super::probe::answers;
use super::server::{Need, Server};
use super::stage::Stage;

/// The setup's server.
pub(super) const SERVER: Server = Server {
    name: "redis-sentinel",
    needs: &[
        Need { file: "redis-server", package: "redis-server" },
        Need { file: "redis-sentinel", package: "redis-sentinel" },
    ],
    start,
};

fn start(stage: &mut Stage<'_>) -> anyhow::Result<String> {
    let (master, replica) = (stage.port()?, stage.port()?);
    for (port, more) in [(master, vec![]), (replica, vec!["--replicaof", "127.0.0.1"])] {
        let mut command = stage.command("redis-server")?;
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
        command.args(["--dir", &stage.path("")?, "--dbfilename", &format!("{port}.rdb")]);
        command.args(["--save", "", "--appendonly", "no"]);
        command.args(["--repl-diskless-sync-delay", "0", "--replica-announce-ip", "127.0.0.1"]);
        if !more.is_empty() {
            command.args(more).arg(master.to_string());
        }
        stage.spawn("redis-server", command, Signal::SIGKILL)?;
    }
    // Sentinels ask for replicas every 10 s: one that is missed by the first look costs as much.
    stage.wait_ready(move || answers(master, b"INFO replication\r\n", b"state=online"))?;
    let sentinels = [stage.port()?, stage.port()?, stage.port()?];
    for port in sentinels {
        let name = format!("sentinel-{port}.conf");
        // Below 2 s, each switch is followed by a false alarm about the new master.
        stage.write(
            &name,
            &format!(
                "port {port}
bind 127.0.0.1
dir {folder}
sentinel monitor main 127.0.0.1 {master} 2
sentinel down-after-milliseconds main 2000
sentinel failover-timeout main 6000
",
                folder = stage.path("")?
            ),
        )?;
        let mut command = stage.command("redis-sentinel")?;
        command.arg(stage.path(&name)?);
        stage.spawn("redis-sentinel", command, Signal::SIGKILL)?;
    }
    for port in sentinels {
        let known = b"sentinels=3";
        stage.wait_ready(move || answers(port, b"INFO sentinel\r\n", known))?;
        stage.wait_ready(move || answers(port, b"INFO sentinel\r\n", b"slaves=1"))?;
    }
    let addresses = sentinels.map(|port| format!("127.0.0.1:{port}"));
    Ok(format!("{}?sentinel=main", addresses.join(",")))
}
