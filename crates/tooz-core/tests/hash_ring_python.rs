//! Random rings against Python tooz itself.
//!
//! Runs when `TOOZ_PYTHON` names a Python interpreter that has tooz:
//!
//! ```text
//! python3 -m venv venv && venv/bin/pip install tooz==9.1.0
//! TOOZ_PYTHON=venv/bin/python cargo test -p tooz-core --test hash_ring_python -- --nocapture
//! ```

// Helpers outside a `#[test]` function are tests all the same.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::{Deserialize, Serialize};
use tooz_core::MemberId;
use tooz_core::hash_ring::{Hash, HashRing};

const CASES: usize = 10_000;
const SEED: u64 = 0x7007_2026;

/// A small generator of numbers (an xorshift, multiplied), so that a seed gives the same cases
/// anywhere.
struct Random(u64);

impl Random {
    /// A number below `limit`.
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize) % limit
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most + 1)).map(|_| self.below(256) as u8).collect()
    }
}

#[derive(Serialize)]
struct Case {
    partitions: u32,
    hash: Hash,
    text: bool,
    changes: Vec<Change>,
    lookups: Vec<Lookup>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Change {
    Add(&'static str, String, u32),
    Remove(&'static str, String),
}

#[derive(Serialize)]
struct Lookup {
    key: String,
    replicas: usize,
    ignore: Vec<String>,
}

#[derive(Deserialize)]
struct Answer {
    points: usize,
    owners: Vec<Vec<String>>,
}

/// The Python process, ended with the test.
struct Oracle {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Oracle {
    fn start(python: &std::ffi::OsStr) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/ring_oracle.py");
        let mut process = Command::new(python)
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (process.stdin.take(), process.stdout.take().unwrap());
        Self { process, input, output: BufReader::new(output) }
    }

    fn read<T: for<'de> Deserialize<'de>>(&mut self) -> T {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "Python ended; its error is above");
        serde_json::from_str(&line).unwrap()
    }

    fn ask(&mut self, case: &str) -> Answer {
        writeln!(self.input.as_mut().unwrap(), "{case}").unwrap();
        self.read()
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        // The end of its input is the end of the script.
        drop(self.input.take());
        let _ = self.process.wait();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn random_id(random: &mut Random, text: bool) -> MemberId {
    match random.below(4) {
        // One letter over and over: these collide.
        0 => "1".repeat(1 + random.below(4)).into(),
        1 => format!("host-{}", random.below(10)).into(),
        2 if !text => {
            let mut bytes = random.bytes(30);
            bytes.push(0xff);
            bytes.into()
        }
        _ => format!("{:016x}-ñ😀-{}", random.below(usize::MAX), random.below(1_000)).into(),
    }
}

/// Whether nodes share a point: then Python's result depends on the order of adding, and removing
/// fails.
fn collides(ring: &HashRing) -> bool {
    let all: u64 = ring.weights().map(|(_, weight)| u64::from(weight)).sum();
    (ring.point_count() as u64) < all * u64::from(ring.points_per_weight())
}

/// A random ring and how Python is to make it, or `None` if it runs into a collision on the way.
///
/// With `colliding`, nodes are only added, in ascending order: there Python's rule for a shared
/// point, that the last added node has it, is ours, that the greatest id has it.
fn random_ring(
    random: &mut Random,
    hashes: &[Hash],
    colliding: bool,
) -> Option<(HashRing, bool, Vec<Change>)> {
    let hash = *random.pick(hashes);
    let text = random.one_in(3);
    let most = 1 + random.below(40);
    let partitions = 1 + random.below(most) as u32;
    let mut ring = HashRing::with(partitions, hash);
    let mut changes = Vec::new();
    if colliding {
        let nodes: BTreeMap<MemberId, u32> = (0..random.below(9))
            .map(|_| (random_id(random, text), 1 + random.below(4) as u32))
            .collect();
        for (node, weight) in nodes {
            changes.push(Change::Add("add", hex(node.as_bytes()), weight));
            ring.add_with_weight(node, weight).unwrap();
        }
        return Some((ring, text, changes));
    }
    for _ in 0..random.below(12) {
        let present: Vec<_> = ring.weights().map(|(node, weight)| (node.clone(), weight)).collect();
        if !present.is_empty() && random.one_in(4) {
            let (node, _) = random.pick(&present);
            changes.push(Change::Remove("remove", hex(node.as_bytes())));
            ring.remove(node).unwrap();
            continue;
        }
        // Never a smaller weight than before: Python keeps the old points then.
        let (node, least) = if !present.is_empty() && random.one_in(6) {
            random.pick(&present).clone()
        } else {
            let node = random_id(random, text);
            let least = ring.weight(&node).unwrap_or(1);
            (node, least)
        };
        let weight = least + random.below(3) as u32;
        changes.push(Change::Add("add", hex(node.as_bytes()), weight));
        ring.add_with_weight(node, weight).unwrap();
        if collides(&ring) {
            return None;
        }
    }
    Some((ring, text, changes))
}

fn random_lookup(
    random: &mut Random,
    ring: &HashRing,
    text: bool,
) -> (Vec<u8>, usize, Vec<MemberId>) {
    let nodes: Vec<_> = ring.weights().map(|(node, _)| node.clone()).collect();
    let key = match random.below(3) {
        0 => format!("object-{}", random.below(1_000_000)).into_bytes(),
        // Exactly on a point, the edge of two ranges.
        1 if !nodes.is_empty() => random.pick(&nodes).as_bytes().repeat(2 + random.below(20)),
        _ => random.bytes(150),
    };
    let mut ignore = Vec::new();
    while random.one_in(2) {
        let known = !nodes.is_empty() && !random.one_in(4);
        ignore.push(if known { random.pick(&nodes).clone() } else { random_id(random, text) });
    }
    (key, random.below(nodes.len() + 3), ignore)
}

#[test]
fn random_rings_place_as_python_does() {
    let Some(python) = std::env::var_os("TOOZ_PYTHON") else {
        println!("not run: TOOZ_PYTHON does not name a Python interpreter that has tooz");
        return;
    };
    let mut oracle = Oracle::start(&python);
    let available: Vec<String> = oracle.read();
    let hashes: Vec<Hash> = Hash::ALL
        .iter()
        .copied()
        .filter(|h| available.iter().any(|name| name == h.name()))
        .collect();
    println!(
        "seed {SEED:#x}; hashes {}",
        hashes.iter().map(|h| h.name()).collect::<Vec<_>>().join(" ")
    );
    assert!(hashes.len() >= 8, "Python lacks most hash functions");

    let mut random = Random(SEED);
    let (mut done, mut collisions, mut left_out, mut lookups) = (0, 0, 0, 0);
    while done < CASES {
        let colliding = random.one_in(10);
        let Some((ring, text, changes)) = random_ring(&mut random, &hashes, colliding) else {
            left_out += 1;
            continue;
        };
        let asked: Vec<_> = (0..5).map(|_| random_lookup(&mut random, &ring, text)).collect();
        let case = Case {
            partitions: ring.points_per_weight(),
            hash: ring.hash(),
            text,
            changes,
            lookups: asked
                .iter()
                .map(|(key, replicas, ignore)| Lookup {
                    key: hex(key),
                    replicas: *replicas,
                    ignore: ignore.iter().map(|node| hex(node.as_bytes())).collect(),
                })
                .collect(),
        };
        let case = serde_json::to_string(&case).unwrap();
        let answer = oracle.ask(&case);
        assert_eq!(ring.point_count(), answer.points, "case {done}: {case}");
        for ((key, replicas, ignore), expected) in asked.iter().zip(answer.owners) {
            let owners = ring.nodes(key, *replicas, ignore);
            if ignore.is_empty() {
                let first = owners.first().copied();
                assert!(*replicas == 0 || ring.node(key) == first, "case {done}: {case}");
            }
            let mut owners: Vec<_> = owners.into_iter().map(|node| hex(node.as_bytes())).collect();
            owners.sort();
            assert_eq!(owners, expected, "case {done}, key {}: {case}", hex(key));
            lookups += 1;
        }
        collisions += usize::from(collides(&ring));
        done += 1;
    }
    println!(
        "{done} cases agree, {lookups} lookups; {collisions} with colliding points; {left_out} others \
         left out, where they collide in a way that Python does not survive"
    );
    assert!(collisions > 100);
}
