//! PostgreSQL, the newest that is installed.

use nix::sys::signal::Signal;

use super::probe::answers;
use super::server::{Need, Server};
use super::stage::Stage;

/// The setup's server.
pub(super) const SERVER: Server = Server {
    name: "postgresql",
    needs: &[
        Need { file: "initdb", package: "postgresql" },
        Need { file: "postgres", package: "postgresql" },
    ],
    start,
};

/// A start-up message of protocol 3.0: its length, the version, `user` = `postgres`.
pub(super) const HELLO: &[u8] = b"\0\0\0\x17\0\x03\0\0user\0postgres\0\0";

/// What takes a crowd in: by default there are 100.
pub(super) const CROWD: &str = "max_connections=1200";

/// "Ready for query, no transaction open": the end of a successful log-in.
pub(super) const READY_FOR_QUERY: &[u8] = b"Z\0\0\0\x05I";

fn start(stage: &mut Stage<'_>) -> anyhow::Result<String> {
    let crowd = stage.if_crowded(CROWD);
    let port = serve(stage, crowd)?;
    Ok(format!("postgres@127.0.0.1:{port}/postgres"))
}

/// Starts a server that lets everybody in, with one more setting; its port.
pub(super) fn serve(stage: &mut Stage<'_>, more: Option<&str>) -> anyhow::Result<u16> {
    let data = stage.path("data")?;
    let mut command = stage.command("initdb")?;
    command.args(["-D", &data, "-U", "postgres", "-A", "trust", "-E", "UTF8"]);
    command.args(["--locale=C.UTF-8", "--no-sync", "--no-instructions"]);
    stage.run("initdb", command)?;

    let port = stage.port()?;
    let mut command = stage.command("postgres")?;
    command.args(["-D", &data]);
    for setting in [
        "listen_addresses=127.0.0.1",
        &format!("port={port}"),
        // No socket file: its path would have to be short.
        "unix_socket_directories=",
        "fsync=off",
        "full_page_writes=off",
        "synchronous_commit=on",
        "shared_buffers=32MB",
        "jit=off",
    ]
    .into_iter()
    .chain(more)
    {
        command.args(["-c", setting]);
    }
    // SIGTERM would wait for every client to leave.
    stage.spawn("postgres", command, Signal::SIGINT)?;
    stage.wait_ready(move || answers(port, HELLO, READY_FOR_QUERY))?;
    Ok(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_up_message_tells_its_own_length() {
        assert_eq!(HELLO[..4], u32::try_from(HELLO.len()).unwrap().to_be_bytes());
    }
}
