use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{Place, Running, run, tooz, until_dead};

/// Says that it is ready, and runs until a signal.
const UNTIL_SIGNAL: &str = "echo ready; exec sleep 120";

/// Says which signal came, and ends with 3. What it started is killed for certain: until it is
/// `sleep`, it has the shell's own trap and may miss a milder signal.
fn trapping(signal: &str) -> String {
    format!(
        "trap 'echo got {signal}; kill -KILL $!; exit 3' {signal}; sleep 120 & echo ready; wait"
    )
}

#[test]
fn the_exit_code_is_that_of_the_command() {
    let place = Place::new();
    for code in [0, 1, 75, 255] {
        let script = format!("exit {code}");
        assert_eq!(place.run(["lock", "a", "--", "sh", "-c", &script]).code, code);
    }
    let killed = place.run(["lock", "a", "--", "sh", "-c", "kill -TERM $$"]);
    assert_eq!((killed.code, killed.err.as_str()), (-15, ""));
}

#[test]
fn the_command_needs_no_escape_before_it() {
    let place = Place::new();
    let done = place.run(["lock", "a", "sh", "-c", "echo $#:$1", "-", "--", "--json"]);
    assert_eq!((done.code, done.out.as_str()), (0, "2:--\n"), "{done:?}");
    let done = place.run(["elect", "g", "echo", "-n", "leads"]);
    assert_eq!((done.code, done.out.as_str()), (0, "leads\n"), "{done:?}");
    let done = place.run(["join", "g", "--capabilities", "1", "echo", "--", "in"]);
    assert_eq!((done.code, done.out.as_str()), (0, "-- in\n"), "{done:?}");
}

#[test]
fn a_name_may_begin_with_a_hyphen() {
    let place = Place::new();
    for arguments in [
        &["lock", "-job", "--", "sh"][..],
        &["lock", "-n", "--", "-job", "sh"],
        &["lock", "--", "-job", "--", "sh"],
    ] {
        let done = place.run(arguments.iter().chain(&["-c", "echo $TOOZ_LOCK"]));
        assert_eq!((done.code, done.out.as_str()), (0, "-job\n"), "{done:?}");
    }
    let mistyped = place.run(["lock", "name", "-x", "--", "true"]);
    assert_eq!(mistyped.code, 2, "not a CMD: {mistyped:?}");
    for arguments in [["lock", "-x", "name", "true"], ["lock", "-x", "name", "--"]] {
        let done = place.run(arguments.iter().chain(&["true"]));
        assert_eq!(done.code, 2);
        assert!(done.err.contains("-- -x"), "it says how: {done:?}");
    }
    let _member = place.start(&["join", "-g"], UNTIL_SIGNAL);
    assert_eq!(place.run(["groups"]).out, "-g\n");
    assert_eq!(place.run(["members", "-g"]).code, 0);
    assert_eq!(place.run(["ring", "-g"]).code, 0);
    assert_eq!(place.run(["--json", "leader", "-g"]).out, "{\"leader\":null}\n");
}

#[test]
fn options_are_those_of_flock_and_consul_too() {
    let place = Place::new();
    let holder = place.start(&["lock", "a"], UNTIL_SIGNAL);
    let began = Instant::now();
    for option in ["-n", "--nonblock", "--try"] {
        assert_eq!(place.run(["lock", option, "a", "true"]).code, 75, "{option}");
    }
    assert_eq!(place.run(["lock", "-w0.1", "a", "true"]).code, 75);
    for option in ["-w", "--timeout", "--wait"] {
        assert_eq!(place.run(["lock", option, "300ms", "a", "true"]).code, 75, "{option}");
    }
    assert!(began.elapsed() >= Duration::from_millis(900));
    drop(holder);
    assert_eq!(place.run(["lock", "-w", "1m30s", "--grace", "2s", "a", "true"]).code, 0);
}

#[test]
fn a_password_is_not_for_the_command() {
    const URL: &str = "memory://ops:hunter2@x";
    let show = ["sh", "-c", "echo $TOOZ_URL"];
    for subcommand in ["lock", "elect", "join"] {
        let mut given = tooz(["--url", URL, subcommand, "a"].iter().chain(&show));
        let done = run(&mut given);
        assert_eq!((done.code, done.out.as_str()), (0, "memory://ops:***@x\n"), "{done:?}");
        assert!(done.err.contains("TOOZ_URL") && done.err.contains("--url-file"), "{done:?}");
        assert!(!done.err.contains("hunter2"), "{done:?}");

        let mut passed = tooz([subcommand, "--pass-url", "a"].iter().chain(&show));
        let done = run(passed.env("TOOZ_URL", URL));
        assert_eq!(done.out, format!("{URL}\n"));
        assert!(!done.err.contains("--url-file"), "nobody else sees it: {done:?}");
    }
    // A tooz in the command does not go elsewhere unnoticed.
    let mut nested = tooz(["lock", "a", env!("CARGO_BIN_EXE_tooz"), "lock", "b", "true"]);
    let done = run(nested.env("TOOZ_URL", URL));
    assert_eq!(done.code, 1);
    assert!(done.err.contains("--pass-url"), "{done:?}");
}

#[test]
fn no_argument_of_a_process_has_the_url() {
    let place = Place::new();
    let url = place.dir.path().join("url");
    std::fs::write(&url, format!("{}?timeout=7\n", place.url())).unwrap();
    let mut holder = tooz(["lock".as_ref(), "a".as_ref(), "--url-file".as_ref(), url.as_os_str()]);
    let mut holder =
        Running::start(holder.args(["sh", "-c", "echo ready; echo $$; exec sleep 120"]));
    assert_eq!(holder.line(), "ready");
    for pid in [holder.line(), holder.pid().to_string()] {
        let arguments = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        assert!(!arguments.contains("timeout=7"), "{arguments}");
    }
    assert_eq!(place.run(["lock", "-n", "a", "true"]).code, 75, "that backend");
    let both = tooz(["groups", "--url", "memory://x", "--url-file"]).arg(&url).output().unwrap();
    assert_eq!(both.status.code(), Some(1));
}

#[test]
fn the_command_sees_what_it_needs() {
    let place = Place::new();
    let script = "echo $TOOZ_FENCING_TOKEN $TOOZ_FENCE $TOOZ_LOCK $TOOZ_MEMBER_ID $TOOZ_URL";
    let name = tooz::FenceName::of_lock("a");
    let mut last = 0;
    for _ in 0..3 {
        let done = place.run(["--member", "me", "lock", "a", "--", "sh", "-c", script]);
        let (token, rest) = done.out.split_once(' ').unwrap();
        assert_eq!(rest, format!("{name}:{token} a me {}\n", place.url()));
        let token: u64 = token.parse().unwrap();
        assert!(token > last, "{token} after {last}");
        last = token;
    }
}

#[test]
fn a_command_that_cannot_be_run_is_told_as_shells_do() {
    let place = Place::new();
    let missing = place.run(["lock", "a", "--", "/no/such/command"]);
    assert_eq!(missing.code, 127);
    assert!(missing.err.starts_with("tooz: cannot run /no/such/command: "), "{missing:?}");
    assert_eq!(missing.err.lines().count(), 1);
    assert_eq!(place.run(["lock", "a", "--", "/"]).code, 126);
    assert_eq!(place.run(["lock", "--try", "a", "--", "true"]).code, 0, "it was released");
}

#[test]
fn who_does_not_get_the_lock_exits_with_75() {
    let place = Place::new();
    let mut holder = Running::start(
        place.tooz(["lock", "a", "--", "sh", "-c", "echo ready; read line"]).stdin(Stdio::piped()),
    );
    assert_eq!(holder.line(), "ready");

    let tried = place.run(["lock", "--try", "a", "--", "echo", "ran"]);
    assert_eq!((tried.code, tried.out.as_str()), (75, ""));
    assert_eq!(tried.err, "tooz: the lock a is held by somebody else\n");
    let began = Instant::now();
    assert_eq!(place.run(["lock", "--wait", "0.3", "a", "--", "true"]).code, 75);
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(place.run(["lock", "--try", "b", "--", "true"]).code, 0, "another lock");

    let waiter = Running::start(&mut place.tooz(["lock", "--wait", "60", "a", "--", "true"]));
    waiter.catches(Signal::SIGTERM);
    holder.signal(Signal::SIGTERM);
    assert_eq!(holder.finish().code, -15);
    assert_eq!(waiter.finish().code, 0);
}

#[test]
fn shared_holders_share_and_keep_others_out() {
    let place = Place::new();
    let one = place.start(&["lock", "--shared", "a"], UNTIL_SIGNAL);
    let two = place.start(&["lock", "--shared", "--try", "a"], UNTIL_SIGNAL);
    assert_eq!(place.run(["lock", "--try", "a", "--", "true"]).code, 75);
    for holder in [one, two] {
        holder.signal(Signal::SIGTERM);
        assert_eq!(holder.finish().code, -15);
    }
    let writer = place.start(&["lock", "--try", "a"], UNTIL_SIGNAL);
    assert_eq!(place.run(["lock", "--shared", "--try", "a", "--", "true"]).code, 75);
    drop(writer);
}

#[test]
fn signals_are_passed_on() {
    let place = Place::new();
    for signal in ["INT", "TERM", "HUP", "QUIT", "USR1", "USR2"] {
        let mut running = place.start(&["lock", "a"], &trapping(signal));
        running.signal(format!("SIG{signal}").parse().unwrap());
        assert_eq!(running.line(), format!("got {signal}"));
        let done = running.finish();
        assert_eq!((done.code, done.out.as_str()), (3, ""), "once, not twice");
    }
}

#[test]
fn a_signal_ends_the_wait_for_the_lock() {
    let place = Place::new();
    let holder = place.start(&["lock", "a"], UNTIL_SIGNAL);
    for (signal, code) in [(Signal::SIGINT, -2), (Signal::SIGTERM, -15), (Signal::SIGUSR1, -10)] {
        let waiter = Running::start(&mut place.tooz(["lock", "a", "--", "echo", "ran"]));
        waiter.catches(signal);
        waiter.signal(signal);
        let done = waiter.finish();
        assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (code, "", ""));
    }
    drop(holder);
}

#[test]
fn a_lost_lock_stops_the_command() {
    let place = Place::new();
    let mut holder = place.start(&["lock", "a"], &trapping("TERM"));
    place.end_sessions();
    assert_eq!(holder.line(), "got TERM");
    let done = holder.finish();
    assert_eq!(done.code, 76, "{done:?}");
    // The shell may have a word on its own background job before.
    assert!(done.err.contains("tooz: the lock a was lost: "), "{done:?}");
}

#[test]
fn a_broken_lock_stops_the_command() {
    let place = Place::new();
    let holder = place.start(&["lock", "a"], UNTIL_SIGNAL);
    std::fs::remove_file(place.dir.path().join("store/a")).unwrap();
    assert_eq!(holder.finish().code, 76);
}

#[test]
fn a_command_that_does_not_listen_is_killed_after_the_grace() {
    let place = Place::new();
    let script = "trap '' TERM; sleep 120 & echo ready; echo $!; wait";
    let mut holder = place.start(&["lock", "--grace", "0.3", "a"], script);
    let grandchild = holder.line();
    let began = Instant::now();
    place.end_sessions();
    assert_eq!(holder.finish().code, 76);
    assert!(began.elapsed() >= Duration::from_millis(300));
    until_dead(&grandchild);
}

/// Where there is a terminal, the command stays in its job, and this test does not apply.
#[test]
fn what_the_command_started_does_not_go_on_after_the_loss() {
    if std::fs::File::open("/dev/tty").is_ok() {
        return;
    }
    let place = Place::new();
    // The shell dies of SIGTERM, what it started needs longer.
    let script = "(trap 'exec sleep 120' TERM; echo ready; sleep 120 & wait) & echo $!; wait";
    let all = ["lock", "--grace", "0.3", "a", "--", "sh", "-c", script];
    let mut holder = Running::start(&mut place.tooz(all));
    let mut lines = [holder.line(), holder.line()];
    lines.sort_by_key(|line| line == "ready");
    place.end_sessions();
    assert_eq!(holder.finish().code, 76);
    until_dead(&lines[0]);
}

#[test]
fn the_command_dies_with_a_killed_holder() {
    let place = Place::new();
    let script = "echo ready; echo $$; exec sleep 120";
    let mut holder = place.start(&["lock", "a"], script);
    let command = holder.line();
    holder.signal(Signal::SIGKILL);
    until_dead(&command);
    assert_eq!(place.run(["lock", "--wait", "5", "a", "--", "true"]).code, 0);
    assert_eq!(holder.finish().code, -9);
}
