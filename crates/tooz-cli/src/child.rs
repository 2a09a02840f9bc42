//! Runs CMD, whether something is held meanwhile or not.
//!
//! # The job
//!
//! CMD runs in our process group, as under `flock`: it can read the terminal when we can, the
//! terminal's keys reach it, and a shell stops and continues the whole job. Only the
//! kernel and the shell are involved in that: see [`crate::front`]. A signal that was sent to the
//! whole job is not passed on (see [`crate::signals`]); one that was sent to us alone goes to CMD
//! and to everything that it started. SIGCONT follows, because a stopped process cannot end.
//!
//! # After a loss
//!
//! What CMD started must not continue without the lock. On Linux we are the subreaper of everything
//! that CMD started: orphans become our children, whatever their process group and session. So we
//! know all of them, reap them, and have ended them when we have no children left. Elsewhere this
//! covers CMD alone.
//!
//! # When we are killed
//!
//! SIGKILL gives us no chance to stop CMD, and the backend gives the lock to somebody else. So on
//! Linux the process that becomes CMD first asks the kernel for a SIGKILL when we die. This is lost
//! if CMD is a set-user-ID program, and does not reach what CMD started.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::OnceLock;
use std::task::Poll;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgid, getpgrp};
use tokio::signal::unix::{Signal as Heard, SignalKind};
use tooz::{Loss, Ownership};

use crate::output;
use crate::signals::{Interrupted, Signals};

/// The first argument of the process that becomes CMD.
const BECOME: &str = "__become";

/// The signals that we block, but CMD must not.
static BLOCKED: OnceLock<Vec<Signal>> = OnceLock::new();

/// From now on job control does not stop this process, but still stops CMD. Signals are blocked, not
/// caught, so messages can be written from the background even after `stty tostop`.
pub(crate) fn block_job_control() -> Result<()> {
    let signals = [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU];
    let before = SigSet::from_iter(signals).thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let before = before.context("cannot block signals")?;
    BLOCKED.get_or_init(|| signals.into_iter().filter(|s| !before.contains(*s)).collect());
    Ok(())
}

/// How CMD ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// By itself, with this exit code or by a signal.
    Exited(Result<u8, Interrupted>),
    /// It was stopped, because what it needs was lost.
    Lost(Loss),
}

/// Runs CMD to its end, or until one of what is held is lost: then it gets SIGTERM, and after
/// `grace` SIGKILL. Signals are passed on to it.
pub(crate) async fn run(
    command: &[OsString],
    variables: &[(impl AsRef<OsStr>, OsString)],
    held: &[&Ownership],
    grace: Duration,
    signals: &mut Signals,
) -> Result<Ended> {
    let mut running = Running::start(command, variables)?;
    loop {
        tokio::select! {
            status = running.ended() => {
                // A CMD that ended together with the loss may have worked without the lock.
                let loss = held.iter().find_map(|ownership| ownership.loss());
                return Ok(loss.map_or(Ended::Exited(status?), Ended::Lost));
            }
            received = signals.next() => {
                if !received.to_all || !running.is_in_our_group() {
                    running.signal(received.signal);
                    running.signal(Signal::SIGCONT);
                }
            }
            loss = lost(held) => {
                running.stop(grace, signals).await?;
                return Ok(Ended::Lost(loss));
            }
        }
    }
}

/// Waits until one of them is lost; if there are none, for ever.
pub(crate) async fn lost(held: &[&Ownership]) -> Loss {
    let mut losses: Vec<_> = held.iter().map(|ownership| Box::pin(ownership.lost())).collect();
    std::future::poll_fn(|cx| {
        let lost = losses.iter_mut().map(|lost| lost.as_mut().poll(cx)).find(Poll::is_ready);
        lost.unwrap_or(Poll::Pending)
    })
    .await
}

/// CMD, while it runs.
struct Running {
    pid: Pid,
    /// Wakes when a child ends.
    children: Heard,
    status: Option<Result<u8, Interrupted>>,
}

impl Running {
    fn start(command: &[OsString], variables: &[(impl AsRef<OsStr>, OsString)]) -> Result<Self> {
        // Before CMD starts, also because this undoes an ignored SIGCHLD.
        let children = tokio::signal::unix::signal(SignalKind::child());
        let children = children.context("cannot listen to signals")?;
        let mut process = Command::new(own_program()?);
        let blocked = BLOCKED.get().into_iter().flatten();
        let to_become =
            blocked.fold(Pid::this().to_string(), |text, signal| format!("{text}:{signal}"));
        process.arg0("tooz").arg(BECOME).arg(to_become).args(command);
        process.envs(variables.iter().map(|(name, value)| (name, value)));
        let child = process.spawn().context("cannot start a process")?;
        let pid = Pid::from_raw(child.id().cast_signed());
        Ok(Self { pid, children, status: None })
    }

    /// Waits until CMD has ended, and returns how.
    async fn ended(&mut self) -> Result<Result<u8, Interrupted>> {
        loop {
            self.reap()?;
            if let Some(status) = self.status.take() {
                return Ok(status);
            }
            self.children.recv().await;
        }
    }

    /// Waits until CMD and everything that it started are gone.
    async fn gone(&mut self) -> Result<()> {
        while self.reap()? {
            self.children.recv().await;
        }
        Ok(())
    }

    /// Collects which of our children have ended. Returns whether any are left.
    fn reap(&mut self) -> Result<bool> {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => return Ok(true),
                Err(Errno::ECHILD) => return Ok(false),
                Ok(WaitStatus::Exited(pid, code)) if pid == self.pid => {
                    self.status = Some(Ok(u8::try_from(code).unwrap_or(u8::MAX)));
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == self.pid => {
                    self.status = Some(Err(Interrupted(signal)));
                }
                // A child that a signal without a name ended, a real-time signal; is it CMD?
                Err(Errno::EINVAL) => {
                    if self.status.is_none() && kill(self.pid, None) == Err(Errno::ESRCH) {
                        self.status = Some(Ok(u8::MAX));
                    }
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("cannot wait for the command"),
            }
        }
    }

    fn is_in_our_group(&self) -> bool {
        getpgid(Some(self.pid)) == Ok(getpgrp())
    }

    /// Sends a signal to CMD and to what it started.
    fn signal(&self, signal: Signal) {
        let mut all = descendants().unwrap_or_else(|| vec![self.pid]);
        // CMD first: if what it waits for ended first, it would continue before it gets the signal.
        all.sort_by_key(|pid| *pid != self.pid);
        for pid in all {
            // An error means that it is gone, which is seen elsewhere.
            let _ = kill(pid, signal);
        }
    }

    /// Ends CMD and what it started, first with SIGTERM. A signal to us cuts the grace short.
    async fn stop(&mut self, grace: Duration, signals: &mut Signals) -> Result<()> {
        self.signal(Signal::SIGTERM);
        // A stopped process cannot end.
        self.signal(Signal::SIGCONT);
        tokio::select! {
            gone = self.gone() => return gone,
            () = tokio::time::sleep(grace) => {}
            _ = signals.next() => {}
        }
        loop {
            // Repeatedly: a process that starts at this moment is not yet known.
            self.signal(Signal::SIGKILL);
            if let Ok(gone) = tokio::time::timeout(AGAIN, self.gone()).await {
                return gone;
            }
        }
    }
}

/// How soon SIGKILL is sent again, to processes that escaped it by a fork.
const AGAIN: Duration = Duration::from_millis(50);

/// All our descendants. `None` if they cannot be found out.
fn descendants() -> Option<Vec<Pid>> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    let parents: HashMap<i32, i32> = std::fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| {
            let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The name before may have any character.
            let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?;
            Some((pid, parent.parse().ok()?))
        })
        .collect();
    let us = Pid::this().as_raw();
    let is_ours = |pid: &i32| {
        let mut ancestor = parents.get(pid);
        // A pid may meanwhile belong to another process, so there may be a cycle.
        for _ in 0..parents.len() {
            match ancestor {
                Some(&pid) if pid == us => return true,
                Some(pid) => ancestor = parents.get(pid),
                None => return false,
            }
        }
        false
    };
    Some(parents.keys().filter(|pid| is_ours(pid)).map(|pid| Pid::from_raw(*pid)).collect())
}

/// This program, even if its file was replaced meanwhile.
pub(crate) fn own_program() -> Result<OsString> {
    if cfg!(target_os = "linux") {
        return Ok("/proc/self/exe".into());
    }
    Ok(std::env::current_exe().context("cannot find this program")?.into())
}

/// In the process that [`run`] started: makes sure that CMD dies with us, and becomes CMD. Returns
/// only if it cannot, with the exit code, or if this is another process.
pub(crate) fn become_command_if_asked() -> Option<u8> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != BECOME {
        return None;
    }
    let to_become = arguments.next()?;
    let mut to_become = to_become.to_str()?.split(':');
    let parent = to_become.next()?.parse().ok()?;
    let program = arguments.next()?;
    // It fails for what is no signal, and these are some.
    let _ = to_become.flat_map(str::parse::<Signal>).collect::<SigSet>().thread_unblock();
    if !die_with(Pid::from_raw(parent)) {
        return Some(Interrupted(Signal::SIGKILL).die());
    }
    let error = std::process::Command::new(&program).args(arguments).exec();
    output::error("Other", &format!("cannot run {}: {error}", program.display()), None);
    // As in shells.
    Some(if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 })
}

/// Asks to be killed when the parent dies. False if it is already dead.
#[cfg(target_os = "linux")]
pub(crate) fn die_with(parent: Pid) -> bool {
    // If the kernel refuses, CMD runs without this.
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    nix::unistd::getppid() == parent
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn die_with(_parent: Pid) -> bool {
    true
}

/// Makes this process the parent of all orphans among its descendants.
pub(crate) fn become_reaper() {
    // If the kernel refuses, we cannot end what CMD started.
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_child_subreaper(true);
}
