//! Runs CMD, while something is held or not.
//!
//! # The terminal and the process group
//!
//! In the foreground of a terminal, CMD stays in our process group: it can read the terminal, and
//! Ctrl-C reaches it as it would without us. Such a signal of the terminal has gone to both, so it
//! is not passed on; one that a process sent to us alone is.
//!
//! Everywhere else (services, CI, a job in the background) CMD leads a process group of its own.
//! Signals go to that whole group, and so does the end after a loss: what CMD started does not go
//! on without the lock.
//!
//! # When we are killed
//!
//! SIGKILL gives us no chance to stop CMD, and the backend gives the lock to somebody else. So on
//! Linux CMD asks the kernel, before it becomes CMD, for a SIGKILL when we die. This is lost
//! where CMD is a set-user-ID program, and does not reach what CMD started.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tooz::{Loss, Tenure};

use crate::output;
use crate::signals::Signals;

/// The first argument of the process that is to become CMD.
const BECOME: &str = "__become";

/// How CMD ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// By itself, with this exit code.
    Exited(u8),
    /// It was stopped, because what it needs was lost.
    Lost(Loss),
}

/// Runs CMD to its end, or until `tenure` is lost: then it gets SIGTERM, and after `grace`
/// SIGKILL. Signals are passed on to it.
pub(crate) async fn run(
    command: &[OsString],
    variables: &[(&str, OsString)],
    tenure: Option<&Tenure>,
    grace: Duration,
    signals: &mut Signals,
) -> Result<Ended> {
    let mut running = Running::start(command, variables)?;
    loop {
        tokio::select! {
            status = running.child.wait() => {
                let code = exit_code(status.context("cannot wait for the command")?);
                // What ended together with the loss may have worked without the lock.
                return Ok(tenure.and_then(Tenure::loss).map_or(Ended::Exited(code), Ended::Lost));
            }
            received = signals.next() => {
                if !(running.in_our_group && received.from_terminal) {
                    running.signal(received.signal);
                }
            }
            loss = lost(tenure) => {
                running.stop(grace).await?;
                return Ok(Ended::Lost(loss));
            }
        }
    }
}

async fn lost(tenure: Option<&Tenure>) -> Loss {
    match tenure {
        Some(tenure) => tenure.lost().await,
        None => std::future::pending().await,
    }
}

/// The exit code as shells give it: 128 + n for signal n.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// CMD, while it runs.
struct Running {
    child: Child,
    pid: Pid,
    in_our_group: bool,
}

impl Running {
    fn start(command: &[OsString], variables: &[(&str, OsString)]) -> Result<Self> {
        let in_our_group = in_foreground();
        let mut process = Command::new(own_program()?);
        process.arg0("tooz").arg(BECOME).arg(std::process::id().to_string()).args(command);
        process.envs(variables.iter().map(|(name, value)| (name, value)));
        if !in_our_group {
            process.process_group(0);
        }
        let child = process.spawn().context("cannot start a process")?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let pid = Pid::from_raw(pid.context("the process has no id")?);
        Ok(Self { child, pid, in_our_group })
    }

    /// Sends a signal to CMD, and to what it started where they have a group of their own.
    fn signal(&self, signal: Signal) {
        // An error means that CMD is gone, which is seen elsewhere.
        let _ = match self.in_our_group {
            true => kill(self.pid, signal),
            false => killpg(self.pid, signal),
        };
    }

    /// Ends CMD, politely at first.
    async fn stop(&mut self, grace: Duration) -> Result<()> {
        self.signal(Signal::SIGTERM);
        // What is stopped cannot end.
        self.signal(Signal::SIGCONT);
        if tokio::time::timeout(grace, self.gone()).await.is_err() {
            self.signal(Signal::SIGKILL);
        }
        self.child.wait().await.context("cannot wait for the command")?;
        Ok(())
    }

    /// Waits until CMD, and its group if it has one, is gone.
    async fn gone(&mut self) {
        // An error is met again in `stop`.
        let _ = self.child.wait().await;
        // Nobody tells when the last process of a group ends, so this looks.
        while !self.in_our_group && killpg(self.pid, None) != Err(Errno::ESRCH) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Whether we are in the foreground of a terminal.
fn in_foreground() -> bool {
    let Ok(terminal) = std::fs::File::open("/dev/tty") else { return false };
    nix::unistd::tcgetpgrp(&terminal) == Ok(nix::unistd::getpgrp())
}

/// This program, also when its file was replaced meanwhile.
fn own_program() -> Result<OsString> {
    if cfg!(target_os = "linux") {
        return Ok("/proc/self/exe".into());
    }
    Ok(std::env::current_exe().context("cannot find this program")?.into())
}

/// In the process that [`run`] started: makes sure that CMD dies with us, and becomes CMD. Returns
/// only where it cannot, with the exit code, or if this is another process.
pub(crate) fn become_command_if_asked() -> Option<u8> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != BECOME {
        return None;
    }
    let parent = arguments.next()?;
    let program = arguments.next()?;
    if !die_with(&parent) {
        return Some(128 + 9);
    }
    let error = std::process::Command::new(&program).args(arguments).exec();
    output::error("Other", &format!("cannot run {}: {error}", program.display()), None);
    // As shells have it.
    Some(if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 })
}

/// Asks to be killed when the parent dies. False if it is dead already.
#[cfg(target_os = "linux")]
fn die_with(parent: &OsStr) -> bool {
    // Where the kernel refuses, CMD runs without this.
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    nix::unistd::getppid().to_string().as_str() == parent
}

#[cfg(not(target_os = "linux"))]
fn die_with(_parent: &OsStr) -> bool {
    true
}
