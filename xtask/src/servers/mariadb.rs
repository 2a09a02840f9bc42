//! MariaDB.

use nix::sys::signal::Signal;

use super::probe::answers;
use super::server::{Need, Server};
use super::stage::Stage;

/// The setup's server.
pub(super) const SERVER: Server = Server {
    name: "mariadb",
    needs: &[
        // The core packages bring no service of the system's.
        Need { file: "mariadbd", package: "mariadb-server-core" },
        Need { file: "mariadb-install-db", package: "mariadb-server-core" },
        Need { file: "my_print_defaults", package: "mariadb-client-core" },
    ],
    start,
};

/// Runs at each start, before the first connection is accepted. One statement a line.
const USERS: &str = "\
CREATE DATABASE IF NOT EXISTS tooz;
CREATE USER IF NOT EXISTS tooz@'127.0.0.1' IDENTIFIED BY 'tooz';
GRANT ALL ON *.* TO tooz@'127.0.0.1' WITH GRANT OPTION;
";

fn start(stage: &mut Stage<'_>) -> anyhow::Result<String> {
    let port = stage.port()?;
    stage.write("init.sql", USERS)?;
    stage.write("my.cnf", &configuration(stage, port)?)?;
    // Given first, this option keeps the system's configuration out.
    let defaults = format!("--defaults-file={}", stage.path("my.cnf")?);

    let mut command = stage.command("mariadb-install-db")?;
    command.args([&defaults, "--auth-root-authentication-method=normal"]);
    command.args(["--skip-test-db", "--skip-name-resolve"]);
    stage.run("mariadb-install-db", command)?;

    let mut command = stage.command("mariadbd")?;
    command.args([defaults, format!("--init-file={}", stage.path("init.sql")?)]);
    stage.spawn("mariadbd", command, Signal::SIGTERM)?;
    // The server speaks first, and names itself in its greeting.
    stage.wait_ready(move || answers(port, b"", b"MariaDB"))?;
    Ok(format!("tooz:tooz@127.0.0.1:{port}/tooz"))
}

fn configuration(stage: &Stage<'_>, port: u16) -> anyhow::Result<String> {
    Ok(format!(
        "[mariadbd]
datadir={data}
socket={socket}
pid-file={pid}
tmpdir={folder}
bind-address=127.0.0.1
port={port}
skip-name-resolve
skip-log-bin
max_connections=2600
character_set_server=utf8mb4
performance_schema=OFF
key_buffer_size=1M
aria_pagecache_buffer_size=4M
innodb_buffer_pool_size=32M
innodb_log_file_size=8M
innodb_flush_log_at_trx_commit=2
innodb_doublewrite=0
",
        data = stage.path("data")?,
        socket = stage.path("socket")?,
        pid = stage.path("pid")?,
        folder = stage.path("")?,
    ))
}
