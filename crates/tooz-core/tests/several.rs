//! Semaphores, several locks at once and locks that stay, over the in-process driver and its faults.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use tooz_core::blocking::block_on;
use tooz_core::{Coordinator, ErrorKind, Loss, Registry};
use tooz_memory::World;

const TTL: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_millis(50);

async fn started(world: &str, member: &str) -> Coordinator {
    let registry = Registry::new().with(tooz_memory::DRIVER).unwrap();
    let url = format!("memory://{world}?timeout={}", TTL.as_secs_f64());
    registry.builder(&url, member).unwrap().stop_grace(GRACE).connect().await.unwrap()
}

/// Runs it inside a runtime of the test's own, for timers.
fn in_runtime(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(test);
}

/// Waits until the backend has no more than sessions.
async fn nothing_is_left(world: &World) {
    let began = Instant::now();
    while world.residue().iter().any(|left| !left.starts_with("session")) {
        assert!(began.elapsed() < TTL, "{:?}", world.residue());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

// ---- Semaphores.

#[test]
fn the_numbers_of_permits_have_bounds() {
    block_on(async {
        let a = started("permits", "a").await;
        for (name, permits) in [("x", 0), ("x", 257), ("", 1)] {
            let error = a.semaphore(name, permits).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name} {permits}");
        }
        let error = a.semaphore("x", 257).unwrap_err().to_string();
        let said =
            "semaphore on memory: a semaphore has 1 to 256 permits (semaphore=x, permits=257)";
        assert_eq!(error, said.replace(" on memory", ""));
        assert_eq!(a.semaphore("x", 256).unwrap().permits(), 256);
    });
}

#[test]
fn a_permit_costs_a_turn_and_a_slot() {
    in_runtime(async {
        let world = World::named("permit-requests");
        let a = started("permit-requests", "a").await;
        let gpus = a.semaphore("gpu", 4).unwrap();
        let before = world.requests();
        let permit = gpus.acquire().await.unwrap();
        permit.release().await.unwrap();
        let began = Instant::now();
        while world.requests() - before < 4 {
            assert!(began.elapsed() < TTL, "the turn is released in the background");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let before = world.requests();
        gpus.try_acquire().await.unwrap().unwrap().release().await.unwrap();
        assert_eq!(world.requests() - before, 2, "a try takes no turn");
    });
}

#[test]
fn a_lost_turn_is_waited_for_again() {
    in_runtime(async {
        let world = World::named("lost-turn");
        let (a, b) = (started("lost-turn", "a").await, started("lost-turn", "b").await);
        let held = a.semaphore("gpu", 1).unwrap().acquire().await.unwrap();
        let gpus = b.semaphore("gpu", 1).unwrap();
        let mut waiting = Box::pin(gpus.acquire());
        assert!(tokio::time::timeout(GRACE, &mut waiting).await.is_err());
        let turn = a.lock("semaphore.gpu.turn").unwrap();
        assert!(turn.break_lock().await.unwrap(), "who waits has it");
        assert!(tokio::time::timeout(GRACE, &mut waiting).await.is_err());
        assert!(turn.try_acquire().await.unwrap().is_none(), "who waits has it again");
        // The whole session of who waits.
        assert!(world.expire_session(b.member_id()));
        assert!(tokio::time::timeout(GRACE, &mut waiting).await.is_err());
        held.release().await.unwrap();
        let permit = tokio::time::timeout(TTL * 2, waiting).await.unwrap().unwrap();
        assert!(permit.verify().await.unwrap());
        permit.release().await.unwrap();
        nothing_is_left(&world).await;
    });
}

#[test]
fn a_stop_ends_the_wait_for_a_permit() {
    in_runtime(async {
        let a = started("stopped-wait", "a").await;
        let gpus = a.semaphore("gpu", 1).unwrap();
        let held = gpus.acquire().await.unwrap();
        let mut waiting = Box::pin(gpus.acquire());
        assert!(tokio::time::timeout(GRACE, &mut waiting).await.is_err());
        let stopping = tokio::time::timeout(TTL, a.stop());
        let (stopped, waited) = tokio::join!(stopping, waiting);
        stopped.unwrap().unwrap();
        assert_eq!(waited.unwrap_err().kind(), ErrorKind::NotRunning);
        assert_eq!(held.check().unwrap_err().kind(), ErrorKind::NotRunning);
    });
}

// ---- Several at once.

#[test]
fn a_lock_set_needs_names_and_each_once() {
    block_on(async {
        let a = started("set-names", "a").await;
        assert_eq!(a.lock_all([""; 0]).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(a.lock_all(["x", ""]).unwrap_err().kind(), ErrorKind::InvalidInput);
        let error = a.lock_all(["x", "y", "x"]).unwrap_err();
        assert_eq!((error.kind(), error.context("lock")), (ErrorKind::InvalidInput, Some("x")));
        let set = a.lock_all(["y", "x"]).unwrap();
        let guard = set.acquire().await.unwrap();
        let names: Vec<_> = guard.guards().map(|(name, _)| name.clone()).collect();
        assert_eq!(names, set.names(), "in the order of the caller");
        guard.release().await.unwrap();
    });
}

#[test]
fn a_lock_set_is_had_as_a_whole_over_a_lost_session() {
    in_runtime(async {
        let world = World::named("set-session");
        let (a, b) = (started("set-session", "a").await, started("set-session", "b").await);
        let held = a.lock("y").unwrap().acquire().await.unwrap();
        let set = b.lock_all(["z", "y", "x"]).unwrap();
        let mut waiting = Box::pin(set.acquire());
        assert!(tokio::time::timeout(GRACE, &mut waiting).await.is_err());
        assert!(a.lock("x").unwrap().try_acquire().await.unwrap().is_none(), "it comes first");
        assert!(a.lock("z").unwrap().try_acquire().await.unwrap().is_some(), "it comes last");
        assert!(world.expire_session(b.member_id()));
        assert!(tokio::time::timeout(GRACE, &mut waiting).await.is_err());
        held.release().await.unwrap();
        let guard = tokio::time::timeout(TTL * 2, waiting).await.unwrap().unwrap();
        assert!(guard.verify().await.unwrap());
        guard.check().unwrap();
        drop(guard);
        nothing_is_left(&world).await;
    });
}

#[test]
fn the_loss_of_one_is_the_sets() {
    in_runtime(async {
        let (a, b) = (started("set-loss", "a").await, started("set-loss", "b").await);
        let guard = a.lock_all(["x", "y"]).unwrap().acquire().await.unwrap();
        assert!(guard.run(async { true }).await.unwrap());
        let working = guard.run(std::future::pending::<()>());
        let breaking = b.lock("y").unwrap();
        let (worked, broken) = tokio::join!(working, breaking.break_lock());
        assert!(broken.unwrap());
        let error = worked.unwrap_err();
        assert_eq!((error.kind(), error.context("lock")), (ErrorKind::LockLost, Some("y")));
        let (name, loss) = guard.lost().await;
        assert_eq!((name.as_str(), loss), (Some("y"), Loss::Taken));
        assert_eq!(guard.loss(), Some((&"y".into(), Loss::Taken)));
        guard.expires_within(Duration::ZERO).await;
        assert!(b.lock("x").unwrap().try_acquire().await.unwrap().is_none(), "the other is held");
        let error = guard.release().await.unwrap_err();
        assert_eq!((error.kind(), error.context("lock")), (ErrorKind::LockLost, Some("y")));
        assert!(b.lock("x").unwrap().try_acquire().await.unwrap().is_some(), "all are released");
    });
}

// ---- The end that is near.

#[test]
fn the_end_is_near_when_renewals_fail() {
    in_runtime(async {
        let world = World::named("near-end");
        let a = started("near-end", "a").await;
        let guard = a.lock("x").unwrap().acquire().await.unwrap();
        let mut near = Box::pin(guard.expires_within(TTL / 3));
        let early = tokio::time::timeout(TTL * 3 / 2, &mut near).await;
        assert!(early.is_err(), "it is renewed");
        world.pause();
        near.await;
        guard.check().unwrap();
        assert!(guard.deadline().unwrap() - Instant::now() <= TTL / 3);
        world.resume();
    });
}

// ---- Locks that stay.

#[test]
fn a_lock_stays_whatever_becomes_of_its_guard() {
    in_runtime(async {
        let stay = Duration::from_millis(200);
        let (a, b) = (started("stays", "a").await, started("stays", "b").await);
        let lock = b.lock("x").unwrap();
        let began = Instant::now();
        let guard = a.lock("x").unwrap().acquire_at_least(stay).await.unwrap();
        guard.release().await.unwrap();
        assert!(began.elapsed() >= stay);
        lock.try_acquire().await.unwrap().unwrap().release().await.unwrap();

        let began = Instant::now();
        drop(a.lock("x").unwrap().acquire_at_least(stay).await.unwrap());
        // Nor does the coordinator end before.
        drop(a);
        lock.acquire().await.unwrap().release().await.unwrap();
        assert!(began.elapsed() >= stay);
    });
}

#[test]
fn a_stop_waits_for_a_lock_that_stays_for_its_grace_alone() {
    in_runtime(async {
        let (a, b) = (started("stays-stop", "a").await, started("stays-stop", "b").await);
        let guard = a.lock("x").unwrap().acquire_at_least(TTL * 60).await.unwrap();
        let mut releasing = Box::pin(guard.release());
        assert!(tokio::time::timeout(GRACE, &mut releasing).await.is_err());
        let began = Instant::now();
        let (stopped, released) = tokio::join!(a.stop(), releasing);
        stopped.unwrap();
        assert_eq!(released.unwrap_err().kind(), ErrorKind::NotRunning, "its time was not over");
        assert!(began.elapsed() >= GRACE);
        assert!(b.lock("x").unwrap().try_acquire().await.unwrap().is_some());
    });
}

#[test]
fn a_lock_that_is_lost_stays_no_longer() {
    in_runtime(async {
        let (a, b) = (started("stays-lost", "a").await, started("stays-lost", "b").await);
        let guard = a.lock("x").unwrap().acquire_at_least(TTL * 60).await.unwrap();
        let lock = b.lock("x").unwrap();
        let (released, broken) = tokio::join!(guard.release(), lock.break_lock());
        assert!(broken.unwrap());
        assert_eq!(released.unwrap_err().kind(), ErrorKind::LockLost);
    });
}
