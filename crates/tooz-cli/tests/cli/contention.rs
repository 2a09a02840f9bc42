use std::time::Instant;

use crate::support::{Place, Running};

const PROCESSES: usize = 100;
const ROUNDS: usize = 10;

/// Each process reads a number from a file and writes the next one: without the lock, updates
/// are lost at once.
#[test]
fn a_hundred_processes_lose_no_update() {
    let place = Place::new();
    let count = place.dir.path().join("count");
    std::fs::write(&count, "0").unwrap();
    let tokens = place.dir.path().join("tokens");
    let script = format!(
        r#"round=0
        while [ $round -lt {ROUNDS} ]; do
            "$TOOZ" --quiet lock counter -- sh -c 'read n < "$COUNT"; echo $((n + 1)) > "$COUNT"
                echo $TOOZ_FENCING_TOKEN >> "$TOKENS"' || exit
            round=$((round + 1))
        done"#
    );
    let began = Instant::now();
    let contenders: Vec<_> = (0..PROCESSES)
        .map(|_| {
            let mut command = std::process::Command::new("sh");
            command.args(["-c", &script]).env("COUNT", &count).env("TOKENS", &tokens);
            command.env("TOOZ_URL", place.url());
            Running::start(command.env("TOOZ", env!("CARGO_BIN_EXE_tooz")))
        })
        .collect();
    for contender in contenders {
        let done = contender.finish();
        assert_eq!((done.code, done.err.as_str()), (0, ""));
    }
    let counted = std::fs::read_to_string(&count).unwrap();
    assert_eq!(counted.trim(), (PROCESSES * ROUNDS).to_string());
    println!("{PROCESSES} processes, {ROUNDS} rounds each, in {:?}", began.elapsed());

    // As many tokens were given as there were turns, and they rose.
    let tokens = std::fs::read_to_string(&tokens).unwrap();
    let tokens: Vec<u64> = tokens.lines().map(|token| token.parse().unwrap()).collect();
    assert_eq!(tokens.len(), PROCESSES * ROUNDS);
    assert!(tokens.is_sorted_by(|one, two| one < two));
}
