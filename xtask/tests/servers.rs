//! Real servers under the real command: nothing is left of them, however the command ends.

// Clippy's leave for tests does not reach the helpers of a test file.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::Permissions;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Generous, because a test that runs beside a build may wait long for its turn.
const LIMIT: Duration = Duration::from_secs(60);

/// A setup's name and the program that must be installed.
const SERVERS: [(&str, &str); 6] = [
    ("redis", "redis-server"),
    ("zookeeper", "/usr/share/java/zookeeper.jar"),
    ("memcached", "memcached"),
    ("etcd", "etcd"),
    ("postgresql", "postgres"),
    ("mariadb", "mariadbd"),
];

/// `xtask` at work, with a temporary folder of its own.
struct Runner {
    child: Child,
    first_line: String,
    servers: Vec<i32>,
    folder: TempDir,
}

impl Runner {
    /// Starts it and waits for the first line of its output.
    fn start(arguments: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        // Servers run as `nobody` there when the tests run as root.
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_xtask"))
            .args(arguments)
            .env("TMPDIR", folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut first_line = String::new();
        output.read_line(&mut first_line).unwrap();
        // Kept open and drained, so that the runner never writes into a closed pipe.
        std::thread::spawn(move || output.read_to_end(&mut Vec::new()));
        let servers = descendants(child.id());
        Self { child, first_line: first_line.trim().to_owned(), servers, folder }
    }

    fn end_with(&mut self, signal: Signal) -> ExitStatus {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
        self.child.wait().unwrap()
    }

    fn assert_servers_are_gone(&self) {
        assert!(!self.servers.is_empty(), "no server was running");
        let limit = Instant::now() + LIMIT;
        while let Some(pid) = self.servers.iter().find(|pid| is_running(**pid)) {
            assert!(Instant::now() < limit, "process {pid} is still there");
            sleep(Duration::from_millis(20));
        }
    }

    fn assert_folder_is_empty(&self) {
        let left: Vec<_> = std::fs::read_dir(self.folder.path()).unwrap().collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The processes below this one; the kernel tells only those of living parents.
fn descendants(pid: u32) -> Vec<i32> {
    let mut found = Vec::new();
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return found;
    };
    for thread in threads.flatten() {
        let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace() {
            let child: u32 = child.parse().unwrap();
            found.push(child.try_into().unwrap());
            found.extend(descendants(child));
        }
    }
    found
}

/// A zombie that nobody has collected yet does not run.
fn is_running(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}

/// Whether the setup's server is installed; says so aloud when it is not.
fn installed(setup: &str) -> bool {
    let (_, file) = SERVERS.iter().find(|(name, _)| *name == setup).unwrap();
    let path = std::env::var("PATH").unwrap() + ":/usr/sbin";
    let found = path.split(':').any(|folder| Path::new(folder).join(file).is_file());
    if !found {
        // Straight to the terminal: the harness would swallow what a passing test prints.
        let hint = format!("cargo xtask server {setup} --install");
        let _ = writeln!(std::io::stderr(), "SKIPPED: no {file} here; `{hint}` gets it");
    }
    found
}

/// A conformance program that says it has begun, and then never ends by itself.
fn endless_suite(folder: &Path) -> PathBuf {
    let file = folder.join("conformance");
    std::fs::write(&file, "#!/bin/sh\necho \"$TOOZ_TEST_URL_REDIS\"\nsleep 600\n").unwrap();
    std::fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
    file
}

#[test]
fn a_server_ends_with_ctrl_c_and_with_sigterm() {
    if !installed("redis") {
        return;
    }
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut runner = Runner::start(&["server", "redis"]);
        assert!(runner.first_line.starts_with("redis://127.0.0.1:"), "{}", runner.first_line);
        assert!(runner.end_with(signal).success(), "{signal}");
        runner.assert_servers_are_gone();
        runner.assert_folder_is_empty();
    }
}

#[test]
fn a_server_dies_with_a_runner_that_is_killed() {
    if !installed("redis") {
        return;
    }
    let mut runner = Runner::start(&["server", "redis"]);
    runner.end_with(Signal::SIGKILL);
    runner.assert_servers_are_gone();
}

#[test]
fn a_test_run_that_is_interrupted_leaves_nothing() {
    if !installed("redis") {
        return;
    }
    let folder = TempDir::new().unwrap();
    let suite = endless_suite(folder.path());
    let arguments =
        ["test-backends", "--only", "memory,redis", "--binary", suite.to_str().unwrap()];
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let mut runner = Runner::start(&arguments);
        assert!(runner.first_line.starts_with("redis://"), "{}", runner.first_line);
        assert!(runner.servers.len() >= 2, "a server and the suite: {:?}", runner.servers);
        assert_eq!(runner.end_with(signal).code(), Some(code));
        runner.assert_servers_are_gone();
        runner.assert_folder_is_empty();
    }
}

#[test]
#[ignore = "starts every server that is installed: some seconds"]
fn every_server_starts_stops_and_dies_with_its_runner() {
    for (setup, _) in SERVERS {
        if !installed(setup) {
            continue;
        }
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
            let since = Instant::now();
            let mut runner = Runner::start(&["server", setup]);
            let ready = since.elapsed().as_secs_f32();
            assert!(runner.first_line.contains("127.0.0.1:"), "{}", runner.first_line);
            let since = Instant::now();
            let status = runner.end_with(signal);
            runner.assert_servers_are_gone();
            let gone = since.elapsed().as_secs_f32();
            println!("{setup}: ready after {ready:.2} s, {signal}: gone after {gone:.2} s");
            if signal != Signal::SIGKILL {
                assert!(status.success(), "{setup}: {status}");
                runner.assert_folder_is_empty();
            }
        }
    }
}
