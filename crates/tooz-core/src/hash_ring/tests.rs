//! The rules of the ring. Agreement with Python: `tests/hash_ring.rs`, `tests/hash_ring_python.rs`.

use super::*;
use crate::ErrorKind;

fn ring<const N: usize>(nodes: [(&str, u32); N]) -> HashRing {
    let mut ring = HashRing::new();
    ring.add_all(nodes).unwrap();
    ring
}

fn keys() -> impl Iterator<Item = String> {
    (0..2_000).map(|n| format!("key-{n}"))
}

fn owners(ring: &HashRing) -> Vec<Option<&MemberId>> {
    keys().map(|key| ring.node(key)).collect()
}

#[test]
fn an_empty_ring_owns_nothing() {
    for ring in [HashRing::new(), HashRing::with(0, Hash::Md5), ring([("a", 0)])] {
        assert_eq!(ring.node("x"), None);
        assert!(ring.nodes("x", 3, &[]).is_empty());
        assert!(ring.ranges().is_empty());
        assert_eq!(ring.point_count(), 0);
    }
    let mut none = HashRing::with(0, Hash::Md5);
    none.add("a").unwrap();
    assert_eq!(none.node("x"), None);
}

#[test]
fn the_points_of_a_node() {
    // The vector of the reference: node "a" with two points.
    let mut ring = HashRing::with(2, Hash::Md5);
    ring.add("a").unwrap();
    let points: Vec<_> = ring.points().map(|(position, _)| position).collect();
    assert_eq!(points, [0x4124bc0a9335c27f086f24ba207a4912, 0x47bce5c74f589f4867dbd57e9ca9f808]);
}

#[test]
fn reweighting_leaves_no_ghosts() {
    let mut changed = ring([("a", 1), ("b", 3), ("c", 1)]);
    changed.add_with_weight("b", 1).unwrap();
    let fresh = ring([("a", 1), ("b", 1), ("c", 1)]);
    assert_eq!(changed, fresh);
    assert_eq!(changed.point_count(), 96);
    assert_eq!(owners(&changed), owners(&fresh));

    changed.remove("b").unwrap();
    assert_eq!(changed.point_count(), 64);
    assert_eq!(owners(&changed), owners(&ring([("a", 1), ("c", 1)])));
}

#[test]
fn weight_zero_takes_no_keys() {
    let mut ring = ring([("a", 1), ("idle", 0), ("b", 1)]);
    assert!(ring.contains("idle"));
    assert_eq!(ring.weight("idle"), Some(0));
    assert_eq!(ring.node_count(), 3);
    assert!(keys().all(|key| ring.nodes(key, 3, &[]).len() == 2));
    ring.add_with_weight("idle", 1).unwrap();
    assert!(keys().any(|key| ring.node(key) == Some(&"idle".into())));
    ring.add_with_weight("idle", 0).unwrap();
    assert!(keys().all(|key| ring.node(key) != Some(&"idle".into())));
}

#[test]
fn colliding_points_do_not_depend_on_the_order() {
    let nodes = ["1", "11", "111", "2", "22"];
    let mut forward = HashRing::new();
    let mut backward = HashRing::new();
    for index in 0..nodes.len() {
        forward.add(nodes[index]).unwrap();
        backward.add(nodes[nodes.len() - 1 - index]).unwrap();
    }
    assert!(forward.point_count() < 5 * 32);
    assert_eq!(owners(&forward), owners(&backward));
    let at_once = ring(nodes.map(|node| (node, 1)));
    assert_eq!(owners(&forward), owners(&at_once));

    // "1" repeated four times is "11" repeated twice: the greater id has the point.
    let shared = forward.position("1111");
    let owner = |ring: &HashRing| {
        ring.points().find(|(at, _)| *at == shared).map(|(_, node)| node.to_string())
    };
    assert_eq!(owner(&forward).as_deref(), Some("11"));
    forward.remove("11").unwrap();
    assert_eq!(owner(&forward).as_deref(), Some("1"));
    backward.remove("1").unwrap();
    assert_eq!(owner(&backward).as_deref(), Some("11"));
    backward.remove("11").unwrap();
    assert_eq!(owner(&backward), None);

    let without = ring([("1", 1), ("111", 1), ("2", 1), ("22", 1)]);
    assert_eq!(owners(&forward), owners(&without));
    assert_eq!(forward.point_count(), without.point_count());
}

#[test]
fn a_walk_gives_every_node_once() {
    let mut names: Vec<String> = (0..200).map(|n| format!("node-{n:03}")).collect();
    let mut ring = HashRing::new();
    ring.add_all(names.iter().map(|name| (name.as_str(), 1))).unwrap();
    ring.add_with_weight("idle", 0).unwrap();
    for key in keys().take(20) {
        let walk: Vec<_> = ring.walk(&key).map(ToString::to_string).collect();
        assert_eq!(ring.node(&key).map(ToString::to_string).as_ref(), walk.first());
        let mut sorted = walk;
        sorted.sort();
        names.sort();
        assert_eq!(sorted, names);
    }
}

#[test]
fn a_walk_follows_the_points() {
    let ring = ring([("1", 2), ("11", 1), ("111", 1), ("1111", 1), ("2", 1)]);
    let points: Vec<_> = ring.points().collect();
    assert!(points.len() < 6 * 32);
    for key in keys() {
        let after = points.partition_point(|(at, _)| *at <= ring.position(&key));
        let mut expected = Vec::new();
        for (_, node) in points[after..].iter().chain(&points[..after]) {
            if !expected.contains(node) {
                expected.push(*node);
            }
        }
        assert_eq!(ring.walk(&key).collect::<Vec<_>>(), expected, "{key}");
    }
}

#[test]
fn ignored_nodes_are_passed_over() {
    let ring = ring([("a", 1), ("b", 2), ("c", 1), ("d", 1), ("idle", 0)]);
    for key in keys() {
        let all = ring.nodes(&key, usize::MAX, &[]);
        assert_eq!(all.len(), 4);
        assert_eq!(ring.nodes(&key, 2, &[]), all[..2]);
        let ignore = [all[1].clone(), all[0].clone(), all[1].clone(), "idle".into(), "no".into()];
        assert_eq!(ring.nodes(&key, 4, &ignore), all[2..]);
        assert_eq!(ring.nodes(&key, 1, &ignore[..1]), all[..1]);
        assert!(ring.nodes(&key, 0, &[]).is_empty());
        let everyone: Vec<_> = all.into_iter().cloned().collect();
        assert!(ring.nodes(&key, 1, &everyone).is_empty());
    }
}

#[test]
fn removing_an_unknown_node_names_it() {
    let mut ring = ring([("a", 1)]);
    let error = ring.remove("zz").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(error.context("node"), Some("zz"));
    assert_eq!(ring.node_count(), 1);
}

#[test]
fn a_ring_does_not_outgrow_its_limit() {
    let mut full = ring([("a", 2)]);
    let before = full.clone();
    let limit = (HashRing::MAX_POINTS / 32) as u32;
    for wild in [limit - 1, u32::MAX] {
        let error = full.add_all([("b", 1), ("c", wild)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(full, before);
        assert_eq!(owners(&full), owners(&before));
    }
    let mut wide = HashRing::with(u32::MAX, Hash::Md5);
    assert!(wide.add("a").is_err());
    assert!(wide.add_all([("a", u32::MAX), ("b", u32::MAX)]).is_err());
    wide.add_with_weight("a", 0).unwrap();
}

#[test]
fn of_a_node_named_twice_the_last_weight_counts() {
    assert_eq!(ring([("a", 5), ("b", 1), ("a", 2)]), ring([("b", 1), ("a", 2)]));
}

#[test]
fn ranges_cover_the_key_space_once() {
    let ring = ring([("a", 1), ("b", 2), ("1", 1), ("11", 1), ("idle", 0)]);
    let ranges = ring.ranges();
    assert_eq!(ranges.first().map(|(range, _)| range.first), Some(0));
    assert_eq!(ranges.last().map(|(range, _)| range.last), Some(u128::MAX));
    for pair in ranges.windows(2) {
        assert_eq!(pair[0].0.last + 1, pair[1].0.first);
        assert_ne!(pair[0].1, pair[1].1);
    }
    for key in keys() {
        let position = ring.position(&key);
        let owner = ranges.iter().find(|(range, _)| range.contains(position)).map(|(_, id)| *id);
        assert_eq!(owner, ring.node(&key));
    }
    // A key exactly on a point belongs to the next one.
    let (at, _) = ring.points().next().unwrap();
    let (_, next) = ring.points().nth(1).unwrap();
    assert_eq!(ring.ranges().iter().find(|(range, _)| range.contains(at)).unwrap().1, next);
    assert!(ring.ranges_of("idle").is_empty() && ring.ranges_of("no").is_empty());
    let total: usize = ring.weights().map(|(node, _)| ring.ranges_of(node).len()).sum();
    assert_eq!(total, ranges.len());
}

#[test]
fn shares_follow_the_weights() {
    let mut ring = HashRing::with(1_000, Hash::Md5);
    ring.add_all([("a", 1), ("b", 2), ("c", 3), ("idle", 0)]).unwrap();
    let shares = ring.shares();
    let expected = [("a", 1.0 / 6.0), ("b", 1.0 / 3.0), ("c", 0.5), ("idle", 0.0)];
    for ((node, share), (name, near)) in shares.iter().zip(expected) {
        assert_eq!(node.to_string(), name);
        assert!((share - near).abs() < 0.03, "{name}: {share}");
        assert_eq!(ring.share(name), Some(*share));
    }
    assert!((shares.iter().map(|(_, share)| share).sum::<f64>() - 1.0).abs() < 1e-9);
    assert_eq!(ring.share("no"), None);
}

#[test]
fn a_diff_tells_every_key_that_moves() {
    let before = ring([("a", 1), ("b", 2), ("c", 1), ("1", 1)]);
    let mut after = before.clone();
    after.remove("b").unwrap();
    after.add("11").unwrap();
    after.add_with_weight("c", 2).unwrap();
    let diff = before.diff(&after).unwrap();
    let mut moved = 0;
    for key in keys() {
        let position = before.position(&key);
        let found = diff.moves().iter().find(|moved| moved.range.contains(position));
        let (from, to) = (before.node(&key), after.node(&key));
        match found {
            Some(found) => assert_eq!((found.from.as_ref(), found.to.as_ref()), (from, to)),
            None => assert_eq!(from, to),
        }
        moved += usize::from(from != to);
    }
    assert!((diff.fraction() - moved as f64 / 2_000.0).abs() < 0.05);

    let back = after.diff(&before).unwrap();
    assert_eq!(back.moves().len(), diff.moves().len());
    assert!(before.diff(&before).unwrap().is_empty());
}

#[test]
fn a_diff_with_nothing_and_with_another_hash() {
    let full = ring([("a", 1)]);
    let empty = HashRing::new();
    let gone = full.diff(&empty).unwrap();
    let all = KeyRange { first: 0, last: u128::MAX };
    assert_eq!(gone.moves(), [Move { range: all, from: Some("a".into()), to: None }]);
    assert_eq!(gone.fraction(), 1.0);
    assert!(empty.diff(&HashRing::new()).unwrap().is_empty());
    assert!(full.diff(&HashRing::with(32, Hash::Sha1)).is_err());
}

#[test]
fn serde_keeps_the_placement() {
    let mut ring = HashRing::with(16, Hash::Sha3_256);
    ring.add_all([("a", 1), ("b", 0)]).unwrap();
    ring.add_with_weight(b"\xff\x00", 2).unwrap();
    let json = serde_json::to_string(&ring).unwrap();
    let expected = r#"{"points":16,"hash":"sha3_256","nodes":["#.to_owned()
        + r#"{"id":"a","weight":1},{"id":"b","weight":0},{"id":[255,0],"weight":2}]}"#;
    assert_eq!(json, expected);
    let read: HashRing = serde_json::from_str(&json).unwrap();
    assert_eq!(read, ring);
    assert_eq!(owners(&read), owners(&ring));
    let packed = rmp_serde::to_vec(&ring).unwrap();
    assert_eq!(rmp_serde::from_slice::<HashRing>(&packed).unwrap(), ring);

    let wild = r#"{"points":16,"hash":"md5","nodes":[{"id":"a","weight":4294967295}]}"#;
    assert!(serde_json::from_str::<HashRing>(wild).is_err());
    assert!(serde_json::from_str::<HashRing>(r#"{"points":1,"hash":"x","nodes":[]}"#).is_err());
}

#[test]
fn debug_shows_what_defines_the_ring() {
    assert_eq!(
        format!("{:?}", ring([("a", 2)])),
        "HashRing { points: 32, hash: Md5, nodes: {MemberId(\"a\"): 2} }"
    );
}
