//! ZooKeeper, one server.

use std::path::Path;

use nix::sys::signal::Signal;

use super::probe::answers;
use super::server::{Need, Server};
use super::stage::Stage;

/// Where Debian keeps jars.
const JARS: &str = "/usr/share/java";

/// The setup's server.
pub(super) const SERVER: Server = Server {
    name: "zookeeper",
    needs: &[
        Need { file: "java", package: "default-jre-headless" },
        Need { file: "/usr/share/java/zookeeper.jar", package: "libzookeeper-java" },
        Need { file: "/usr/share/java/slf4j-simple.jar", package: "libslf4j-java" },
    ],
    start,
};

/// A small heap and a quick start: many of these run beside a build.
const JVM: [&str; 12] = [
    "-Xms32m",
    "-Xmx192m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:CICompilerCount=1",
    "-XX:-UsePerfData",
    "-Xshare:auto",
    "-Djava.net.preferIPv4Stack=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=info",
    "-Dzookeeper.forceSync=no",
    "-Dzookeeper.admin.enableServer=false",
    "-Dzookeeper.4lw.commands.whitelist=*",
];

fn start(stage: &mut Stage<'_>) -> anyhow::Result<String> {
    let port = stage.port()?;
    spawn(stage, "zookeeper", port, "", None)?;
    // `ruok` says yes before the server serves, `srvr` does not.
    stage.wait_ready(move || answers(port, b"srvr", b"Mode: "))?;
    Ok(format!("127.0.0.1:{port}"))
}

/// Starts a server of this name; one of an ensemble has a number in it.
pub(super) fn spawn(
    stage: &mut Stage<'_>,
    name: &str,
    port: u16,
    more: &str,
    number: Option<u8>,
) -> anyhow::Result<()> {
    let data = stage.make_folder(&format!("{name}-data"))?;
    if let Some(number) = number {
        stage.write(&format!("{name}-data/myid"), &number.to_string())?;
    }
    let file = format!("{name}.cfg");
    stage.write(&file, &configuration(&data, port, more))?;
    let mut command = stage.command("java")?;
    command.args(JVM).args(["-cp", &class_path()]);
    command.arg("org.apache.zookeeper.server.quorum.QuorumPeerMain").arg(stage.path(&file)?);
    stage.spawn(name, command, Signal::SIGTERM)
}

/// Short ticks allow sessions of 400 ms. Without `preAllocSize` each log file takes 64 MB.
fn configuration(data: &str, port: u16, more: &str) -> String {
    format!(
        "tickTime=200
minSessionTimeout=400
maxSessionTimeout=60000
dataDir={data}
clientPortAddress=127.0.0.1
clientPort={port}
maxClientCnxns=0
preAllocSize=1024
extendedTypesEnabled=true
{more}"
    )
}

/// The server's jar names its libraries itself, all but the one that prints the log.
fn class_path() -> String {
    let jars = ["slf4j-api.jar", "slf4j-simple.jar", "zookeeper.jar"];
    let paths = jars.map(|jar| Path::new(JARS).join(jar).display().to_string());
    paths.join(":")
}
