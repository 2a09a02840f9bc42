//! `tooz lock` with several locks, with permits, and with a time to hold.

use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{Place, Running, heedful};

/// Says that it is ready, and runs until a signal.
const UNTIL_SIGNAL: &str = "echo ready; exec sleep 120";

#[test]
fn several_locks_are_held_together() {
    let place = Place::new();
    assert_eq!(place.run(["lock", "b", "true"]).code, 0);
    let script = "echo $TOOZ_LOCK $TOOZ_LOCK_1 $TOOZ_LOCK_2 $TOOZ_LOCK_3; \
                  echo $TOOZ_FENCING_TOKEN $TOOZ_FENCING_TOKEN_1 $TOOZ_FENCING_TOKEN_2; echo ready; \
                  read line";
    let all = ["lock", "c", "--also", "b", "--also=-a", "--", "sh", "-c", script];
    let mut holder = Running::start(place.tooz(all).stdin(Stdio::piped()));
    assert_eq!(holder.line(), "c c b -a");
    let tokens = holder.line();
    let tokens: Vec<u64> = tokens.split(' ').map(|token| token.parse().unwrap()).collect();
    assert_eq!(tokens[0], tokens[1], "the first is that of NAME");
    assert_eq!(holder.line(), "ready");
    for name in ["c", "b", "-a"] {
        assert_eq!(place.run(["lock", "--try", "--", name, "true"]).code, 75, "{name}");
    }
    let tried = place.run(["lock", "--try", "x", "--also", "b", "true"]);
    let said = "tooz: one of the locks x, b is held by somebody else\n";
    assert_eq!((tried.code, tried.err.as_str()), (75, said));
    assert_eq!(place.run(["lock", "--try", "x", "true"]).code, 0, "none of them is kept");

    let waiter = Running::start(&mut place.tooz(["lock", "b", "--also", "c", "true"]));
    holder.types("");
    // read ends with 0 after a line.
    assert_eq!(holder.finish().code, 0);
    assert_eq!(waiter.finish().code, 0);
    let twice = place.run(["lock", "a", "--also", "a", "true"]);
    assert_eq!(twice.code, 1);
    assert!(twice.err.contains("a lock is named twice"), "{twice:?}");
}

#[test]
fn the_loss_of_one_of_several_stops_the_command() {
    let place = Place::new();
    let holder = place.start(&["lock", "a", "--also", "b"], UNTIL_SIGNAL);
    std::fs::remove_file(place.dir.path().join("store/b")).unwrap();
    let done = holder.finish();
    assert_eq!(done.code, 76);
    assert!(done.err.contains("tooz: the lock b was lost: "), "{done:?}");
    assert_eq!(place.run(["lock", "--try", "a", "true"]).code, 0, "the other was released");
}

#[test]
fn so_many_commands_run_at_once_as_there_are_permits() {
    let place = Place::new();
    let script = "echo $TOOZ_SLOT $TOOZ_LOCK $TOOZ_FENCING_TOKEN; echo ready; exec sleep 120";
    let all = ["lock", "--permits", "2", "gpu", "--", "sh", "-c", script];
    let mut slots = Vec::new();
    let mut holders: Vec<_> = (0..2).map(|_| Running::start(&mut place.tooz(all))).collect();
    for holder in &mut holders {
        let line = holder.line();
        let [slot, name, token] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        assert_eq!(name, "gpu");
        token.parse::<u64>().unwrap();
        slots.push(slot.to_owned());
        assert_eq!(holder.line(), "ready");
    }
    slots.sort();
    assert_eq!(slots, ["0", "1"]);
    let tried = place.run(["lock", "-n", "--permits", "2", "gpu", "true"]);
    let said = "tooz: all 2 permits of gpu are held by others\n";
    assert_eq!((tried.code, tried.err.as_str()), (75, said));
    assert_eq!(place.run(["lock", "-n", "gpu", "true"]).code, 0, "a lock is another thing");

    let waiter = Running::start(&mut place.tooz(["lock", "--permits", "2", "gpu", "true"]));
    waiter.catches(Signal::SIGTERM);
    holders.remove(0).signal(Signal::SIGTERM);
    assert_eq!(waiter.finish().code, 0);
    assert_eq!(place.run(["lock", "--permits", "0", "gpu", "true"]).code, 1);
    let both = place.run(["lock", "--permits", "2", "gpu", "--also", "b", "true"]);
    assert_eq!(both.code, 2, "wrong usage");
}

#[test]
fn a_lock_is_held_for_a_time_though_the_command_ended() {
    let place = Place::new();
    let began = Instant::now();
    let arguments = ["lock", "--try", "--at-least", "0.6", "a", "sh", "-c", "echo ran; exit 3"];
    let mut first = Running::start(&mut place.tooz(arguments));
    assert_eq!(first.line(), "ran");
    assert_eq!(place.run(arguments).code, 75, "who comes a moment later finds it held");
    let done = first.finish();
    assert_eq!(done.code, 3);
    assert!(began.elapsed() >= Duration::from_millis(600));
    assert!(done.err.starts_with("tooz: holds the lock a for another 0."), "{done:?}");
    let began = Instant::now();
    assert_eq!(place.run(["lock", "--at-least", "0.1", "a", "sleep", "0.2"]).err, "");
    assert!(began.elapsed() >= Duration::from_millis(200));
}

#[test]
fn a_signal_ends_the_rest_of_the_time() {
    let place = Place::new();
    let mut holder =
        Running::start(&mut place.tooz(["lock", "--at-least", "1h", "a", "echo", "ran"]));
    assert_eq!(holder.line(), "ran");
    holder.signal(Signal::SIGTERM);
    // It may have come while CMD was ending, and then it was meant for CMD.
    let done = holder.finish();
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(place.run(["lock", "--try", "a", "true"]).code, 0, "it was released");
}

#[test]
fn a_lock_that_is_lost_is_not_held_on() {
    let place = Place::new();
    let script = "exec \"$TOOZ\" lock --at-least 1h a echo ran 2>&1";
    let mut command = heedful("sh");
    command.args(["-c", script]).env("TOOZ", env!("CARGO_BIN_EXE_tooz"));
    let mut holder = Running::start(command.env("TOOZ_URL", place.url()));
    assert_eq!(holder.line(), "ran");
    // What is lost before that is lost to CMD.
    let line = holder.line();
    assert!(line.starts_with("tooz: holds the lock a for another 3"), "{line}");
    place.end_sessions();
    let done = holder.finish();
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.out.contains("the lock a was lost after \"echo\" had ended"), "{done:?}");
}
