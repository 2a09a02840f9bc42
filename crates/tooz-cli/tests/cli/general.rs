use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::{Place, Running, run, tooz};

#[test]
fn a_bad_url_is_one_line_that_says_what_would_be_right() {
    for (url, part) in [
        ("redsi://localhost", "the scheme redsi is unknown; known are: consul, "),
        ("/var/lib/tooz", "scheme://"),
        ("file:///tmp/x?tiemout=3", "the option tiemout is unknown; known are: "),
        ("file:///proc/nowhere", "/proc/nowhere"),
        ("file:///", "the root directory"),
        ("file:///tmp/..", "the root directory"),
    ] {
        let done = run(&mut tooz(["--url", url, "groups"]));
        assert_eq!((done.code, done.out.as_str()), (1, ""), "{done:?}");
        assert!(done.err.starts_with("tooz: ") && done.err.contains(part), "{done:?}");
        assert_eq!(done.err.lines().count(), 1, "{done:?}");
    }
}

#[test]
fn wrong_usage_exits_with_2() {
    let wrong: [&[&str]; 10] = [
        &[],
        &["lokc", "a", "--", "true"],
        &["lock", "a"],
        &["lock", "--try", "--wait", "1", "a", "--", "true"],
        &["lock", "--wait", "-1", "a", "--", "true"],
        &["lock", "--grace", "soon", "a", "--", "true"],
        &["lock", "--wiat", "1", "a", "true"],
        &["lock", "a", "--wiat", "1", "true"],
        &["lock", "-x", "a", "true"],
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
fn without_a_url_all_of_a_user_share_one_place_whatever_their_environment() {
    let place = Place::new();
    let name = format!("tooz-test-{}", place.dir.path().file_name().unwrap().display());
    let lock = ["lock", "-n", &name, "sh", "-c", "echo $TOOZ_URL; exec sleep 120"];
    let mut login = tooz(lock);
    let mut login = Running::start(login.env("XDG_RUNTIME_DIR", place.dir.path()));
    let url = login.line();

    let mut cron = tooz(["lock", "-n", &name, "true"]);
    for variable in ["XDG_RUNTIME_DIR", "XDG_STATE_HOME", "HOME", "TMPDIR"] {
        cron.env(variable, place.dir.path().join("cron"));
    }
    assert_eq!(run(&mut cron).code, 75, "the same lock");
    cron.env_clear();
    assert_eq!(run(&mut cron).code, 75, "the same lock");

    login.signal(Signal::SIGTERM);
    let done = login.finish();
    assert!(done.err.contains(&url) && done.err.contains("--url"), "{done:?}");
    let store = Path::new(url.strip_prefix("file://").unwrap());
    assert_eq!(store.metadata().unwrap().mode() & 0o777, 0o700);
    std::fs::remove_file(store.join(name)).unwrap();
}

#[test]
fn with_too_few_descriptors_it_says_so() {
    let place = Place::new();
    // With less, the program cannot even be loaded.
    for limit in 6..24 {
        for rest in ["groups", "lock a true", "watch g"] {
            let script = format!("ulimit -n {limit}; exec \"$TOOZ\" {rest}");
            let mut shell = std::process::Command::new("sh");
            shell.args(["-c", &script]).env("TOOZ_URL", place.url());
            let done = run(shell.env("TOOZ", env!("CARGO_BIN_EXE_tooz")));
            assert!(!done.err.contains("panicked"), "{limit} {rest}: {done:?}");
            if limit < 12 {
                assert_eq!(done.code, 1, "{limit} {rest}: {done:?}");
                assert!(done.err.contains("ulimit -n"), "{limit} {rest}: {done:?}");
            }
        }
    }
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

#[test]
fn completions_know_the_commands_and_nothing_hidden() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = run(&mut tooz(["completions", shell])).out;
        assert!(script.contains("url-file") && script.contains("leader"), "{shell}");
        assert!(!script.contains("demo-worker") && !script.contains("front"), "{shell}");
    }
    // bash itself finds the words.
    let script = run(&mut tooz(["completions", "bash"])).out;
    let asks = "COMP_WORDS=(tooz lea) COMP_CWORD=1; _tooz tooz lea tooz; echo \"${COMPREPLY[*]}\"";
    let found = run(std::process::Command::new("bash").args(["-c", &format!("{script}\n{asks}")]));
    assert_eq!(found.out, "leader\n", "{found:?}");
    assert_eq!(run(&mut tooz(["completions", "cmd"])).code, 2);
}

#[test]
fn each_command_has_a_manual_page() {
    let page = run(&mut tooz(["man"])).out;
    for part in [".TH tooz 1", "tooz\\-lock(1)", "Exit codes", "TOOZ_URL"] {
        assert!(page.contains(part), "no {part} in {page}");
    }
    assert!(!page.contains("demo\\-worker") && !page.contains("\\-\\-front"), "{page}");
    let folder = tempfile::tempdir().unwrap();
    let done = run(tooz(["man", "--into"]).arg(folder.path()));
    assert_eq!((done.code, done.out.as_str()), (0, ""), "{done:?}");
    let lock = std::fs::read_to_string(folder.path().join("tooz-lock.1")).unwrap();
    assert!(lock.contains("\\-\\-grace"), "{lock}");
    assert!(!folder.path().join("tooz-demo-worker.1").exists());
    let nowhere = run(&mut tooz(["man", "--into", "/proc/nowhere"]));
    assert!(nowhere.code == 1 && nowhere.err.contains("/proc/nowhere"), "{nowhere:?}");
}
