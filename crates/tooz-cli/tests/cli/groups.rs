use std::ffi::{OsStr, OsString};
use std::fs::Permissions;
use std::io::{BufRead as _, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::{Place, Running, run, until};

/// A member without a command, which has joined.
fn join(place: &Place, member: &str, more: &[&str]) -> Running {
    let arguments = [&["--json", "--member", member, "join", "g"], more].concat();
    let mut running = Running::start(&mut place.tooz(arguments));
    assert_eq!(running.event(), json!({"event": "joined", "member": member}));
    running
}

#[test]
fn members_come_and_go_with_their_capabilities() {
    let place = Place::new();
    let one = join(&place, "one", &["--capabilities", r#"{"weight": 2}"#]);
    let mut watch = Running::start(&mut place.tooz(["--json", "watch", "g"]));
    let first = json!({"member": "one", "capabilities": {"weight": 2}});
    assert_eq!(watch.event(), json!({"event": "snapshot", "members": [first]}));

    let two = join(&place, "two", &[]);
    let second = json!({"member": "two", "capabilities": null});
    assert_eq!(watch.event(), json!({"event": "joined", "member": "two", "capabilities": null}));
    assert_eq!(place.run(["members", "g", "--json"]).json(), json!([first, second]));
    assert_eq!(place.run(["members", "g"]).out, "one  {\"weight\":2}\ntwo\n");
    assert_eq!(place.run(["groups", "--json"]).json(), json!(["g"]));
    assert_eq!(place.run(["groups"]).out, "g\n");

    one.signal(Signal::SIGTERM);
    assert_eq!(one.finish().code, 0);
    let left = json!({"event": "left", "member": "one", "capabilities": {"weight": 2}});
    assert_eq!(watch.event(), left);
    two.signal(Signal::SIGKILL);
    assert_eq!(watch.event(), json!({"event": "left", "member": "two", "capabilities": null}));

    watch.signal(Signal::SIGINT);
    assert_eq!(watch.finish().code, 0);
    drop(two);
}

#[test]
fn watch_has_a_form_for_people() {
    let place = Place::new();
    let one = join(&place, "one", &["--capabilities", "[1]"]);
    let mut watch = Running::start(&mut place.tooz(["watch", "g"]));
    assert_eq!(watch.told(), "members      1");
    assert_eq!(watch.told(), "member       one  [1]");
    drop(one);
    assert_eq!(watch.told(), "left         one  [1]");
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
    assert_eq!(watch.event(), json!({"event": "snapshot", "members": [first]}));
    // The watcher's own session too: its stream has a gap, and goes on.
    place.end_sessions();
    let (mut gap, mut there, mut lost, mut back) = (false, true, false, false);
    while !(gap && there && back) {
        let event = watch.event();
        match event["event"].as_str().unwrap() {
            "gap" => (gap, there) = (true, false),
            "snapshot" => there = event["members"] == json!([first]),
            "joined" => there = true,
            "left" => there = false,
            "lost" => lost = true,
            "reconnected" => back = lost,
            other => panic!("unexpected: {other}"),
        }
    }
    let mut one = one;
    assert_eq!(one.event()["event"], "lost");
    assert_eq!(one.event(), json!({"event": "reconnected"}));
    one.signal(Signal::SIGTERM);
    let done = one.finish();
    assert_eq!(done.code, 0);
    assert!(done.err.contains("the session with file"), "{done:?}");
    assert_eq!(watch.event()["event"], "left");
}

#[test]
fn a_stream_without_events_ends_with_its_reader() {
    let place = Place::new();
    let _one = join(&place, "one", &[]);
    for arguments in [&["watch", "g"][..], &["leader", "--watch", "g"], &["join", "g"]] {
        let mut stream = place.tooz(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut reader = BufReader::new(stream.stdout.take().unwrap());
        reader.read_line(&mut String::new()).unwrap();
        drop(reader);
        let mut status = None;
        until("it ends", || {
            status = stream.try_wait().unwrap();
            status.is_some()
        });
        assert_eq!(status.unwrap().code(), Some(141), "{arguments:?}");
    }
}

/// Sets the modes of all in a directory, those of the directories after what is in them.
fn set_modes(path: &Path, directory: u32, file: u32) {
    if !path.is_dir() {
        return std::fs::set_permissions(path, Permissions::from_mode(file)).unwrap();
    }
    path.read_dir().unwrap().for_each(|entry| set_modes(&entry.unwrap().path(), directory, file));
    std::fs::set_permissions(path, Permissions::from_mode(directory)).unwrap();
}

#[test]
fn who_may_only_read_sees_groups_members_and_leaders() {
    let place = Place::new();
    let _one = place.start(&["--member", "one", "elect", "g"], "echo ready; exec sleep 120");
    set_modes(place.dir.path(), 0o555, 0o444);
    // Root may write everywhere, so somebody else has to look; where the tests run as an ordinary
    // user, that user has taken the right from himself.
    let is_root = nix::unistd::geteuid().is_root();
    let look = |arguments: &[&str]| {
        let mut command = place.tooz(arguments);
        if is_root {
            command.uid(65534).gid(65534);
        }
        command
    };
    for (arguments, seen) in [
        (&["groups"][..], "g\n"),
        (&["members", "g"], "one\n"),
        (&["leader", "g"], "one\n"),
        (&["ring", "g", "key"], "key  one\n"),
    ] {
        let done = run(&mut look(arguments));
        assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (0, seen, ""));
    }
    let mut watch = Running::start(&mut look(&["watch", "g"]));
    assert_eq!(watch.told(), "members      1");
    for refused in [["lock", "a", "true"], ["join", "g", "true"]] {
        let done = run(&mut look(&refused));
        assert_eq!((done.code, done.err.lines().count()), (1, 1), "{done:?}");
        assert!(done.err.contains(place.dir.path().to_str().unwrap()), "{done:?}");
    }
    set_modes(place.dir.path(), 0o755, 0o644);
    drop(watch);
}

#[test]
fn names_are_bytes() {
    let place = Place::new();
    let member: &OsStr = OsStr::from_bytes(b"m\xff");
    let arguments = ["--member".into(), member.to_owned(), "join".into(), OsString::from("grüppe")];
    let joined = Running::start(&mut place.tooz(arguments));
    until("it is there", || {
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
