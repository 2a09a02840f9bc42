//! The process that the shell knows, in front of the one that does the work.
//!
//! A command that runs CMD is two processes in one job:
//!
//! ```text
//! shell ── front ── holder ── CMD
//! ```
//!
//! The front only waits, as `flock` does: it stops and continues with the job, it passes
//! on the signals that it gets, and it ends as the holder ends. The holder is never stopped by job
//! control. So the lock is kept while the job is stopped, for as long as the user wants, and
//! nothing can continue without it. SIGSTOP to the front does no harm either. SIGSTOP to the whole
//! job stops the holder too: then the lock may be lost, and CMD, which continues at the same moment
//! as the holder, runs until the holder has looked at the clock. A pause of the machine has the same
//! effect.
//!
//! When the front dies, so does the holder, and with it CMD. As process 1 of a container the front
//! also reaps the orphans that come to it.

use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::str::FromStr;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::child;
use crate::signals::{self, Interrupted};

/// Runs this command line again as the holder, and ends as the holder does: with its exit code, or
/// with the signal that ended it as the error.
pub(crate) fn run() -> Result<u8> {
    // Before the holder starts, so that nothing is missed. The handler also undoes an ignored
    // SIGCHLD, with which there would be no exit code.
    let mut signals = signals::hook(&[Signal::SIGCHLD])?;
    let (reader, mut writer) = std::io::pipe().context("cannot make a pipe")?;
    // The holder inherits this end.
    fcntl(&reader, FcntlArg::F_SETFD(FdFlag::empty())).context("cannot make a pipe")?;
    let link = Link { pipe: reader.as_raw_fd(), front: Pid::this() };
    let mut command = Command::new(child::own_program()?);
    command.arg0("tooz").arg(format!("--front={link}")).args(std::env::args_os().skip(1));
    let holder = command.spawn().context("cannot start a process")?;
    let holder = Pid::from_raw(holder.id().cast_signed());
    drop(reader);

    for number in signals.forever() {
        if number == Signal::SIGCHLD as i32 {
            if let Some(code) = reap(holder)? {
                return Ok(code);
            }
        } else if let Ok(byte) = u8::try_from(number) {
            // An error means that the holder has ended, which comes next.
            let _ = writer.write_all(&[byte]);
        }
    }
    anyhow::bail!("cannot listen to signals")
}

/// Reaps what has ended: orphans, and the holder, whose end is ours.
fn reap(holder: Pid) -> Result<Option<u8>> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == holder => {
                return Ok(Some(u8::try_from(code).unwrap_or(u8::MAX)));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == holder => {
                return Err(Interrupted(signal).into());
            }
            Ok(WaitStatus::StillAlive) => return Ok(None),
            // An orphan; EINVAL means one that a signal without a name ended.
            Ok(_) | Err(Errno::EINTR | Errno::EINVAL) => {}
            Err(error) => return Err(error).context("cannot wait for a process"),
        }
    }
}

/// What a holder must know about its front: the value of its hidden option.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    /// Where the numbers of the front's signals arrive, one byte each.
    pipe: RawFd,
    front: Pid,
}

impl Link {
    /// Makes this process the holder. Before it has threads: they inherit the blocked signals.
    pub(crate) fn attach(self) -> Result<File> {
        child::block_job_control()?;
        child::become_reaper();
        if !child::die_with(self.front) {
            return Err(Interrupted(Signal::SIGKILL).into());
        }
        let pipe = File::open(format!("/dev/fd/{}", self.pipe)).context("cannot open the pipe")?;
        // CMD must not inherit it.
        nix::unistd::close(self.pipe).context("cannot close the pipe")?;
        Ok(pipe)
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.pipe, self.front)
    }
}

impl FromStr for Link {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (pipe, front) = text.split_once(':').unwrap_or((text, ""));
        Ok(Self { pipe: pipe.parse()?, front: Pid::from_raw(front.parse()?) })
    }
}
