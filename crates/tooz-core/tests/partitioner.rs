//! Partitioned groups and the exclusive hand-off, over the in-process driver.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use tooz_core::blocking::block_on;
use tooz_core::{Partitioner, Partitions, Registry, Revocation};
use tooz_memory::{World, start};

/// Waits until the ring has just these members.
async fn settled(partitioner: &Partitioner, members: &[&str]) {
    let mut rings = partitioner.changes();
    while let Some(ring) = rings.next().await {
        let nodes: Vec<_> = ring.weights().map(|(id, _)| id.to_string()).collect();
        if nodes == members {
            return;
        }
    }
}

#[test]
fn members_agree_and_weights_follow() {
    block_on(async {
        let a = start("partitioner", "a").await.unwrap();
        let b = start("partitioner", "b").await.unwrap();
        let one = a.partitioned_group("g").join().await.unwrap();
        let two = b.partitioned_group("g").join().await.unwrap();
        settled(&one, &["a", "b"]).await;
        assert_eq!(one.ring(), two.ring());
        for object in 0..100 {
            let object = object.to_string();
            assert!(one.belongs_to_self(&object) != two.belongs_to_self(&object));
            let members = one.members_for_object(&object, 2);
            assert_eq!(members.len(), 2);
            assert!(two.belongs_to_member(&object, &members[0], 1));
            let rest = one.members_for_object_without(&object, 2, &members[..1]);
            assert_eq!(rest, members[1..]);
        }
        two.change_weight(3).await.unwrap();
        let mut rings = one.changes();
        while rings.next().await.unwrap().weight("b") != Some(3) {}
        b.stop().await.unwrap();
        settled(&one, &["a"]).await;
    });
}

/// What a peer that knows no limits publishes.
fn weighing(weight: u64) -> serde_json::Value {
    serde_json::json!({ "weight": weight })
}

#[test]
fn a_wild_weight_makes_no_ring_differ() {
    block_on(async {
        const MOST: u32 = Partitioner::MAX_WEIGHT;
        let start = |member| start("wild-weights", member);
        let a = start("a").await.unwrap();
        let early = a.partitioned_group("g").join().await.unwrap();
        let wild = start("wild").await.unwrap();
        wild.join_group("g", &weighing(600_000)).await.unwrap();
        settled(&early, &["a", "wild"]).await;
        let b = start("b").await.unwrap();
        let late = b.partitioned_group("g").join().await.unwrap();
        settled(&early, &["a", "b", "wild"]).await;
        assert_eq!(early.ring(), late.ring(), "who came before and who came after agree");
        assert_eq!(early.ring().weight("wild"), Some(MOST));
        // What was counted as the most may change and go.
        wild.update_capabilities("g", &weighing(2)).await.unwrap();
        let mut rings = early.changes();
        while rings.next().await.unwrap().weight("wild") != Some(2) {}
        wild.stop().await.unwrap();
        settled(&early, &["a", "b"]).await;
        let last = b.partitioned_group("g").follow().await.unwrap();
        assert_eq!(early.ring(), last.ring());
        for error in [
            a.partitioned_group("h").weight(MOST + 1).join().await.unwrap_err(),
            a.partitioned_group("h").points(Partitioner::MAX_POINTS + 1).join().await.unwrap_err(),
            early.change_weight(MOST + 1).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), tooz_core::ErrorKind::InvalidInput);
            assert!(error.to_string().contains("at most="), "{error}");
        }
        assert!(!a.groups().await.unwrap().contains(&"h".into()), "nothing was begun");
    });
}

#[test]
fn making_a_large_ring_holds_up_no_heartbeat() {
    block_on(async {
        let registry = Registry::new().with(tooz_memory::DRIVER).unwrap();
        let builder = registry.builder("memory://large-ring?timeout=0.3", "watcher").unwrap();
        let watcher = builder.build().unwrap();
        watcher.start().await.unwrap();
        let guard = watcher.lock("l").unwrap().acquire().await.unwrap();
        let heavy = start("large-ring", "heavy").await.unwrap();
        heavy.join_group_create("g", &weighing(10_000)).await.unwrap();
        let began = std::time::Instant::now();
        // Half a million points: several TTLs in a debug build, if not in a release build.
        let ring = watcher.partitioned_group("g").points(50).follow().await.unwrap();
        assert_eq!(ring.ring().weight("heavy"), Some(10_000));
        guard.check().unwrap_or_else(|error| panic!("{error}, after {:?}", began.elapsed()));
    });
}

/// Takes what the hand-off yields until these many are held.
async fn take(partitions: &mut Partitions, count: usize) -> Vec<tooz_core::Partition> {
    let mut held = Vec::new();
    while held.len() < count {
        held.push(partitions.owned().await.unwrap());
    }
    held
}

#[test]
fn a_partition_is_handed_over_only_when_it_was_let_go() {
    block_on(async {
        let a = start("hand-off", "a").await.unwrap();
        let one = a.partitioned_group("g").join().await.unwrap();
        let mut ours = one.partitions(8);
        let held = take(&mut ours, 8).await;

        let b = start("hand-off", "b").await.unwrap();
        let two = b.partitioned_group("g").join().await.unwrap();
        let mut theirs = two.partitions(8);
        settled(&one, &["a", "b"]).await;
        let moved = (0..8).filter(|n: &u32| two.belongs_to_self(n.to_string())).count();
        assert!(moved > 0 && moved < 8, "the ring gives both some: {moved}");

        let mut kept = Vec::new();
        let mut tokens = std::collections::BTreeMap::new();
        for partition in held {
            if two.belongs_to_self(partition.number().to_string()) {
                assert_eq!(partition.revoked().await, Revocation::Moved);
                tokens.insert(partition.number(), partition.fencing_token());
                partition.release().await.unwrap();
            } else {
                kept.push(partition);
            }
        }
        let taken = take(&mut theirs, moved).await;
        let numbers = |held: &[tooz_core::Partition]| -> BTreeSet<u32> {
            held.iter().map(tooz_core::Partition::number).collect()
        };
        for partition in &taken {
            assert!(partition.fencing_token() > tokens[&partition.number()]);
        }
        assert!(numbers(&taken).is_disjoint(&numbers(&kept)));
        assert_eq!(taken.len() + kept.len(), 8);
        assert!(kept.iter().all(|partition| partition.is_revoked().is_none()));

        // The death of one gives all to the other.
        World::named("hand-off").expire_session(b.member_id());
        assert!(matches!(taken[0].revoked().await, Revocation::Lost(_)));
        drop((taken, theirs, two, b));
        kept.extend(take(&mut ours, moved).await);
        assert_eq!(numbers(&kept), (0..8).collect());
    });
}

#[test]
fn an_ended_hand_off_lets_everything_go() {
    block_on(async {
        let a = start("hand-off-end", "a").await.unwrap();
        let workers = a.partitioned_group("g").join().await.unwrap();
        let mut partitions = workers.partitions(4);
        let held = take(&mut partitions, 1).await;
        drop(partitions);
        assert_eq!(held[0].revoked().await, Revocation::Moved);
        drop(held);
        let mut again = workers.partitions(4);
        assert_eq!(take(&mut again, 4).await.len(), 4);
    });
}
