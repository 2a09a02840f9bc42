use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::{Place, Running};

/// A member without a command, which has joined.
fn join(place: &Place, member: &str, more: &[&str]) -> Running {
    let arguments = [&["--json", "--member", member, "join", "g"], more].concat();
    let mut running = Running::start(&mut place.tooz(arguments));
    assert_eq!(running.json(), json!({"event": "joined", "member": member}));
    running
}

#[test]
fn members_come_and_go_with_their_capabilities() {
    let place = Place::new();
    let one = join(&place, "one", &["--capabilities", r#"{"weight": 2}"#]);
    let mut watch = Running::start(&mut place.tooz(["--json", "watch", "g"]));
    let first = json!({"member": "one", "capabilities": {"weight": 2}});
    assert_eq!(watch.json(), json!({"event": "snapshot", "members": [first]}));

    let two = join(&place, "two", &[]);
    let second = json!({"member": "two", "capabilities": null});
    assert_eq!(watch.json(), json!({"event": "joined", "member": "two", "capabilities": null}));
    assert_eq!(place.run(["members", "g", "--json"]).json(), json!([first, second]));
    assert_eq!(place.run(["members", "g"]).out, "one  {\"weight\":2}\ntwo\n");
    assert_eq!(place.run(["groups", "--json"]).json(), json!(["g"]));
    assert_eq!(place.run(["groups"]).out, "g\n");

    one.signal(Signal::SIGTERM);
    assert_eq!(one.finish().code, 0);
    let left = json!({"event": "left", "member": "one", "capabilities": {"weight": 2}});
    assert_eq!(watch.json(), left);
    two.signal(Signal::SIGKILL);
    assert_eq!(watch.json(), json!({"event": "left", "member": "two", "capabilities": null}));

    watch.signal(Signal::SIGINT);
    assert_eq!(watch.finish().code, 0);
    drop(two);
}

#[test]
fn watch_has_a_form_for_people() {
    let place = Place::new();
    let one = join(&place, "one", &["--capabilities", "[1]"]);
    let mut watch = Running::start(&mut place.tooz(["watch", "g"]));
    assert_eq!(watch.line(), "members  1");
    assert_eq!(watch.line(), "member   one  [1]");
    drop(one);
    assert_eq!(watch.line(), "left     one  [1]");
}

#[test]
fn a_command_runs_while_its_member_is_in_the_group() {
    let place = Place::new();
    let me =
        "echo $TOOZ_GROUP $TOOZ_MEMBER_ID; exec \"$TOOZ\" --member other members \"$TOOZ_GROUP\"";
    let mut command = place.tooz(["--member", "me", "join", "g", "--", "sh", "-c", me]);
    let done = crate::support::run(command.env("TOOZ", env!("CARGO_BIN_EXE_tooz")));
    assert_eq!((done.code, done.out.as_str()), (0, "g me\nme\n"), "{done:?}");
    assert_eq!(place.run(["members", "g", "--json"]).json(), json!([]));
    let refused = place.run(["join", "g", "--", "sh", "-c", "exit 9"]);
    assert_eq!(refused.code, 9);
}

#[test]
fn a_lost_session_is_rebuilt_and_said() {
    let place = Place::new();
    let one = join(&place, "one", &["--capabilities", "7"]);
    let mut watch = Running::start(&mut place.tooz(["--json", "watch", "g"]));
    let first = json!({"member": "one", "capabilities": 7});
    assert_eq!(watch.json(), json!({"event": "snapshot", "members": [first]}));
    // The watcher's own session too: its stream has a gap, and goes on.
    place.end_sessions();
    let (mut gap, mut there) = (false, true);
    while !(gap && there) {
        let event = watch.json();
        match event["event"].as_str().unwrap() {
            "gap" => (gap, there) = (true, false),
            "snapshot" => there = event["members"] == json!([first]),
            "joined" => there = true,
            "left" => there = false,
            other => panic!("unexpected: {other}"),
        }
    }
    one.signal(Signal::SIGTERM);
    let done = one.finish();
    assert_eq!(done.code, 0);
    assert!(done.err.contains("the session with file"), "{done:?}");
    assert_eq!(watch.json()["event"], "left");
}

#[test]
fn names_are_bytes() {
    let place = Place::new();
    let member: &OsStr = OsStr::from_bytes(b"m\xff");
    let arguments = ["--member".into(), member.to_owned(), "join".into(), OsString::from("grüppe")];
    let joined = Running::start(&mut place.tooz(arguments));
    crate::support::until("it is there", || {
        let done = place.run(["members", "grüppe", "--json"]);
        done.code == 0 && done.json() == json!([{"member": "m\\xff", "capabilities": null}])
    });
    assert_eq!(place.run(["groups", "--json"]).json(), json!(["grüppe"]));
    drop(joined);
}

#[test]
fn a_group_that_is_not_there_is_an_error() {
    let place = Place::new();
    for command in ["members", "leader", "watch"] {
        let done = place.run([command, "nothing"]);
        assert_eq!((done.code, done.err.lines().count()), (1, 1), "{done:?}");
        assert!(done.err.contains("the group does not exist"), "{done:?}");
    }
}

#[test]
fn the_ring_says_who_owns_what_and_what_would_move() {
    let place = Place::new();
    let _one = join(&place, "m1", &[]);
    let _two = join(&place, "m2", &["--capabilities", r#"{"weight": 2}"#]);
    let _three = join(&place, "m3", &["--capabilities", r#"{"weight": 3}"#]);
    // The Python original's own answers for these weights.
    let placed = place.run(["ring", "g", "0", "2", "6"]);
    assert_eq!(placed.out, "0  m2\n2  m3\n6  m1\n");
    let ring = place.run(["--json", "ring", "g", "6", "--without", "m1", "--replicas", "2"]).json();
    let shares = ring["members"].as_array().unwrap().iter().map(|m| m["share"].as_f64().unwrap());
    assert!((shares.sum::<f64>() - 1.0).abs() < 1e-9);
    assert_eq!(ring["members"][1]["weight"], 2);
    assert_eq!(ring["keys"][0]["members"].as_array().unwrap().len(), 2);
    assert_eq!(ring["moves"]["share"], ring["members"][0]["share"]);
    let unknown = place.run(["ring", "g", "--without", "m9"]);
    assert_eq!(unknown.code, 1);
    assert!(
        unknown.err.contains("not in the ring") && unknown.err.contains("m9"),
        "{}",
        unknown.err
    );
}
