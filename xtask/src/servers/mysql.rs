//! MySQL itself, which Debian has in its unstable release only.

use nix::sys::signal::Signal;

use super::fetched::Fetched;
use super::probe::answers;
use super::server::{Need, Server};
use super::stage::Stage;

/// The setup's server.
pub(super) const SERVER: Server = Server { name: "mysql", needs: &[MYSQLD], start };

const MYSQLD: Need = Need { file: "usr/sbin/mysqld", package: "mysql-server-core/sid" };

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

    let mut command = stage.fetched_command(&MYSQLD)?;
    command.args([&defaults, "--initialize-insecure"]);
    stage.run("mysqld --initialize", command)?;

    let mut command = stage.fetched_command(&MYSQLD)?;
    command.args([defaults, format!("--init-file={}", stage.path("init.sql")?)]);
    stage.spawn("mysqld", command, Signal::SIGTERM)?;
    // The server speaks first, and names its way to log in.
    stage.wait_ready(move || answers(port, b"", b"caching_sha2_password"))?;
    Ok(format!("tooz:tooz@127.0.0.1:{port}/tooz"))
}

/// The performance schema is on: it alone tells who holds which named lock.
fn configuration(stage: &Stage<'_>, port: u16) -> anyhow::Result<String> {
    let package = Fetched::named(MYSQLD.package).map(|package| package.root().join("usr"));
    Ok(format!(
        "[mysqld]
basedir={usr}
lc-messages-dir={usr}/share/mysql
character-sets-dir={usr}/share/mysql/charsets
plugin-dir={usr}/lib/mysql/plugin
datadir={data}
socket={socket}
pid-file={pid}
tmpdir={folder}
secure-file-priv=NULL
bind-address=127.0.0.1
port={port}
mysqlx=OFF
skip-name-resolve
skip-log-bin
{crowd}
table-open-cache=200
performance-schema=ON
innodb-buffer-pool-size=64M
innodb-redo-log-capacity=16M
innodb-flush-log-at-trx-commit=2
innodb-doublewrite=OFF
innodb-flush-method=nosync
innodb-dedicated-server=OFF
",
        usr = package.unwrap_or_default().display(),
        // By default there are 151.
        crowd = stage.if_crowded("max-connections=2600").unwrap_or_default(),
        data = stage.path("data")?,
        socket = stage.path("socket")?,
        pid = stage.path("pid")?,
        folder = stage.path("")?,
    ))
}
