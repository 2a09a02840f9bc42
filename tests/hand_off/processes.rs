//! Workers that are processes: this program, started again.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::oneshot;
use tooz_core::{DriverEntry, Heartbeat};

use super::fire::Fleet;
use super::gate::Gate;
use super::worker::{self, Workplace};

/// The first argument of a worker. The others are the fields of [`Worker`].
const WORKER: &str = "--worker";

/// The inside of a worker process.
pub(crate) struct Worker {
    pub(crate) setup: String,
    url: String,
    member: String,
    folder: PathBuf,
}

impl Worker {
    pub(crate) fn of_this_process() -> Option<Self> {
        let mut arguments = std::env::args().skip(1);
        if arguments.next()? != WORKER {
            return None;
        }
        let mut next = || arguments.next().expect("a worker has four arguments");
        Some(Self { setup: next(), url: next(), member: next(), folder: next().into() })
    }

    pub(crate) fn run(self, driver: DriverEntry) -> ExitCode {
        // The end of the input reaches no stopped process; this does.
        prctl::set_pdeathsig(Signal::SIGKILL).expect("Linux has it");
        let (send_home, go_home) = oneshot::channel();
        std::thread::spawn(move || {
            let mut lines = std::io::stdin().lock().lines();
            // Any line sends it home; the end without one means that the parent is dead.
            if !matches!(lines.next(), Some(Ok(_))) {
                std::process::exit(1);
            }
            // An error means that it has ended already.
            let _ = send_home.send(());
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let Self { url, member, folder, .. } = self;
        let workplace = Workplace {
            member: member.clone(),
            folder,
            gate: Gate::default(),
            heartbeat: Heartbeat::Automatic,
        };
        match runtime.block_on(worker::run(driver, &url, workplace, go_home)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{member}: {error}");
                ExitCode::FAILURE
            }
        }
    }
}

/// Starts them.
pub(crate) struct Processes {
    setup: &'static str,
    url: String,
    folder: PathBuf,
    /// Sent home, and not gone yet.
    leaving: Vec<Process>,
}

/// One of them, which dies with this process.
pub(crate) struct Process(Child);

impl Processes {
    pub(crate) fn new(setup: &'static str, url: &str, folder: &Path) -> Self {
        Self { setup, url: url.to_owned(), folder: folder.to_owned(), leaving: Vec::new() }
    }
}

impl Fleet for Processes {
    type Worker = Process;
    const CAN_STALL: bool = false;

    fn start(&mut self, member: &str) -> Process {
        let child = Command::new(std::env::current_exe().unwrap())
            .args([WORKER, self.setup, &self.url, member])
            .arg(&self.folder)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        Process(child)
    }

    fn kill(&mut self, _member: &str, worker: Process) {
        drop(worker);
    }

    fn send_home(&mut self, mut worker: Process) {
        worker.0.stdin.as_mut().unwrap().write_all(b"go home\n").unwrap();
        self.leaving.push(worker);
    }

    fn pause(&mut self, worker: &Process) {
        worker.signal(Signal::SIGSTOP);
    }

    fn resume(&mut self, worker: &Process) {
        worker.signal(Signal::SIGCONT);
    }

    fn stall(&mut self, _stalled: bool) {
        unreachable!("the server is not ours to stop");
    }

    fn failed(&mut self) -> Vec<String> {
        let mut failed = Vec::new();
        self.leaving.retain_mut(|worker| match worker.0.try_wait().unwrap() {
            Some(status) if !status.success() => {
                failed.push(format!("a worker that was sent home ended with {status}"));
                false
            }
            end => end.is_none(),
        });
        failed
    }

    fn is_everyone_home(&self) -> bool {
        self.leaving.is_empty()
    }
}

impl Process {
    fn signal(&self, signal: Signal) {
        let id = self.0.id().try_into().expect("process ids are small");
        kill(Pid::from_raw(id), signal).expect("a child takes signals until it is waited for");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that it has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
