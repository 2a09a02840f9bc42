//! A directory to coordinate in, and commands that never run for ever.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Far more than anything here takes: what is not done by then hangs. Commands that are to be
/// ended sleep longer than that.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A directory, its URL, and the command on it.
pub(crate) struct Place {
    pub(crate) dir: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn url(&self) -> String {
        format!("file://{}/store", self.dir.path().display())
    }

    /// `tooz ARGUMENTS` on this directory.
    pub(crate) fn tooz<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = tooz(arguments);
        command.env("TOOZ_URL", self.url());
        command
    }

    /// Runs `tooz ARGUMENTS` to its end.
    pub(crate) fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Done {
        run(&mut self.tooz(arguments))
    }

    /// Runs a shell script under `tooz ARGUMENTS`, and waits until it has printed `ready`.
    pub(crate) fn start(&self, arguments: &[&str], script: &str) -> Running {
        let all = [arguments, &["--", "sh", "-c", script]].concat();
        let mut running = Running::start(&mut self.tooz(all));
        assert_eq!(running.line(), "ready");
        running
    }

    /// Ends all sessions as an operator or a broken disk would: their owners lose what they hold.
    pub(crate) fn end_sessions(&self) {
        for session in self.dir.path().join("store/.tooz/sessions").read_dir().unwrap() {
            std::fs::remove_file(session.unwrap().path()).unwrap();
        }
    }
}

/// `tooz ARGUMENTS` without anything from the environment of the tests.
pub(crate) fn tooz<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = heedful(env!("CARGO_BIN_EXE_tooz"));
    command.args(arguments).env_remove("TOOZ_URL").env_remove("TOOZ_MEMBER");
    command.stdin(Stdio::null());
    command
}

/// A program that ignores no signal, whatever these tests inherited: `nohup` ignores one.
pub(crate) fn heedful(program: &str) -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal", program]);
    command
}

/// What a command left.
#[derive(Debug)]
pub(crate) struct Done {
    /// 128 + n would be an exit code; a signal that ended the command itself is -n.
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Done {
    /// Standard output as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str(&self.out).unwrap()
    }
}

pub(crate) fn run(command: &mut Command) -> Done {
    Running::start(command).finish()
}

/// A command that runs. Dropped, it is killed.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
    err: Receiver<String>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (out, mut errors) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines() {
                let _ = sender.send(line.unwrap());
            }
        });
        let (sender, err) = channel();
        std::thread::spawn(move || {
            let mut text = String::new();
            errors.read_to_string(&mut text).unwrap();
            let _ = sender.send(text);
        });
        Self { child, lines, err }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// The next line of standard output.
    pub(crate) fn line(&mut self) -> String {
        self.lines.recv_timeout(LIMIT).expect("a line")
    }

    /// The next line of standard output as JSON.
    pub(crate) fn json(&mut self) -> serde_json::Value {
        serde_json::from_str(&self.line()).unwrap()
    }

    /// The next line of a stream as JSON, without its time.
    pub(crate) fn event(&mut self) -> serde_json::Value {
        let mut event = self.json();
        let time = event.as_object_mut().unwrap().remove("time");
        assert!(is_time(time.as_ref().and_then(|time| time.as_str()).unwrap()), "{time:?}");
        event
    }

    /// The next line of a stream for people, without its time.
    pub(crate) fn told(&mut self) -> String {
        let line = self.line();
        let (time, rest) = line.split_once("  ").unwrap();
        assert!(is_time(time), "{line}");
        rest.to_owned()
    }

    /// Writes a line to its standard input, which is a pipe.
    pub(crate) fn types(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().expect("a pipe");
        input.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Waits until it catches a signal: before that, the signal would just end it.
    pub(crate) fn catches(&self, signal: Signal) {
        let caught = || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
            let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
            let mask = u64::from_str_radix(mask.trim(), 16).unwrap();
            mask & (1 << (signal as i32 - 1)) != 0
        };
        until("it catches the signal", caught);
    }

    /// Waits for its end.
    pub(crate) fn finish(mut self) -> Done {
        use std::os::unix::process::ExitStatusExt;
        let mut status = None;
        until("the command ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let status = status.unwrap();
        let code = status.code().unwrap_or_else(|| -status.signal().unwrap());
        let mut out = String::new();
        loop {
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) => out += &format!("{line}\n"),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("somebody still has standard output"),
            }
        }
        let err = self.err.recv_timeout(LIMIT).expect("the end of standard error");
        Done { code, out, err }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether it is a moment of today or about, as 2026-11-30T22:39:28.123Z.
fn is_time(text: &str) -> bool {
    let then = humantime::parse_rfc3339(text).unwrap();
    text.len() == 24 && then.elapsed().is_ok_and(|age| age < 2 * LIMIT)
}

/// Looks until something is so.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < LIMIT, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until a process is gone, or dead and not yet collected.
pub(crate) fn until_dead(pid: &str) {
    let dead = || match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit(") ").next().unwrap().starts_with('Z'),
        Err(_) => true,
    };
    until("the process is dead", dead);
}
