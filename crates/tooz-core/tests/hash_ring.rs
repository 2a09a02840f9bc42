//! The ring against placements computed by Python tooz 9.1.0 (`data/hash_ring.json`).

// Helpers outside a `#[test]` function are tests all the same.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;

use serde::Deserialize;
use sha2::{Digest, Sha256};
use tooz_core::MemberId;
use tooz_core::hash_ring::{Hash, HashRing};

#[derive(Deserialize)]
struct Vectors {
    sets: HashMap<String, Vec<(String, u32)>>,
    keys: Vec<String>,
    rings: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    set: String,
    partitions: u32,
    hash: Hash,
    point_count: usize,
    points: String,
    replicas1: Vec<Option<usize>>,
    replicas2: Vec<Vec<usize>>,
    replicas3: Vec<Vec<usize>>,
    ignore_first_replicas1: Vec<Option<usize>>,
    ignore_first2_replicas2: Vec<Vec<usize>>,
}

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn placement_is_that_of_python() {
    let vectors: Vectors = serde_json::from_str(include_str!("data/hash_ring.json")).unwrap();
    let keys: Vec<_> = vectors.keys.iter().map(|key| unhex(key)).collect();
    let mut lookups = 0;
    for vector in &vectors.rings {
        let what = format!("{}, {} × {}", vector.set, vector.hash, vector.partitions);
        let nodes: Vec<(MemberId, u32)> = vectors.sets[&vector.set]
            .iter()
            .map(|(id, weight)| (MemberId::from(unhex(id)), *weight))
            .collect();
        let index_of = |node: &MemberId| nodes.iter().position(|(id, _)| id == node).unwrap();
        let mut ring = HashRing::with(vector.partitions, vector.hash);
        ring.add_all(nodes.iter().cloned()).unwrap();

        assert_eq!(ring.point_count(), vector.point_count, "{what}");
        let points: Vec<_> =
            ring.points().map(|(at, node)| format!("{at:032x}:{}", index_of(node))).collect();
        assert_eq!(hex(&Sha256::digest(points.join("\n"))), vector.points, "{what}");

        let first_two: Vec<_> = nodes.iter().take(2).map(|(id, _)| id.clone()).collect();
        let first = &first_two[..first_two.len().min(1)];
        let owners = |key, replicas, ignore| -> Vec<usize> {
            ring.nodes(key, replicas, ignore).into_iter().map(index_of).collect()
        };
        // Python's sets have no order: compare sorted.
        let sorted = |key, replicas, ignore| {
            let mut owners = owners(key, replicas, ignore);
            owners.sort();
            owners
        };
        for (index, key) in keys.iter().enumerate() {
            let what = format!("{what}, key {}", vectors.keys[index]);
            assert_eq!(ring.node(key).map(index_of), vector.replicas1[index], "{what}");
            assert_eq!(sorted(key, 2, &[]), vector.replicas2[index], "{what}");
            assert_eq!(sorted(key, 3, &[]), vector.replicas3[index], "{what}");
            let ignoring = owners(key, 1, first).first().copied();
            assert_eq!(ignoring, vector.ignore_first_replicas1[index], "{what}");
            let ignoring = sorted(key, 2, &first_two);
            assert_eq!(ignoring, vector.ignore_first2_replicas2[index], "{what}");
            lookups += 5;
        }
    }
    assert_eq!((vectors.rings.len(), lookups), (36, 36 * 200 * 5));
}

#[test]
fn the_defaults_are_those_of_python() {
    let ring = HashRing::new();
    assert_eq!((ring.points_per_weight(), ring.hash()), (32, Hash::Md5));
}

#[test]
fn the_vectors_of_the_reference() {
    let ring = |nodes: [(&str, u32); 3], hash| {
        let mut ring = HashRing::with(32, hash);
        ring.add_all(nodes).unwrap();
        ring
    };
    let owners = |ring: &HashRing, keys: &[&str]| -> Vec<String> {
        keys.iter().filter_map(|key| ring.node(key)).map(ToString::to_string).collect()
    };
    let nodes = ring([("node1", 1), ("node2", 1), ("node3", 1)], Hash::Md5);
    assert_eq!(nodes.points().next().unwrap().0, 13801970200587527549308447859993173687);
    assert_eq!(owners(&nodes, &["foo", "bar", "baz"]), ["node2", "node3", "node3"]);

    let equal = ring([("m1", 1), ("m2", 1), ("m3", 1)], Hash::Md5);
    let keys = ["foo", "bar", "baz", "1", "2", "3", "object-42"];
    assert_eq!(owners(&equal, &keys), ["m3", "m3", "m2", "m2", "m3", "m3", "m2"]);

    let weighted = ring([("m1", 1), ("m2", 2), ("m3", 3)], Hash::Md5);
    let mut counts = HashMap::new();
    for key in 0..60_000 {
        *counts.entry(weighted.node(key.to_string()).unwrap().to_string()).or_insert(0) += 1;
    }
    let expected = [("m1", 10_951), ("m2", 20_159), ("m3", 28_890)];
    assert_eq!(counts, expected.map(|(node, count)| (node.to_owned(), count)).into());

    let sha256 = ring([("m1", 1), ("m2", 1), ("m3", 1)], Hash::Sha256);
    let digits = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    let expected = ["m1", "m2", "m3", "m3", "m2", "m3", "m1", "m2", "m1", "m2"];
    assert_eq!(owners(&sha256, &digits), expected);
}

/// Where Python's behaviour is a flaw, ours is another on purpose. The comments say what the
/// vectors record of Python.
#[test]
fn the_flaws_of_python_are_not_reproduced() {
    let mut ring = HashRing::new();
    ring.add_all([("a", 1), ("b", 1)]).unwrap();
    // Python: 128 points after weight 3 and still 128 after weight 1 again...
    ring.add_with_weight("a", 3).unwrap();
    assert_eq!(ring.point_count(), 128);
    ring.add_with_weight("a", 1).unwrap();
    assert_eq!(ring.point_count(), 64);
    // ... and 96 after the removal, with the removed node still returned.
    ring.remove("a").unwrap();
    assert_eq!(ring.point_count(), 32);
    let gone = MemberId::from("a");
    assert!((0..1_000).all(|key| ring.node(key.to_string()) != Some(&gone)));

    // Python: UnknownNode with "Unknown node `zz'".
    assert_eq!(ring.remove("zz").unwrap_err().context("node"), Some("zz"));
    // Python: ValueError.
    assert!("no-such-hash".parse::<Hash>().is_err());
    // Python: `ring[key]` is a set of one.
    assert_eq!(ring.node("key"), Some(&"b".into()));
}
