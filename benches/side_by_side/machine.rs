//! Where it was measured.

use std::fs;
use std::process::Command;

use anyhow::Context as _;
use tooz_benches::record::Machine;

use crate::setups::Setup;

pub(crate) fn describe(setups: &[Setup]) -> anyhow::Result<Machine> {
    let read = |file: &str| fs::read_to_string(file).with_context(|| file.to_owned());
    let (cpu, memory, release) =
        (read("/proc/cpuinfo")?, read("/proc/meminfo")?, read("/etc/os-release")?);
    let kilobytes = field(&memory, "MemTotal").trim_end_matches(" kB").parse::<u64>();
    Ok(Machine {
        date: output("date", &["-u", "+%Y-%m-%d"])?,
        processor: field(&cpu, "model name"),
        cores: std::thread::available_parallelism()?.get(),
        memory: kilobytes.unwrap_or_default() * 1024,
        kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        distribution: field(&release, "PRETTY_NAME").trim_matches('"').to_owned(),
        rust: output("rustc", &["--version"])?,
        servers: servers(setups),
    })
}

/// The value behind a name and a colon, or an equals sign.
fn field(text: &str, name: &str) -> String {
    let mut lines = text.lines().filter_map(|line| line.split_once([':', '=']));
    let found = lines.find(|(key, _)| key.trim() == name);
    found.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
}

fn output(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output =
        Command::new(program).args(arguments).output().with_context(|| program.to_owned())?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

/// The backends' server programs, as far as they tell their version.
fn servers(setups: &[Setup]) -> Vec<(String, String)> {
    let version = |setup: &Setup| {
        let (program, arguments): (_, &[&str]) = match setup.name {
            "redis" => ("redis-server", &["--version"]),
            "memcached" => ("memcached", &["--version"]),
            "etcd" | "etcd3" | "etcd3-http" => ("etcd", &["--version"]),
            "postgresql" => ("postgres", &["--version"]),
            "mariadb" => ("mariadbd", &["--version"]),
            "zookeeper" => ("dpkg-query", &["-Wf", "${Version}", "libzookeeper-java"]),
            _ => return None,
        };
        Some((setup.name.to_owned(), output(program, arguments).ok()?))
    };
    setups.iter().filter_map(version).collect()
}
