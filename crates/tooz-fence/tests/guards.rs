//! Fences of what is held.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use tooz_fence::FenceName;

#[test]
fn a_lock_a_term_and_a_partition_each_have_their_own() {
    let coordinator = tooz::blocking::connect("memory://fences", "host-1").unwrap();
    let lock = coordinator.lock("workers").unwrap().acquire().unwrap();
    let workers = coordinator.partitioned_group("workers").join().unwrap();
    let term = coordinator.campaign("workers").unwrap();
    let partition = workers.partitions(1).owned().unwrap();

    assert_eq!(lock.fence().name(), FenceName::of_lock("workers"));
    assert_eq!(lock.fence().token(), lock.fencing_token().0);
    assert_eq!(term.fence().name(), FenceName::of_term("workers"));
    assert_eq!(partition.fence().name(), FenceName::of_lock("partition.workers.0.1"));
    let before = lock.fence();
    lock.release().unwrap();
    let after = coordinator.lock("workers").unwrap().try_acquire();
    let after = after.unwrap().unwrap().fence();
    assert_eq!(after.name(), before.name());
    assert!(after.token() > before.token());
    drop((term, partition, workers));
    coordinator.stop().unwrap();
}

#[test]
fn the_offset_is_in_it() {
    let url = "memory://fences-offset?fencing_offset=1000000";
    let coordinator = tooz::blocking::connect(url, "host-1").unwrap();
    let guard = coordinator.lock("a").unwrap().acquire().unwrap();
    assert_eq!(guard.fence().token(), guard.fencing_token().0);
    assert!(guard.fence().token() > 1_000_000);
    drop(guard);
    coordinator.stop().unwrap();
}
