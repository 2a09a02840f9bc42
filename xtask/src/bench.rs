//! `cargo xtask bench`: contestants side by side, over real servers.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use clap::Args;
use nix::sys::signal::Signal;
use tooz_setups::{SETUPS, Setup};

use crate::interrupt::Interrupt;
use crate::process::Process;
use crate::servers::{self, Host, bound_command};
use crate::{built, python, workspace};

/// The benchmark.
const TARGET: &str = "side_by_side";

/// The command-line options.
#[derive(Args, Debug, Default)]
pub(crate) struct Options {
    /// Measures only over these setups.
    #[arg(long, value_name = "SETUP", value_delimiter = ',')]
    only: Vec<String>,
    /// Measures only these: locks, groups, start, events, elections, hand-off, waiters, renewal,
    /// members, memory, alone.
    #[arg(long, value_name = "MEASURE", value_delimiter = ',')]
    measure: Vec<String>,
    /// Only checks that everything works, in a minute or two; the documentation is left alone.
    #[arg(long)]
    quick: bool,
    /// Installs what is missing, through apt.
    #[arg(long)]
    install: bool,
}

/// Runs the command.
pub(crate) fn run(options: &Options, interrupt: &Interrupt) -> anyhow::Result<()> {
    let setups = setups(&options.only)?;
    if options.install {
        servers::install(&servers::of_each(&setups))?;
    }
    let program = built::benchmark(TARGET, interrupt)?;
    let pythons = python::interpreters(interrupt)
        .context("the environments with Python tooz could not be made")?;
    let mut command = bound_command(&program.program);
    command.args(["--run", if options.quick { "quick" } else { "full" }]);
    command.current_dir(&program.folder).stdin(Stdio::null()).envs(pythons);
    command.env("TOOZ_BENCH_CRATES", other_crates(options.install, interrupt)?);
    command.env("TOOZ_BENCH_MEASURES", options.measure.join(","));
    let names: Vec<_> = setups.iter().map(|setup| setup.name).collect();
    command.env("TOOZ_TEST_SETUPS", names.join(","));

    let host = Host::crowded(interrupt)?;
    // Each setup has a server of its own, so that none works for another.
    let (mut running, urls) = servers::launch_each(&setups, &host)?;
    command.envs(urls);
    let status = Process::spawn("the benchmark", &mut command, Signal::SIGTERM)?.wait(interrupt)?;
    for server in &mut running {
        if let Some(end) = server.ended()? {
            eprintln!("a server did not survive: {end}\n{}", server.log_tail());
        }
    }
    ensure!(status.success(), "the benchmark failed: {status}");
    Ok(())
}

fn setups(only: &[String]) -> anyhow::Result<Vec<&'static Setup>> {
    let measured = || SETUPS.iter().filter(|setup| setup.benchmark.is_some());
    for name in only {
        let known: Vec<_> = measured().map(|setup| setup.name).collect();
        let is_known = known.contains(&&**name);
        ensure!(is_known, "{name} has no benchmarks; there are {}", known.join(", "));
    }
    let is_wanted = |setup: &&Setup| only.is_empty() || only.iter().any(|name| name == setup.name);
    Ok(measured().filter(is_wanted).collect())
}

/// Builds the program of the contestants that need crates which nothing else here does. It is no
/// member of the workspace, so that they cost only those who run the benchmarks.
fn other_crates(install: bool, interrupt: &Interrupt) -> anyhow::Result<PathBuf> {
    let target = workspace::root().join("target");
    let mut command = workspace::cargo();
    command.args(["build", "--release", "--manifest-path", "benches/crates/Cargo.toml"]);
    command.arg("--target-dir").arg(target.join("bench-crates"));
    if install && !["protoc", "pkg-config"].into_iter().all(is_there) {
        servers::install_packages(&NEEDED)?;
    }
    if is_there("protoc") {
        command.args(["--features", "etcd"]);
    } else {
        eprintln!("etcd-client does not take part: its build needs protoc (--install gets it)");
    }
    command.stdin(Stdio::null());
    let status = Process::spawn("cargo", &mut command, Signal::SIGTERM)?.wait(interrupt)?;
    ensure!(
        status.success(),
        "the other crates' program cannot be built, which takes OpenSSL's headers and pkg-config \
         (--install gets them): cargo {status}"
    );
    Ok(target.join("bench-crates/release/tooz-bench-crates"))
}

/// What the other crates' builds call, and look for.
const NEEDED: [&str; 4] = ["libprotobuf-dev", "libssl-dev", "pkg-config", "protobuf-compiler"];

fn is_there(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_is_chosen_by_name() {
        let chosen = setups(&["redis".into(), "file".into()]).unwrap();
        assert_eq!(chosen.iter().map(|setup| setup.name).collect::<Vec<_>>(), ["file", "redis"]);
        let error = setups(&["memory".into()]).unwrap_err().to_string();
        assert!(error.starts_with("memory has no benchmarks; there are file, ipc"), "{error}");
    }
}
