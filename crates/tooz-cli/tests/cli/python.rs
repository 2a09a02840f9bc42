//! The command beside processes of Python tooz 9.1, in one directory.
//!
//! Runs when `TOOZ_PYTHON` names an interpreter that has it; without, it says so and does nothing.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{Place, Running};

const PEERS: usize = 4;
const TIME: Duration = Duration::from_secs(5);

#[test]
fn the_command_and_python_share_a_lock_and_a_group() {
    let Ok(python) = std::env::var("TOOZ_PYTHON") else {
        println!("not asked for: TOOZ_PYTHON names no interpreter with tooz 9.1");
        return;
    };
    let place = Place::new();
    let (store, side) = (place.dir.path().join("store"), place.dir.path().join("inside"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/fleet.py");
    let ours = Running::start(&mut place.tooz(["--member", "rust", "join", "fleet"]));
    let mut peers: Vec<_> = (0..PEERS)
        .map(|n| {
            let mut peer = Command::new(&python);
            peer.arg(&script).arg(&store).arg(format!("python-{n}"));
            peer.arg(TIME.as_secs().to_string()).arg(&side).stdin(Stdio::piped());
            Running::start(&mut peer)
        })
        .collect();

    // `set -C` makes the shell refuse to overwrite: whoever finds the file is inside with another.
    let inside = "set -C; : > \"$SIDE\" || exit 9; sleep 0.01; rm \"$SIDE\"";
    let turns: usize = std::thread::scope(|scope| {
        let contenders: Vec<_> = (0..PEERS)
            .map(|_| {
                scope.spawn(|| {
                    let end = Instant::now() + TIME;
                    let mut turns = 0;
                    while Instant::now() < end {
                        let mut lock = place.tooz(["lock", "shared", "--", "sh", "-c", inside]);
                        let status = lock.env("SIDE", &side).status().unwrap();
                        assert_eq!(status.code(), Some(0), "9: somebody else was inside");
                        turns += 1;
                    }
                    turns
                })
            })
            .collect();
        contenders.into_iter().map(|contender| contender.join().unwrap()).sum()
    });
    assert!(turns > 0, "the command got its turns");

    for peer in &mut peers {
        let members = peer.line();
        assert!(members.starts_with("members ") && members.contains(" rust"), "{members}");
        let turns: usize = peer.line().strip_prefix("turns ").unwrap().parse().unwrap();
        assert!(turns > 0, "Python got its turns");
    }
    let seen = place.run(["members", "fleet"]).out;
    for member in ["rust", "python-0", "python-1", "python-2", "python-3"] {
        assert!(seen.lines().any(|line| line.starts_with(member)), "{member} in {seen}");
    }
    drop(peers);
    ours.signal(Signal::SIGTERM);
    assert_eq!(ours.finish().code, 0);
}
