//! A test program of several setups, such as the conformance suite: building it and running it.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::signal::Signal;

use super::Ready;
use super::report::Report;
use crate::built;
use crate::interrupt::Interrupt;
use crate::process::{Process, TICK};
use crate::servers::{Host, bound_command};
use crate::workspace;

/// The folder of their package.
const FOLDER: &str = "tests";

/// How long the output of a program that has ended may still be on its way.
const OUTPUT_LIMIT: Duration = Duration::from_secs(5);

/// A test program that is built.
#[derive(Debug)]
pub(super) struct TestProgram {
    program: PathBuf,
    folder: PathBuf,
    /// What it is told beside the setups and their servers.
    variables: Vec<(OsString, OsString)>,
}

/// How a run went.
#[derive(Debug)]
pub(super) struct Run {
    /// How the program ended.
    pub(super) status: ExitStatus,
    /// What it printed.
    pub(super) report: Report,
}

impl TestProgram {
    /// A program that somebody has built.
    pub(super) fn existing(program: &Path) -> anyhow::Result<Self> {
        let program = program
            .canonicalize()
            .with_context(|| format!("no test program at {}", program.display()))?;
        Ok(Self { program, folder: workspace::root(), variables: Vec::new() })
    }

    /// Builds a test target of the workspace's own.
    pub(super) fn build(target: &str, interrupt: &Interrupt) -> anyhow::Result<Self> {
        let folder = workspace::root().join(FOLDER);
        let built = built::test_programs(target, interrupt)?;
        let ours = built.into_iter().find(|program| program.folder == folder);
        let program =
            ours.with_context(|| format!("no test program {target} in {FOLDER}"))?.program;
        Ok(Self { program, folder, variables: Vec::new() })
    }

    /// The program with these environment variables.
    pub(super) fn with(self, variables: Vec<(OsString, OsString)>) -> Self {
        Self { variables, ..self }
    }

    /// Runs the setups in one go; the output is shown as it comes.
    pub(super) fn run(
        &self,
        ready: &[Ready],
        arguments: &[String],
        host: &Host,
    ) -> anyhow::Result<Run> {
        let mut command = bound_command(&self.program);
        command.args(arguments).current_dir(&self.folder);
        command.envs(self.variables.iter().cloned());
        set_environment(&mut command, ready);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut program = Process::spawn("the test program", &mut command, Signal::SIGTERM)?;
        let output = program.child().stdout.take().context("the program has no output")?;
        let report = Arc::new(Mutex::new(Report::default()));
        let reader = thread::spawn({
            let report = Arc::clone(&report);
            // Our own tests run made-up suites: nobody must take their closing lines for real.
            let screen: Box<dyn Write + Send> =
                if cfg!(test) { Box::new(std::io::sink()) } else { Box::new(std::io::stdout()) };
            move || pass_on(output, screen, &report)
        });
        let status = program.wait(&host.interrupt)?;
        // A process that the program left behind may hold the pipe open: it isn't waited for.
        let limit = Instant::now() + OUTPUT_LIMIT;
        while !reader.is_finished() && Instant::now() < limit {
            sleep(TICK);
        }
        let mut report =
            std::mem::take(&mut *report.lock().unwrap_or_else(PoisonError::into_inner));
        report.finish();
        Ok(Run { status, report })
    }
}

/// Tells the program which setups to run and where their servers are.
fn set_environment(command: &mut Command, ready: &[Ready]) {
    let names: Vec<_> = ready.iter().map(|ready| ready.setup.name).collect();
    command.env("TOOZ_TEST_SETUPS", names.join(","));
    for Ready { setup, url, control } in ready {
        if let Some(url) = url {
            command.env(setup.url_variable(), url);
        }
        if let Some(control) = control {
            command.env(setup.control_variable(), control);
        }
    }
}

/// Shows the output as it comes, even in the middle of a line, and reads it on the way.
fn pass_on(mut output: impl Read, mut screen: impl Write, report: &Mutex<Report>) {
    let mut chunk = [0; 4096];
    loop {
        let read = match output.read(&mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(read) => read,
        };
        // Nobody may be looking any more; the tests still count.
        let _ = screen.write_all(&chunk[..read]).and_then(|()| screen.flush());
        report.lock().unwrap_or_else(PoisonError::into_inner).feed(&chunk[..read]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::servers;

    #[test]
    fn the_environment_names_setups_and_urls() {
        let ready = [
            Ready { setup: servers::find("memory").unwrap(), url: None, control: None },
            Ready {
                setup: servers::find("etcd3-http").unwrap(),
                url: Some("u".to_owned()),
                control: Some("c".into()),
            },
        ];
        let mut command = Command::new("true");
        set_environment(&mut command, &ready);
        let variables: Vec<_> = command
            .get_envs()
            .map(|(name, value)| (name.to_str().unwrap(), value.unwrap().to_str().unwrap()))
            .collect();
        let expected = [
            ("TOOZ_TEST_CONTROL_ETCD3_HTTP", "c"),
            ("TOOZ_TEST_SETUPS", "memory,etcd3-http"),
            ("TOOZ_TEST_URL_ETCD3_HTTP", "u"),
        ];
        assert_eq!(variables, expected);
    }
}
