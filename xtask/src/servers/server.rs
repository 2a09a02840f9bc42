//! A server that can be started, and one that runs.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::anyhow;

use super::control::Control;
use super::fetched::Fetched;
use super::host::{Host, find_program};
use super::stage::Stage;
use crate::interrupt::Interrupted;

/// Somebody else may take a port between our look and the server's start.
const ATTEMPTS: u32 = 5;

/// How many lines of a log are shown.
const TAIL_LINES: usize = 60;

/// A server program and how to start it. Each module beside this one exports one.
#[derive(Debug)]
pub(crate) struct Server {
    /// Its name in messages.
    pub(crate) name: &'static str,
    /// What must be installed.
    pub(crate) needs: &'static [Need],
    /// Starts it on a stage, waits until it serves, and returns its address: what stands behind
    /// `scheme://` in a URL.
    pub(crate) start: fn(&mut Stage<'_>) -> anyhow::Result<String>,
}

/// A file that must be installed.
#[derive(Debug)]
pub(crate) struct Need {
    /// The program's name, or an absolute path; of a fetched package, the path within it.
    pub(crate) file: &'static str,
    /// Debian's package that brings it. `PACKAGE/RELEASE` is fetched from another release.
    pub(crate) package: &'static str,
}

impl Need {
    fn is_met(&self) -> bool {
        match Fetched::named(self.package) {
            Some(fetched) => fetched.root().join(self.file).is_file(),
            None => find_program(self.file).is_some(),
        }
    }
}

impl Server {
    /// The packages that are missing, each once.
    pub(crate) fn missing_packages(&self) -> Vec<&'static str> {
        let missing = self.needs.iter().filter(|need| !need.is_met());
        let mut packages: Vec<_> = missing.map(|need| need.package).collect();
        packages.dedup();
        packages
    }

    /// Starts the server; an error holds the end of its log.
    pub(crate) fn launch<'a>(&self, host: &'a Host) -> anyhow::Result<Running<'a>> {
        let missing = self.missing_packages();
        if !missing.is_empty() {
            let packages = missing.join(" ");
            return Err(anyhow!(
                "{} is not installed: packages missing: {packages}\n\
                 add --install to install them, or name a server of your own: --url SCHEME=URL",
                self.name
            ));
        }
        let mut attempt = 1;
        loop {
            let mut stage = Stage::new(host, self.name)?;
            let error = match (self.start)(&mut stage) {
                Ok(address) => {
                    let control = Control::new(&stage.folder().join("control"))?;
                    return Ok(Running { stage, address, control });
                }
                Err(error) => error,
            };
            let log = stage.log_text();
            if error.is::<Interrupted>() {
                return Err(error);
            }
            if attempt == ATTEMPTS || !port_was_taken(&log) {
                return Err(anyhow!("{} did not start: {error:#}\n{}", self.name, tail(&log)));
            }
            attempt += 1;
        }
    }
}

/// A server that serves. Dropping it stops it and removes its folder.
#[derive(Debug)]
pub(crate) struct Running<'a> {
    stage: Stage<'a>,
    address: String,
    control: Control,
}

impl Running<'_> {
    /// What stands behind `scheme://` in a URL.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The file that holds all that the server prints.
    pub(crate) fn log(&self) -> PathBuf {
        self.stage.log()
    }

    /// The end of the log, for people.
    pub(crate) fn log_tail(&self) -> String {
        tail(&self.stage.log_text())
    }

    /// The socket on which tests harm it: see [`Control`].
    pub(crate) fn control(&self) -> &Path {
        self.control.path()
    }

    /// Does what the socket asks for, until it is `over`; then says so when the server has ended by
    /// itself. What was started meanwhile ends with the calling thread.
    pub(crate) fn obey(&mut self, over: &AtomicBool) -> anyhow::Result<Option<String>> {
        self.control.obey(&mut self.stage, over);
        self.ended()
    }

    /// Says so when the server has ended by itself.
    pub(crate) fn ended(&mut self) -> anyhow::Result<Option<String>> {
        self.stage.ended()
    }
}

fn port_was_taken(log: &str) -> bool {
    log.to_lowercase().contains("address already in use")
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    if lines.is_empty() {
        return "its log is empty".to_owned();
    }
    let start = lines.len().saturating_sub(TAIL_LINES);
    format!("the end of its log:\n  | {}", lines[start..].join("\n  | "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interrupt::Interrupt;
    use nix::sys::signal::Signal;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Shell scripts stand in for servers here; the real ones are started by `tests/`.
    fn server(start: fn(&mut Stage<'_>) -> anyhow::Result<String>) -> Server {
        Server { name: "fake", needs: &[], start }
    }

    fn shell(stage: &mut Stage<'_>, script: &str) -> anyhow::Result<()> {
        let mut command = stage.command("sh")?;
        command.arg("-c").arg(script);
        stage.spawn("sh", command, Signal::SIGTERM)
    }

    #[test]
    fn a_missing_program_is_told_with_its_package() {
        let host = Host::new(&Interrupt::default()).unwrap();
        for needs in [
            &[Need { file: "no-such-program", package: "no-such-package" }],
            &[Need { file: "usr/bin/no-such-program", package: "no-such-package/sid" }],
        ] {
            let server = Server { name: "fake", needs, start: |_| Ok(String::new()) };
            let error = server.launch(&host).unwrap_err().to_string();
            assert!(error.contains(needs[0].package) && error.contains("--install"), "{error}");
        }
    }

    #[test]
    fn a_server_that_ends_at_once_fails_with_its_log() {
        let host = Host::new(&Interrupt::default()).unwrap();
        let server = server(|stage| {
            shell(stage, "echo the reason; exit 3")?;
            stage.wait_ready(|| false)?;
            Ok(String::new())
        });
        let error = server.launch(&host).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("| the reason"), "{error}");
    }

    #[test]
    fn a_taken_port_is_tried_again_elsewhere() {
        static STARTS: AtomicU32 = AtomicU32::new(0);
        let host = Host::new(&Interrupt::default()).unwrap();
        let server = server(|stage| {
            let third = STARTS.fetch_add(1, Ordering::Relaxed) == 2;
            let taken = "echo 'bind: Address already in use'; exit 1";
            shell(stage, if third { "exec sleep 60" } else { taken })?;
            stage.wait_ready(move || third)?;
            Ok("there".to_owned())
        });
        assert_eq!(server.launch(&host).unwrap().address(), "there");
        assert_eq!(STARTS.load(Ordering::Relaxed), 3);
    }

    /// It counts its starts in a file, and what it started has a process group of its own.
    fn counting(stage: &mut Stage<'_>) -> anyhow::Result<String> {
        let starts = stage.folder().join("starts");
        shell(stage, "echo . >>starts; setsid sleep 60 & echo $! >child; wait")?;
        let child = stage.folder().join("child");
        stage.wait_ready(move || state(&child).is_some())?;
        Ok(starts.display().to_string())
    }

    /// The state of the process that the file names, unless it has ended.
    fn state(file: &Path) -> Option<char> {
        let pid = std::fs::read_to_string(file).ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).ok()?;
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        state.filter(|state| *state != 'Z')
    }

    #[test]
    fn a_server_is_harmed_and_made_well_by_its_socket() {
        let host = Host::new(&Interrupt::default()).unwrap();
        let mut running = server(counting).launch(&host).unwrap();
        let starts = PathBuf::from(running.address());
        let child = starts.with_file_name("child");
        let socket = running.control().to_owned();
        let over = AtomicBool::new(false);
        let ask = |word: &str| {
            let mut stream = UnixStream::connect(&socket).unwrap();
            writeln!(stream, "{word}").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer.trim_end().to_owned()
        };
        let count = || std::fs::read_to_string(&starts).unwrap().lines().count();
        std::thread::scope(|scope| {
            let obeying = scope.spawn(|| running.obey(&over));
            let seen = ["freeze", "start", "kill", "start", "burn"]
                .map(|word| (ask(word), state(&child), count()));
            // First of all: the scope waits for its threads.
            over.store(true, Ordering::Relaxed);
            assert_eq!(obeying.join().unwrap().unwrap(), None);
            let ok = |state, starts| ("ok".to_owned(), state, starts);
            let [frozen, thawed, killed, started, burnt] = seen;
            assert_eq!(frozen, ok(Some('T'), 1), "also what has a group of its own");
            assert!(matches!(thawed.1, Some('R' | 'S')) && thawed.2 == 1, "{thawed:?}");
            assert_eq!(killed, ok(None, 1), "also what has a group of its own");
            assert_eq!((started.0.as_str(), started.2), ("ok", 2));
            assert!(burnt.0.contains("freeze, kill, start"), "{burnt:?}");
        });
    }

    #[test]
    fn a_dropped_server_leaves_no_folder() {
        let host = Host::new(&Interrupt::default()).unwrap();
        let server = server(|stage| {
            shell(stage, "exec sleep 60")?;
            stage.wait_ready(|| true)?;
            stage.path("")
        });
        let running = server.launch(&host).unwrap();
        let folder = PathBuf::from(running.address());
        assert!(folder.is_dir());
        drop(running);
        assert!(!folder.exists());
    }
}
