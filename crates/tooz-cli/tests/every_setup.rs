//! `tooz demo` at its default options over every setup whose server has a URL in the environment, as
//! `TOOZ_TEST_URL_REDIS` gives one, and over those that need none. It must show all that it claims,
//! and leave nothing, also when it is interrupted after a worker was killed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "cli/support.rs"]
#[allow(dead_code, reason = "what the other tests need")]
mod support;

use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Trial};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use support::{Place, Running, run, tooz};

/// They wait more than they work.
const AT_ONCE: usize = 4;

/// How the variables begin that have the URLs of servers.
const PREFIX: &str = "TOOZ_TEST_URL_";

type Case = fn(&str);
const CASES: [(&str, Case); 3] = [
    ("shows_all", shows_all),
    ("interrupted_leaves_nothing", interrupted_leaves_nothing),
    ("shows_what_a_fence_prevents", shows_what_a_fence_prevents),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_ONCE);
    let servers = std::env::vars().filter_map(|(name, url)| {
        let setup = name.strip_prefix(PREFIX)?.to_lowercase().replace('_', "-");
        Some((setup, url))
    });
    let place = Place::new();
    let namespace = std::process::id();
    let mut setups: Vec<_> = servers.collect();
    setups.push(("file".to_owned(), place.url()));
    setups.push(("ipc".to_owned(), format!("ipc://?namespace=demo-{namespace}")));
    let mut trials = Vec::new();
    for (setup, url) in setups {
        for (name, case) in CASES {
            let url = url.clone();
            trials.push(Trial::test(format!("{setup}::{name}"), move || {
                case(&url);
                Ok(())
            }));
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn demo(url: &str) -> Command {
    let mut command = tooz(["demo"]);
    command.env("TOOZ_URL", url);
    command
}

fn shows_all(url: &str) {
    let running = Running::start(&mut demo(url));
    let pid = running.pid();
    let done = running.finish();
    assert_eq!((done.code, beyond_warnings(&done.err)), (0, None), "{}", done.out);
    assert!(!done.out.contains("FAILED"), "{}", done.out);
    nothing_is_left(url, pid);
}

fn shows_what_a_fence_prevents(url: &str) {
    let done = run(demo(url).arg("--fencing"));
    assert_eq!((done.code, beyond_warnings(&done.err)), (0, None), "{}", done.out);
}

fn interrupted_leaves_nothing(url: &str) {
    let mut running = Running::start(&mut demo(url));
    let pid = running.pid();
    while !running.line().ends_with("worker-5 joined") {}
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let victim = children.split_whitespace().next().unwrap().parse().unwrap();
    kill(Pid::from_raw(victim), Signal::SIGKILL).unwrap();
    running.signal(Signal::SIGINT);
    let done = running.finish();
    assert_eq!((done.code, beyond_warnings(&done.err)), (-2, None), "{}", done.out);
    nothing_is_left(url, pid);
}

/// What is said beside the warnings of a deployment that ensures less than others.
fn beyond_warnings(said: &str) -> Option<&str> {
    said.lines().find(|line| !line.contains(" WARN "))
}

/// No group, and so no member and no leader.
fn nothing_is_left(url: &str, pid: Pid) {
    let groups = run(tooz(["groups"]).env("TOOZ_URL", url));
    assert_eq!(groups.code, 0, "{groups:?}");
    assert!(!groups.out.contains(&format!("tooz-demo-{pid}\n")), "{groups:?}");
}
