use std::os::unix::fs::MetadataExt;

use serde_json::json;

use crate::support::{Place, run, tooz};

#[test]
fn a_bad_url_is_one_line_that_says_what_would_be_right() {
    for (url, part) in [
        ("redsi://localhost", "the scheme redsi is unknown; known are: consul, "),
        ("/var/lib/tooz", "scheme://"),
        ("file:///tmp/x?tiemout=3", "the option tiemout is unknown; known are: "),
        ("file:///proc/nowhere", "/proc/nowhere"),
    ] {
        let done = run(&mut tooz(["--url", url, "groups"]));
        assert_eq!((done.code, done.out.as_str()), (1, ""), "{done:?}");
        assert!(done.err.starts_with("tooz: ") && done.err.contains(part), "{done:?}");
        assert_eq!(done.err.lines().count(), 1, "{done:?}");
    }
}

#[test]
fn wrong_usage_exits_with_2() {
    let wrong: [&[&str]; 7] = [
        &[],
        &["lokc", "a", "--", "true"],
        &["lock", "a"],
        &["lock", "--try", "--wait", "1", "a", "--", "true"],
        &["lock", "--wait", "-1", "a", "--", "true"],
        &["lock", "--grace", "soon", "a", "--", "true"],
        &["join", "g", "--capabilities", "{"],
    ];
    for arguments in wrong {
        assert_eq!(run(&mut tooz(arguments)).code, 2, "{arguments:?}");
    }
}

#[test]
fn drivers_say_what_they_are() {
    let drivers = run(&mut tooz(["drivers", "--json"])).json();
    let names: Vec<_> = drivers.as_array().unwrap().iter().map(|d| &d["name"]).collect();
    let known: Vec<_> = tooz::registry().drivers().iter().map(|d| d.name).collect();
    assert_eq!(json!(names), json!(known));
    let file = drivers.as_array().unwrap().iter().find(|driver| driver["name"] == "file");
    assert_eq!(file.unwrap()["schemes"], json!(["file"]));
    for driver in drivers.as_array().unwrap() {
        assert!(driver["features"].as_array().unwrap().contains(&json!("locks")));
        assert!(!driver["characteristics"].as_array().unwrap().is_empty());
    }
    assert!(run(&mut tooz(["drivers"])).out.contains("file://"));
}

#[test]
fn without_a_url_it_uses_a_private_directory_of_the_user() {
    let place = Place::new();
    let url = ["lock", "a", "--", "sh", "-c", "echo $TOOZ_URL"];
    let runtime = run(tooz(url).env("XDG_RUNTIME_DIR", place.dir.path()));
    let private = place.dir.path().join("tooz");
    assert_eq!(runtime.out, format!("file://{}\n", private.display()));
    assert_eq!(private.metadata().unwrap().mode() & 0o777, 0o700);

    let mut temporary = tooz(url);
    temporary.env_remove("XDG_RUNTIME_DIR").env("TMPDIR", place.dir.path());
    let temporary = run(&mut temporary);
    let private = place.dir.path().join(format!("tooz-{}", nix::unistd::geteuid()));
    assert_eq!(temporary.out, format!("file://{}\n", private.display()));
    assert_eq!(private.metadata().unwrap().mode() & 0o777, 0o700);
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = tooz(["drivers"]);
    let done = command.stdout(writer).output().unwrap();
    assert_eq!((done.status.code(), done.stderr.as_slice()), (Some(141), &b""[..]));
}

#[test]
fn a_process_of_its_own_world_is_no_error() {
    let done = run(&mut tooz(["--url", "memory://x", "lock", "a", "--", "true"]));
    assert_eq!(done.code, 0);
    assert_eq!(run(&mut tooz(["--url", "zake://", "groups", "--json"])).json(), json!([]));
}
