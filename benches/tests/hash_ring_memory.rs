//! What a ring takes of the heap. Apart from the benchmarks, whose times counting would change.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::hint::black_box;

use allocation_counter::measure;
use tooz_core::hash_ring::HashRing;

const NODES: usize = 100;

fn nodes() -> impl Iterator<Item = (String, u32)> {
    (0..NODES).map(|n| (format!("worker-{n:04}.example.org"), 1))
}

fn ring() -> HashRing {
    let mut ring = HashRing::new();
    ring.add_all(nodes()).expect("it is small");
    ring
}

#[test]
fn a_lookup_of_one_replica_allocates_nothing() {
    let ring = ring();
    let keys: Vec<String> = (0..1_024).map(|n| format!("volume-{n:08}")).collect();
    let owner = measure(|| {
        for key in &keys {
            black_box(ring.node(key));
        }
    });
    assert_eq!(owner.count_total, 0, "node: {owner:?}");
    let first = measure(|| {
        for key in &keys {
            black_box(ring.walk(key).next());
        }
    });
    assert_eq!(first.count_total, 0, "walk: {first:?}");
    // Or the counter counts nothing.
    assert!(measure(|| drop(black_box(ring.nodes("foo", 3, &[])))).count_total > 0);
}

#[test]
fn a_ring_takes_about_31_bytes_a_point() {
    let points = (NODES * 32) as f64;
    let mut kept = None;
    let info = measure(|| kept = Some(ring()));
    // The ids of the nodes are not the points'.
    let ids = measure(|| {
        black_box(nodes().map(|(id, _)| tooz_core::MemberId::from(id)).collect::<Vec<_>>());
    });
    let total = info.bytes_current as f64;
    println!(
        "{NODES} nodes × 32 points: {total} bytes, {:.1} a point; at most {} bytes while it is \
         made; the ids alone take {} at most",
        total / points,
        info.bytes_max,
        ids.bytes_max
    );
    drop(kept);
    assert!(total / points < 36.0, "{:.1} bytes a point", total / points);
}
