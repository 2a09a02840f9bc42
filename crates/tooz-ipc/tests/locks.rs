//! What the conformance kit does not ask of locks: order, and what is in the kernel.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::sync::{Arc, Mutex};

use common::{Namespace, soon};
use tooz_core::{ErrorKind, Heartbeat, Loss};

#[tokio::test]
async fn semaphores_are_there_while_a_lock_is_held_and_no_longer() {
    let namespace = Namespace::new();
    let coordinator = namespace.started("m").await;
    let lock = coordinator.lock("x").unwrap();
    let exclusive = lock.acquire().await.unwrap();
    assert!(namespace.has_semaphores("x"));
    assert!(lock.try_acquire().await.unwrap().is_none());
    exclusive.release().await.unwrap();
    assert!(!namespace.has_semaphores("x"));
    let (one, two) = (lock.acquire_shared().await.unwrap(), lock.acquire_shared().await.unwrap());
    one.release().await.unwrap();
    assert!(namespace.has_semaphores("x"), "another still reads");
    two.release().await.unwrap();
    assert!(!namespace.has_semaphores("x"));
    coordinator.stop().await.unwrap();
    assert_eq!(namespace.residue(), [""; 0]);
}

#[tokio::test]
async fn waiters_are_served_in_the_order_of_their_arrival() {
    let namespace = Namespace::new();
    let holder = namespace.started("holder").await;
    let held = holder.lock("x").unwrap().acquire().await.unwrap();
    let (order, mut waiters) = (Arc::new(Mutex::new(Vec::new())), Vec::new());
    for number in 0..8 {
        // Each a coordinator of its own, so that nothing but the driver orders them.
        let coordinator = namespace.started(&format!("m{number}")).await;
        let order = order.clone();
        waiters.push(tokio::spawn(async move {
            let guard = coordinator.lock("x").unwrap().acquire().await.unwrap();
            order.lock().unwrap().push(number);
            guard.release().await.unwrap();
            coordinator.stop().await.unwrap();
        }));
        namespace.shows("waiting ticket", number + 1).await;
    }
    held.release().await.unwrap();
    for waiter in waiters {
        soon("turn", waiter).await.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), (0..8).collect::<Vec<_>>());
    holder.stop().await.unwrap();
}

#[tokio::test]
async fn who_gives_up_waiting_lets_the_next_pass() {
    let namespace = Namespace::new();
    let (one, two) = (namespace.started("one").await, namespace.started("two").await);
    let lock = one.lock("x").unwrap();
    let reader = lock.acquire_shared().await.unwrap();
    let writes = tokio::spawn(async move { lock.acquire().await.unwrap() });
    namespace.shows("exclusive waiting ticket", 1).await;
    let lock = two.lock("x").unwrap();
    let reads = tokio::spawn(async move { lock.acquire_shared().await.unwrap() });
    namespace.shows("shared waiting ticket", 1).await;
    writes.abort();
    let second = soon("turn", reads).await.unwrap();
    for guard in [reader, second] {
        guard.release().await.unwrap();
    }
    assert!(!namespace.has_semaphores("x"));
    for coordinator in [one, two] {
        coordinator.stop().await.unwrap();
    }
}

#[tokio::test]
async fn breaking_a_lock_tells_every_reader() {
    let namespace = Namespace::new();
    let (one, two) = (namespace.started("one").await, namespace.started("two").await);
    let lock = one.lock("x").unwrap();
    let readers = [lock.acquire_shared().await.unwrap(), lock.acquire_shared().await.unwrap()];
    let third = two.lock("x").unwrap();
    assert!(third.break_lock().await.unwrap());
    assert!(!third.break_lock().await.unwrap());
    let writer = soon("turn", third.acquire()).await.unwrap();
    for reader in readers {
        assert_eq!(soon("loss", reader.lost()).await, Loss::Taken);
        assert_eq!(reader.release().await.unwrap_err().kind(), ErrorKind::LockLost);
    }
    assert!(writer.verify().await.unwrap(), "the readers have touched nothing of it");
    writer.release().await.unwrap();
    for coordinator in [one, two] {
        coordinator.stop().await.unwrap();
    }
}

#[tokio::test]
async fn the_name_of_the_lock_of_the_group_list_is_refused() {
    let namespace = Namespace::new();
    let coordinator = namespace.started("m").await;
    let lock = coordinator.lock("TOOZ_INTERNAL_LOCK").unwrap();
    let error = lock.acquire().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("choose another"), "{error}");
    coordinator.stop().await.unwrap();
}

/// What is told here is told by the push alone: the holder's heart never beats.
#[tokio::test]
async fn a_directory_that_is_moved_away_takes_its_locks_along_at_once() {
    let base = tempfile::tempdir_in("/dev/shm").unwrap();
    let namespace = Namespace::in_directory(base.path());
    let builder = common::registry().builder(&namespace.url, "a").unwrap();
    let a = builder.heartbeat(Heartbeat::Manual).build().unwrap();
    a.start().await.unwrap();
    let held = a.lock("x").unwrap().acquire_shared().await.unwrap();
    let dir = fs::read_dir(base.path()).unwrap().next().unwrap().unwrap().path();
    fs::rename(&dir, base.path().join("aside")).unwrap();
    soon("loss", held.lost()).await;
    let b = namespace.started("b").await;
    let next = soon("turn", async { b.lock("x").unwrap().acquire().await.unwrap() }).await;
    assert!(next.fencing_token() > held.fencing_token());
    next.release().await.unwrap();
    for coordinator in [a, b] {
        coordinator.stop().await.unwrap();
    }
}
