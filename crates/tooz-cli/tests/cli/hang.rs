//! A backend with a time to live that hangs: `TOOZ_TEST_URL_REDIS` asks for these tests, as for the
//! conformance kit. They start their own server with `redis-server`, and stop it with SIGSTOP.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Place, Running, tooz, until};
use crate::terminal::{END, SUSPEND, Terminal};

/// Below what the end takes by itself at the default time to live, by far.
const AT_ONCE: Duration = Duration::from_secs(5);

/// A server. Dropped, it is killed.
struct Server {
    process: Child,
    port: u16,
    _place: Place,
}

impl Server {
    /// `None` if nobody asked for one.
    fn start() -> Option<Self> {
        if std::env::var_os("TOOZ_TEST_URL_REDIS").is_none() {
            eprintln!("not asked for: TOOZ_TEST_URL_REDIS is not set");
            return None;
        }
        let place = Place::new();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Command::new("redis-server");
        server.args(["--bind", "127.0.0.1", "--save", "", "--port", &port.to_string()]);
        let process = server.current_dir(&place.dir).stdout(Stdio::null()).spawn().unwrap();
        until("the server listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Some(Self { process, port, _place: place })
    }

    /// Its URL, with a time to live in seconds.
    fn url(&self, timeout: u32) -> String {
        format!("redis://127.0.0.1:{}?restart_grace=0&timeout={timeout}", self.port)
    }

    fn hangs(&self) {
        kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGSTOP).unwrap();
    }

    fn goes_on(&self) {
        kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGCONT).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A command under a lock, which ends while the server hangs.
fn ended_in_a_hang(server: &Server, timeout: u32) -> Running {
    let script = "echo ready; echo $$; read x; exit 3";
    let mut holder = tooz(["lock", "a", "--", "sh", "-c", script]);
    holder.env("TOOZ_URL", server.url(timeout)).stdin(Stdio::piped());
    let mut holder = Running::start(&mut holder);
    assert_eq!(holder.line(), "ready");
    let command = holder.line();
    server.hangs();
    holder.types("end");
    let gone = || !std::path::Path::new(&format!("/proc/{command}")).exists();
    until("the command has ended", gone);
    holder
}

#[test]
fn what_happens_after_the_end_of_the_command_is_no_loss_of_it() {
    let Some(server) = Server::start() else { return };
    let holder = ended_in_a_hang(&server, 3);
    // Time is the matter here: the server forgets the lock.
    std::thread::sleep(Duration::from_secs(4));
    server.goes_on();
    let done = holder.finish();
    assert_eq!(done.code, 3, "{done:?}");
    assert!(done.err.starts_with("tooz: "), "the trouble is told: {done:?}");
}

#[test]
fn the_second_signal_ends_it_at_once_though_the_backend_hangs() {
    let Some(server) = Server::start() else { return };
    let holder = ended_in_a_hang(&server, 30);
    let began = Instant::now();
    holder.signal(Signal::SIGTERM);
    holder.signal(Signal::SIGINT);
    let done = holder.finish();
    assert!([-15, -2].contains(&done.code), "{done:?}");
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    assert!(done.err.contains("already ending") && done.err.contains("held"), "{done:?}");
}

#[test]
fn the_second_signal_ends_a_wait_and_a_watch_at_once() {
    let Some(server) = Server::start() else { return };
    let holder = tooz(["lock", "a", "--", "sh", "-c", "echo ready; exec sleep 120"]);
    let commands = [vec!["lock", "a", "--", "true"], vec!["elect", "g", "--", "sleep", "120"]];
    let commands = commands.into_iter().chain([vec!["watch", "g"], vec!["join", "g"]]);
    let mut first = { holder };
    let mut holder = Running::start(first.env("TOOZ_URL", server.url(30)));
    assert_eq!(holder.line(), "ready");
    let create = ["join", "g", "--", "true"];
    assert_eq!(Running::start(tooz(create).env("TOOZ_URL", server.url(30))).finish().code, 0);
    for command in commands {
        let mut started = Running::start(tooz(&command).env("TOOZ_URL", server.url(30)));
        started.catches(Signal::SIGTERM);
        if command[0] == "watch" || command[0] == "join" {
            started.line();
        }
        server.hangs();
        let began = Instant::now();
        started.signal(Signal::SIGTERM);
        started.signal(Signal::SIGINT);
        let done = started.finish();
        assert!([-15, -2].contains(&done.code), "{command:?}: {done:?}");
        assert!(began.elapsed() < AT_ONCE, "{command:?}: {:?}", began.elapsed());
        server.goes_on();
    }
}

#[test]
fn a_stopped_job_keeps_its_lock() {
    let Some(server) = Server::start() else { return };
    let (url, timeout) = (server.url(2), Duration::from_secs(2));
    let ours = env!("CARGO_BIN_EXE_tooz");
    let mut terminal = Terminal::new(&[("TOOZ_URL", &url), ("TOOZ", ours)]);
    let answers = r##"sh -c 'echo "# ready"; while read x; do echo "# got $x"; done'"##;
    terminal.types(&format!("$TOOZ lock a -- {answers}"));
    terminal.sees("ready");
    terminal.presses(SUSPEND);
    // Time is the matter here.
    std::thread::sleep(timeout * 2);
    let rival = ["lock", "--try", "a", "--", "true"];
    assert_eq!(Running::start(tooz(rival).env("TOOZ_URL", &url)).finish().code, 75);
    terminal.types("fg");
    terminal.types("one");
    terminal.sees("got one");
    terminal.presses(END);
    terminal.types(r##"echo "# code $?""##);
    terminal.sees("code 0");
    assert_eq!(Running::start(tooz(rival).env("TOOZ_URL", &url)).finish().code, 0);
}

/// Nothing can catch SIGSTOP, but it stops only the process that waits.
#[test]
fn sigstop_costs_no_lock() {
    let Some(server) = Server::start() else { return };
    let url = server.url(2);
    let script = "echo ready; read x";
    let mut holder = tooz(["lock", "a", "--", "sh", "-c", script]);
    let mut holder = Running::start(holder.env("TOOZ_URL", &url).stdin(Stdio::piped()));
    assert_eq!(holder.line(), "ready");
    holder.signal(Signal::SIGSTOP);
    std::thread::sleep(Duration::from_secs(4));
    let rival = ["lock", "--try", "a", "--", "true"];
    assert_eq!(Running::start(tooz(rival).env("TOOZ_URL", &url)).finish().code, 75);
    holder.signal(Signal::SIGCONT);
    holder.types("end");
    assert_eq!(holder.finish().code, 0);
}
