//! `cargo xtask mixed-fleet`: processes of ours and of Python tooz side by side, on real servers.

use anyhow::{Context as _, ensure};
use clap::Args;
use tooz_setups::{SETUPS, Setup};

use crate::interrupt::Interrupt;
use crate::{python, servers, test_backends};

/// The test target of the cases.
const TARGET: &str = "mixed_fleet";

/// What the command line says.
#[derive(Args, Debug, Default)]
pub(crate) struct Options {
    /// Runs only these setups, instead of every one that has a Python peer.
    #[arg(long, value_name = "SETUP", value_delimiter = ',')]
    only: Vec<String>,
    /// Contends for seconds instead of tens of seconds, and leaves out the cases that wait for long
    /// times to live.
    #[arg(long)]
    short: bool,
    /// Writes the results into `docs/mixed-fleets.md`, instead of failing when they differ from it.
    #[arg(long)]
    write: bool,
    /// Installs missing servers, through apt.
    #[arg(long)]
    install: bool,
    /// Arguments after `--` go to the test program: a filter, `--exact`, `--test-threads 1`.
    #[arg(last = true, value_name = "ARGUMENT")]
    pass: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(options: &Options, interrupt: &Interrupt) -> anyhow::Result<()> {
    let setups = setups(&options.only)?;
    let mut variables = python::interpreters(interrupt)
        .context("the environments with Python tooz could not be made")?;
    let form = if options.short { "short" } else { "full" };
    variables.push(("TOOZ_MIXED_FLEET".into(), form.into()));
    let table = if options.write { "write" } else { "check" };
    variables.push(("TOOZ_MIXED_TABLE".into(), table.into()));
    test_backends::run_other(TARGET, &setups, variables, options.install, &options.pass, interrupt)
}

/// The short form over every setup, as continuous integration runs it.
pub(crate) fn run_short(interrupt: &Interrupt) -> anyhow::Result<()> {
    run(&Options { short: true, install: true, ..Options::default() }, interrupt)
}

/// The setups to run: those of `only`, or all that can be.
fn setups(only: &[String]) -> anyhow::Result<Vec<&'static str>> {
    let has_python = |setup: &&Setup| !setup.beside_python.is_empty();
    for name in only {
        ensure!(has_python(&servers::find(name)?), "{name} has no Python peer");
    }
    let is_wanted = |setup: &&Setup| only.is_empty() || only.iter().any(|name| name == setup.name);
    let setups = SETUPS.iter().filter(is_wanted).filter(has_python);
    Ok(setups.map(|setup| setup.name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setups_have_a_python_peer() {
        assert_eq!(setups(&["redis".into(), "file".into()]).unwrap(), ["file", "redis"]);
        assert!(setups(&[]).unwrap().contains(&"redis"));
        assert!(!setups(&[]).unwrap().contains(&"memory"));
        let error = setups(&["memory".into()]).unwrap_err().to_string();
        assert_eq!(error, "memory has no Python peer");
    }
}
