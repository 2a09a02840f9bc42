use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::{Place, Running, run, tooz, until_dead};

/// The demonstration, with its temporary directory inside `place`.
fn demo(place: &Place, more: &[&str]) -> std::process::Command {
    let mut command = tooz(["demo"].iter().chain(more));
    command.env("TMPDIR", place.dir.path());
    command
}

fn is_empty(place: &Place) -> bool {
    place.dir.path().read_dir().unwrap().next().is_none()
}

/// The processes that it has started.
fn workers(demo: &Running) -> Vec<String> {
    let pid = demo.pid();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn it_shows_what_it_claims() {
    let place = Place::new();
    let began = Instant::now();
    let done = run(&mut demo(&place, &[]));
    assert_eq!((done.code, done.err.as_str()), (0, ""), "{}", done.out);
    assert!(began.elapsed() < Duration::from_secs(20));
    assert!(!done.out.contains('\x1b') && !done.out.contains("FAILED"), "{}", done.out);
    for part in ["worker-5 joined", "is killed: the leader", "never two hold the lock", "All of it"]
    {
        assert!(done.out.contains(part), "{part} is missing: {}", done.out);
    }
    assert!(is_empty(&place), "it cleans up");
}

#[test]
fn it_has_a_form_for_programs_and_takes_a_url() {
    let (place, other) = (Place::new(), Place::new());
    let done = run(&mut demo(&place, &["--json", "--url", &other.url()]));
    assert_eq!(done.code, 0, "{}", done.out);
    let lines: Vec<Value> = done.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let summary = lines.last().unwrap();
    assert_eq!(summary["ok"], true);
    assert!(summary["claims"].as_array().unwrap().iter().all(|claim| claim["ok"] == true));
    assert_eq!(other.run(["groups", "--json"]).json(), serde_json::json!([]));
}

#[test]
fn it_fails_when_a_claim_does_not_hold() {
    let place = Place::new();
    let mut running = Running::start(&mut demo(&place, &[]));
    while !running.line().ends_with("worker-5 joined") {}
    let victim = workers(&running).pop().unwrap();
    nix::sys::signal::kill(Pid::from_raw(victim.parse().unwrap()), Signal::SIGKILL).unwrap();
    let done = running.finish();
    assert_eq!(done.code, 1, "{}", done.out);
    assert!(done.out.contains("FAILED"), "{}", done.out);
}

#[test]
fn a_run_that_failed_leaves_nothing() {
    let (place, other) = (Place::new(), Place::new());
    let mut running = Running::start(&mut demo(&place, &["--url", &other.url()]));
    while !running.line().ends_with("worker-5 joined") {}
    for victim in workers(&running) {
        nix::sys::signal::kill(Pid::from_raw(victim.parse().unwrap()), Signal::SIGKILL).unwrap();
    }
    assert_eq!(running.finish().code, 1);
    assert_eq!(other.run(["groups", "--json"]).json(), serde_json::json!([]));
    assert!(is_empty(&place), "it cleans up");
}

#[test]
fn a_signal_ends_it_with_all_its_workers() {
    let (place, other) = (Place::new(), Place::new());
    let mut running = Running::start(&mut demo(&place, &["--url", &other.url()]));
    while !running.line().ends_with("worker-3 joined") {}
    let workers = workers(&running);
    assert!(workers.len() >= 3);
    running.signal(Signal::SIGINT);
    assert_eq!(running.finish().code, -2);
    assert_eq!(other.run(["groups", "--json"]).json(), serde_json::json!([]));
    workers.iter().for_each(|worker| until_dead(worker));
    assert!(is_empty(&place), "it cleans up");
}

#[test]
fn workers_die_with_a_killed_demonstration() {
    let place = Place::new();
    let mut running = Running::start(&mut demo(&place, &[]));
    while !running.line().ends_with("worker-2 joined") {}
    let workers = workers(&running);
    running.signal(Signal::SIGKILL);
    workers.iter().for_each(|worker| until_dead(worker));
}

#[test]
fn processes_cannot_share_what_lives_in_one() {
    let done = run(&mut tooz(["demo", "--url", "memory://x"]));
    assert_eq!((done.code, done.out.as_str()), (1, ""));
    assert!(done.err.contains("memory:// lives within one process"), "{done:?}");
}

#[test]
fn it_shows_what_a_fence_prevents() {
    let place = Place::new();
    let done = run(&mut demo(&place, &["--fencing"]));
    assert_eq!((done.code, done.err.as_str()), (0, ""), "{}", done.out);
    let parts = ["A is stopped", "has 120: 50 are LOST", "refused: the token", "has 170: nothing"];
    let places: Vec<_> = parts.iter().map(|part| done.out.find(part)).collect();
    assert!(places.is_sorted() && places[0].is_some(), "{}", done.out);
    assert!(is_empty(&place), "it cleans up");
}

#[test]
fn a_resource_is_one_of_a_fence() {
    let postgres = "postgresql://localhost";
    let done = run(&mut tooz(["demo", "--resource", postgres]));
    assert_eq!(done.code, 2, "{done:?}");
    let done = run(&mut tooz(["demo", "--fencing", "--resource", "oracle://localhost"]));
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.err.contains("is no postgresql:// URL"), "{done:?}");
}
