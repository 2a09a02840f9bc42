//! The workspace's test programs and benchmarks, built by one and the same command line but for the
//! targets: with other packages or features, cargo would choose other features for what they depend
//! on, and build that again.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::interrupt::Interrupt;
use crate::process::Process;
use crate::workspace;

/// What every cargo command of ours is about.
pub(crate) const EVERYTHING: [&str; 2] = ["--workspace", "--all-features"];

/// A target that is built.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Built {
    /// Its package's folder, in which `cargo test` would run it.
    pub(crate) folder: PathBuf,
    /// Its name.
    pub(crate) target: String,
    /// Where it is.
    pub(crate) program: PathBuf,
}

/// Builds the test targets of that name, a pattern, in the folders for tests.
pub(crate) fn test_programs(targets: &str, interrupt: &Interrupt) -> anyhow::Result<Vec<Built>> {
    programs("test", targets, interrupt)
}

/// Builds the benchmark of that name, optimised.
pub(crate) fn benchmark(target: &str, interrupt: &Interrupt) -> anyhow::Result<Built> {
    let built = programs("bench", target, interrupt)?;
    built.into_iter().next().with_context(|| format!("no benchmark {target}"))
}

/// Builds targets of that kind, which names both cargo's command and its option.
fn programs(kind: &str, targets: &str, interrupt: &Interrupt) -> anyhow::Result<Vec<Built>> {
    let mut command = workspace::cargo();
    command
        .arg(kind)
        .args(EVERYTHING)
        .args([&format!("--{kind}"), targets, "--no-run"])
        .arg("--message-format=json-render-diagnostics")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut cargo = Process::spawn("cargo", &mut command, Signal::SIGTERM)?;
    let mut output = cargo.child().stdout.take().context("cargo has no output")?;
    let reader = thread::spawn(move || {
        let mut messages = String::new();
        output.read_to_string(&mut messages).map(|_| messages)
    });
    let status = cargo.wait(interrupt)?;
    ensure!(status.success(), "the programs {targets} cannot be built: cargo {status}");
    let messages = match reader.join() {
        Ok(messages) => messages.context("cargo's messages cannot be read")?,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    let built: Vec<_> = messages.lines().filter_map(|message| read(message, kind)).collect();
    ensure!(!built.is_empty(), "cargo does not say where it built {targets} to");
    Ok(built)
}

/// The program of that kind that a message of cargo's is about, if any.
fn read(message: &str, wanted: &str) -> Option<Built> {
    let message: Value = serde_json::from_str(message).ok()?;
    let is_wanted = message["target"]["kind"].as_array()?.iter().any(|kind| kind == wanted);
    let program = message["executable"].as_str().filter(|_| is_wanted)?;
    Some(Built {
        folder: Path::new(message["manifest_path"].as_str()?).parent()?.to_owned(),
        target: message["target"]["name"].as_str()?.to_owned(),
        program: program.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_found_among_cargos_messages() {
        let messages = r#"
            not json
            {"reason":"compiler-artifact","manifest_path":"/w/p/Cargo.toml","target":{"name":"p","kind":["lib"]},"executable":"/a"}
            {"reason":"compiler-artifact","manifest_path":"/w/p/Cargo.toml","target":{"name":"live","kind":["test"]},"executable":"/b"}
            {"reason":"build-finished","success":true}"#;
        let built: Vec<_> = messages.lines().filter_map(|line| read(line, "test")).collect();
        let live = Built { folder: "/w/p".into(), target: "live".into(), program: "/b".into() };
        assert_eq!(built, [live]);
    }
}
