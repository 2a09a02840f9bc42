//! The ring beside the hash it cannot do without, and beside other crates.
//!
//! `lookup/…` is one lookup on 100 nodes × 32 points. Of the other crates, those that hash with
//! SipHash unless told otherwise are measured with it and with the MD5 that a Python-compatible
//! ring has to use.
//!
//! Then the verdict: whether a lookup keeps its bounds, against the MD5 of its key and, if
//! `TOOZ_PYTHON` names an interpreter that has tooz, against the ring of the original.

// The library's lints are about what may fail in production.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark fails by panicking")]

use std::hash::{BuildHasherDefault, Hash as StdHash, Hasher};
use std::hint::black_box;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use consistent_hash::{DefaultHash, Node, RingHash, StaticHashRing};
use criterion::{BatchSize, Criterion, criterion_group};
use md5::{Digest, Md5};
use tooz_core::hash_ring::HashRing;

const NODES: usize = 100;
const PARTITIONS: usize = 32;

/// MD5 as a hasher of the standard library: 64 bits of it.
#[derive(Default)]
struct Md5Hasher(Md5);

impl Hasher for Md5Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        u64::from_be_bytes(*self.0.clone().finalize().first_chunk().unwrap())
    }
}

struct Md5RingHash;

impl RingHash for Md5RingHash {
    fn hash_item<T: StdHash>(&self, item: &T) -> u64 {
        let mut hasher = Md5Hasher::default();
        item.hash(&mut hasher);
        hasher.finish()
    }
}

#[derive(Clone)]
struct Name(String);

impl conhash::Node for Name {
    fn name(&self) -> String {
        self.0.clone()
    }
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("worker-{n:04}.example.org")).collect()
}

fn ring(nodes: usize) -> HashRing {
    let mut ring = HashRing::new();
    ring.add_all(names(nodes).into_iter().map(|name| (name, 1))).unwrap();
    ring
}

fn keys() -> Vec<String> {
    (0..1_024).map(|n| format!("volume-{n:08}")).collect()
}

fn lookup(criterion: &mut Criterion) {
    let keys = keys();
    let mut group = criterion.benchmark_group("lookup");
    macro_rules! measure {
        ($name:literal, |$key:ident| $body:expr) => {
            group.bench_function($name, |bencher| {
                let mut keys = keys.iter().cycle();
                bencher.iter(|| {
                    let $key = black_box(keys.next().unwrap().as_str());
                    black_box($body)
                });
            });
        };
    }

    measure!("md5 of the key alone", |key| Md5::digest(key));

    let tooz = ring(NODES);
    measure!("tooz", |key| tooz.node(key));
    measure!("tooz, 3 replicas", |key| tooz.nodes(key, 3, &[]));
    let large = ring(1_000);
    measure!("tooz, 1000 nodes", |key| large.node(key));

    let points =
        || names(NODES).into_iter().flat_map(|n| (0..PARTITIONS).map(move |p| (n.clone(), p)));
    let mut sip = hashring::HashRing::new();
    sip.batch_add(points().collect());
    measure!("hashring, its SipHash", |key| sip.get(&key));
    let mut md5 = hashring::HashRing::with_hasher(BuildHasherDefault::<Md5Hasher>::default());
    md5.batch_add(points().collect());
    measure!("hashring, md5", |key| md5.get(&key));

    let nodes = || names(NODES).into_iter().map(|name| Node::new(name).quantity(PARTITIONS));
    let sip = StaticHashRing::new(DefaultHash, nodes());
    measure!("consistent_hash, its SipHash", |key| sip.calc_candidates(&key).next());
    let md5 = StaticHashRing::new(Md5RingHash, nodes());
    measure!("consistent_hash, md5", |key| md5.calc_candidates(&key).next());

    let mut con = conhash::ConsistentHash::new();
    for name in names(NODES) {
        con.add(&Name(name), PARTITIONS);
    }
    measure!("conhash, its md5", |key| con.get(key.as_bytes()));
    group.finish();
}

fn change(criterion: &mut Criterion) {
    let full = ring(1_000);
    let mut group = criterion.benchmark_group("1000 nodes");
    group.bench_function("add one", |bencher| {
        bencher.iter_batched_ref(
            || full.clone(),
            |ring| ring.add("one more").unwrap(),
            BatchSize::LargeInput,
        );
    });
    group.bench_function("remove one", |bencher| {
        bencher.iter_batched_ref(
            || full.clone(),
            |ring| ring.remove("worker-0500.example.org").unwrap(),
            BatchSize::LargeInput,
        );
    });
    group.bench_function("build", |bencher| bencher.iter(|| ring(1_000)));
    group.finish();
}

fn short() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
}

criterion_group! { name = benches; config = short(); targets = lookup, change }

/// A lookup costs at most this many times the MD5 of its key.
const MOST_OF_MD5: f64 = 1.5;

/// A lookup is at least this many times as fast as Python's.
const LEAST_OF_PYTHON: f64 = 25.0;

fn main() -> ExitCode {
    benches();
    Criterion::default().configure_from_args().final_summary();
    // Without it, as of `cargo test --benches`, nothing is measured.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    if verdict() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Measures side by side, in rounds that alternate, and compares the fastest of each: what else
/// runs on the machine can only slow a round down.
fn verdict() -> bool {
    const ROUNDS: usize = 2_000;
    let (keys, ring) = (keys(), ring(NODES));
    let (mut md5, mut tooz) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..ROUNDS {
        md5 = md5.min(nanoseconds(&keys, Md5::digest));
        tooz = tooz.min(nanoseconds(&keys, |key| ring.node(key)));
    }
    println!("\nlookup, {NODES} nodes x {PARTITIONS} points: {tooz:.0} ns, {:.0}/s", 1e9 / tooz);
    let costs = tooz / md5;
    let mut kept = bound("the MD5 of its key", md5, costs, costs <= MOST_OF_MD5, MOST_OF_MD5);
    match python() {
        Some(python) => {
            let faster = python / tooz;
            let enough = faster >= LEAST_OF_PYTHON;
            kept &= bound("as fast as Python's", python, faster, enough, LEAST_OF_PYTHON);
        }
        None => println!("  Python: not measured, TOOZ_PYTHON names no interpreter with tooz"),
    }
    println!("  allocations and memory: cargo test -p tooz-benches -- --nocapture");
    kept
}

/// What one call costs, in a round over all keys.
fn nanoseconds<'a, T>(keys: &'a [String], work: impl Fn(&'a str) -> T) -> f64 {
    let began = Instant::now();
    for key in keys {
        black_box(work(black_box(key)));
    }
    began.elapsed().as_secs_f64() * 1e9 / keys.len() as f64
}

fn bound(of: &str, other: f64, ratio: f64, kept: bool, limit: f64) -> bool {
    let verdict = if kept { "kept" } else { "BROKEN" };
    println!("  {ratio:.2} times {of}, {other:.0} ns; the bound is {limit}: {verdict}");
    kept
}

/// The nanoseconds of one lookup in Python's ring.
fn python() -> Option<f64> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/python/ring_rate.py");
    let output = Command::new(std::env::var_os("TOOZ_PYTHON")?)
        .args([script, &NODES.to_string(), &PARTITIONS.to_string(), "3"])
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "Python ended with {}", output.status);
    Some(String::from_utf8(output.stdout).unwrap().trim().parse().unwrap())
}
