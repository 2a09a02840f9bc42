//! What a server's module builds its server on.

use std::fs::{File, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::fetched::Fetched;
use super::host::{Host, find_program};
use super::server::Need;
use crate::process::{Process, TICK};

/// Long, because a slow machine that starts a JVM beside a build needs it.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// A temporary folder that belongs to the servers' user, a log in it, and the processes started
/// so far. Dropping it ends them and removes the folder.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    host: &'a Host,
    // Before the folder: fields drop in this order, and a server must not lose its folder first.
    processes: Vec<Process>,
    /// How the processes were started, and their server found ready: to do it again.
    starts: Vec<Start>,
    folder: TempDir,
}

/// A part of a start.
enum Start {
    Process { name: String, command: Box<Command>, stop_signal: Signal },
    Ready(Box<dyn Fn() -> bool + Send>),
}

impl std::fmt::Debug for Start {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Process { name, .. } => f.write_str(name),
            Self::Ready(_) => f.write_str("ready"),
        }
    }
}

impl<'a> Stage<'a> {
    /// An empty stage for the server called `name`.
    pub(super) fn new(host: &'a Host, name: &str) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix(&format!("tooz-{name}-"))
            .permissions(Permissions::from_mode(0o755))
            .tempdir()
            .context("cannot make a temporary folder")?;
        let stage = Self { host, processes: Vec::new(), starts: Vec::new(), folder };
        stage.give(stage.folder())?;
        Ok(stage)
    }

    /// The server's folder.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A path in the folder, as text for a configuration file.
    pub(super) fn path(&self, name: &str) -> anyhow::Result<String> {
        let path = self.folder().join(name);
        path.to_str().map(str::to_owned).context("the temporary folder's path is not UTF-8")
    }

    /// The file that holds all that the processes print.
    pub(super) fn log(&self) -> PathBuf {
        self.folder().join("log")
    }

    /// `setting` for a server that must take more connections than by default; else none.
    pub(super) fn if_crowded<'s>(&self, setting: &'s str) -> Option<&'s str> {
        self.host.crowded.then_some(setting)
    }

    /// A free port.
    pub(super) fn port(&self) -> anyhow::Result<u16> {
        self.host.ports.free()
    }

    /// Writes a file for the server to read, and to change.
    pub(super) fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.folder().join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        self.give(&path)
    }

    /// Makes a folder for the server to keep its data in; its path as text.
    pub(super) fn make_folder(&self, name: &str) -> anyhow::Result<String> {
        let path = self.folder().join(name);
        std::fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        self.give(&path)?;
        self.path(name)
    }

    /// A command for an installed program, to be handed to [`run`](Self::run) or
    /// [`spawn`](Self::spawn).
    pub(super) fn command(&self, program: &str) -> anyhow::Result<Command> {
        let path = find_program(program).with_context(|| format!("{program} is not installed"))?;
        self.command_for(&path)
    }

    /// The same for a program of a package from another release.
    pub(super) fn fetched_command(&self, need: &Need) -> anyhow::Result<Command> {
        let package = Fetched::named(need.package).context("a package of our own release")?;
        let (loader, arguments) = package.program(need.file)?;
        let mut command = self.command_for(&loader)?;
        command.args(arguments);
        Ok(command)
    }

    fn command_for(&self, path: &Path) -> anyhow::Result<Command> {
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut command = self.host.server_command(path)?;
        command
            .current_dir(self.folder())
            .env("HOME", self.folder())
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        Ok(command)
    }

    /// Runs a preparing program to its end.
    pub(super) fn run(&self, name: &str, mut command: Command) -> anyhow::Result<()> {
        let mut process = Process::spawn(name, &mut command, Signal::SIGTERM)?;
        let status = process.wait(&self.host.interrupt)?;
        ensure!(status.success(), "{name} failed: {status}");
        Ok(())
    }

    /// Starts a process of the server; `stop_signal` is the one that ends it quickly and cleanly.
    pub(super) fn spawn(
        &mut self,
        name: &str,
        command: Command,
        stop_signal: Signal,
    ) -> anyhow::Result<()> {
        let (name, command) = (name.to_owned(), Box::new(command));
        self.do_start(Start::Process { name, command, stop_signal })
    }

    /// Waits until `probe` says that the server serves.
    pub(super) fn wait_ready(
        &mut self,
        probe: impl Fn() -> bool + Send + 'static,
    ) -> anyhow::Result<()> {
        self.do_start(Start::Ready(Box::new(probe)))
    }

    fn do_start(&mut self, mut start: Start) -> anyhow::Result<()> {
        match &mut start {
            Start::Process { name, command, stop_signal } => {
                self.processes.push(Process::spawn(name, command, *stop_signal)?);
            }
            Start::Ready(probe) => self.wait_until(probe)?,
        }
        self.starts.push(start);
        Ok(())
    }

    /// Halts all processes where they are.
    pub(super) fn freeze(&self) {
        self.processes.iter().for_each(Process::freeze);
    }

    /// Kills all processes, which loses what they had in memory.
    pub(super) fn kill(&mut self) {
        self.processes.iter().for_each(Process::freeze);
        for mut process in self.processes.drain(..) {
            process.kill();
        }
    }

    /// Lets halted processes go on, and starts killed ones again; waits until they serve.
    pub(super) fn start_again(&mut self) -> anyhow::Result<()> {
        self.processes.iter().for_each(Process::thaw);
        let were_killed = self.processes.is_empty();
        for start in std::mem::take(&mut self.starts) {
            match start {
                Start::Process { .. } if !were_killed => self.starts.push(start),
                start => self.do_start(start)?,
            }
        }
        Ok(())
    }

    fn wait_until(&mut self, probe: &dyn Fn() -> bool) -> anyhow::Result<()> {
        let limit = Instant::now() + READY_LIMIT;
        loop {
            self.host.interrupt.check()?;
            let ready = probe();
            // Looked at after the probe: what answered on our port could be another's server.
            if let Some(end) = self.ended()? {
                bail!(end);
            }
            if ready {
                return Ok(());
            }
            if Instant::now() > limit {
                bail!("not ready after {} s", READY_LIMIT.as_secs());
            }
            sleep(TICK);
        }
    }

    /// Which process has ended by itself, and how.
    pub(super) fn ended(&mut self) -> anyhow::Result<Option<String>> {
        for process in &mut self.processes {
            if let Some(status) = process.poll()? {
                return Ok(Some(format!("{} ended: {status}", process.name())));
            }
        }
        Ok(None)
    }

    /// All that the processes have printed.
    pub(super) fn log_text(&self) -> String {
        match std::fs::read(self.log()) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(_) => String::new(),
        }
    }

    fn give(&self, path: &Path) -> anyhow::Result<()> {
        if let Some(user) = &self.host.user {
            chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
                .with_context(|| format!("cannot give {} to {}", path.display(), user.name))?;
        }
        Ok(())
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        while let Some(mut process) = self.processes.pop() {
            process.stop();
        }
    }
}
