//! Valkey, standalone. Debian has it from its thirteenth release on.

use nix::sys::signal::Signal;

use super::probe::answers;
use super::server::{Need, Server};
use super::stage::Stage;

/// The setup's server.
pub(super) const SERVER: Server = Server { name: "valkey", needs: &[VALKEY], start };

const VALKEY: Need = Need { file: "usr/bin/valkey-server", package: "valkey-server/trixie" };

fn start(stage: &mut Stage<'_>) -> anyhow::Result<String> {
    let port = stage.port()?;
    let mut command = stage.fetched_command(&VALKEY)?;
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
    command.args(["--dir", &stage.path("")?, "--save", "", "--appendonly", "no"]);
    stage.spawn("valkey-server", command, Signal::SIGTERM)?;
    stage.wait_ready(move || answers(port, b"PING\r\n", b"+PONG"))?;
    Ok(format!("127.0.0.1:{port}"))
}
