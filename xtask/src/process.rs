//! A child process that is never left behind.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::interrupt::Interrupt;

/// How often a waiting loop looks again.
pub(crate) const TICK: Duration = Duration::from_millis(20);

/// How long a process that was asked to end may take before it is killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running child with a process group of its own, so that a terminal's Ctrl-C reaches it only
/// through us and whatever it starts can be ended with it. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    stop_signal: Signal,
    exit: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`; `stop_signal` is the one that ends it quickly and cleanly.
    pub(crate) fn spawn(
        name: &str,
        command: &mut Command,
        stop_signal: Signal,
    ) -> anyhow::Result<Self> {
        let child = command
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Self { name: name.to_owned(), child, stop_signal, exit: None })
    }

    /// What the process is called in messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The child itself, for its pipes.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// How the process ended, or `None` while it runs.
    pub(crate) fn poll(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        if self.exit.is_none() {
            self.exit = self.child.try_wait().context("cannot wait for a child")?;
            if self.exit.is_some() {
                // What it started and left behind ends too.
                self.signal_group(Signal::SIGKILL);
            }
        }
        Ok(self.exit)
    }

    /// Waits until the process ends by itself or a signal interrupts us.
    pub(crate) fn wait(&mut self, interrupt: &Interrupt) -> anyhow::Result<ExitStatus> {
        loop {
            if let Some(status) = self.poll()? {
                return Ok(status);
            }
            interrupt.check()?;
            sleep(TICK);
        }
    }

    /// Ends the process, politely at first. Says so when it had to be killed.
    pub(crate) fn stop(&mut self) {
        if matches!(self.poll(), Ok(Some(_))) {
            return;
        }
        self.signal_leader();
        let limit = Instant::now() + PATIENCE;
        while Instant::now() < limit {
            if matches!(self.poll(), Ok(Some(_))) {
                return;
            }
            sleep(TICK);
        }
        eprintln!("{} ignored {}: killing it", self.name, self.stop_signal);
        self.signal_group(Signal::SIGKILL);
        self.exit = self.child.wait().ok();
    }

    /// Halts the process with all that it started.
    pub(crate) fn freeze(&self) {
        self.signal_tree(Signal::SIGSTOP);
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal_tree(Signal::SIGCONT);
    }

    /// Kills the process with all that it started.
    pub(crate) fn kill(&mut self) {
        self.signal_tree(Signal::SIGKILL);
        self.exit = self.child.wait().ok();
    }

    /// Signals also what has a process group of its own, as PostgreSQL's children have, and waits
    /// until it works: a database that finds a child of its predecessor does not start.
    fn signal_tree(&self, signal: Signal) {
        let pids: Vec<_> = self.pid().into_iter().flat_map(tree).collect();
        for pid in &pids {
            // It may have ended in between: nothing left to do then.
            let _ = kill(*pid, signal);
        }
        // Stopped, or a zombie that nobody has collected yet.
        let is_done = |state: &str| match signal {
            Signal::SIGCONT => state != "T",
            Signal::SIGSTOP => state == "T" || state == "Z",
            _ => state == "Z",
        };
        let limit = Instant::now() + PATIENCE;
        while Instant::now() < limit
            && pids.iter().any(|pid| stat(*pid, 0).is_some_and(|state| !is_done(&state)))
        {
            sleep(TICK);
        }
    }

    /// Asks the process alone: a server ends its own children in the right order.
    fn signal_leader(&self) {
        if let Some(pid) = self.pid() {
            // The process may have ended in between: nothing left to do then.
            let _ = kill(pid, self.stop_signal);
        }
    }

    fn signal_group(&self, signal: Signal) {
        if let Some(pid) = self.pid()
            && let Err(error) = killpg(pid, signal)
            && error != Errno::ESRCH
        {
            eprintln!("cannot end what {} started: {error}", self.name);
        }
    }

    fn pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().map(Pid::from_raw)
    }
}

/// A process with its children and theirs.
fn tree(root: Pid) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let family: Vec<_> = pids
        .map(Pid::from_raw)
        .filter_map(|pid| Some((pid, stat(pid, 1)?.parse().map(Pid::from_raw).ok()?)))
        .collect();
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(&parent) = tree.get(next) {
        tree.extend(family.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    tree
}

/// What the kernel tells of a process after its name: its state, its parent, and so on.
fn stat(pid: Pid, field: usize) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(')')?.1.split_whitespace().nth(field)?.to_owned())
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}
