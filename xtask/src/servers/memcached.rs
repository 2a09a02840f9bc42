//! memcached.

use nix::sys::signal::Signal;

use super::probe::answers;
use super::server::{Need, Server};
use super::stage::Stage;

/// The setup's server.
pub(super) const SERVER: Server =
    Server { name: "memcached", needs: &[Need { file: "memcached", package: "memcached" }], start };

fn start(stage: &mut Stage<'_>) -> anyhow::Result<String> {
    let port = stage.port()?;
    let mut command = stage.command("memcached")?;
    command.args(["-l", "127.0.0.1", "-p", &port.to_string(), "-U", "0"]);
    command.args(["-m", "64", "-c", "2048", "-t", "2", "-v"]);
    // It keeps nothing, and takes a second to end any other way.
    stage.spawn("memcached", command, Signal::SIGKILL)?;
    stage.wait_ready(move || answers(port, b"version\r\n", b"VERSION "))?;
    Ok(format!("127.0.0.1:{port}"))
}
