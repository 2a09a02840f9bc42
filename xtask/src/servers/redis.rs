//! Redis, standalone.

use nix::sys::signal::Signal;

use super::probe::answers;
use super::server::{Need, Server};
use super::stage::Stage;

/// The setup's server.
pub(super) const SERVER: Server = Server {
    name: "redis",
    needs: &[Need { file: "redis-server", package: "redis-server" }],
    start,
};

fn start(stage: &mut Stage<'_>) -> anyhow::Result<String> {
    let port = stage.port()?;
    let mut command = stage.command("redis-server")?;
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
    command.args(["--dir", &stage.path("")?, "--daemonize", "no"]);
    command.args(["--save", "", "--appendonly", "no"]);
    // Fault cases make the server sleep.
    command.args(["--enable-debug-command", "local"]);
    stage.spawn("redis-server", command, Signal::SIGTERM)?;
    stage.wait_ready(move || answers(port, b"PING\r\n", b"+PONG"))?;
    Ok(format!("127.0.0.1:{port}"))
}
