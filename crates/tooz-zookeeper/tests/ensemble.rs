//! Three servers, one of which dies.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use server::{Server, asked_for, ensemble, start, wait_for};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tooz_core::{ErrorKind, Result, SessionEvent};

/// What the holders do, and what a second one would spoil.
#[derive(Default)]
struct Record {
    inside: AtomicBool,
    double: AtomicBool,
    disorder: AtomicBool,
    newest: AtomicU64,
    grants: AtomicU64,
    over: AtomicBool,
}

/// The leader is killed and restarted while everybody works; then the next leader.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_lets_nobody_wedge_and_nobody_hold_twice() -> Result<()> {
    if !asked_for() {
        return Ok(());
    }
    let mut servers = tokio::task::spawn_blocking(ensemble).await.unwrap();
    let hosts: Vec<_> = servers.iter().map(|s| format!("127.0.0.1:{}", s.port)).collect();
    let url = format!("zookeeper://{}?timeout=4", hosts.join(","));
    let record = Arc::new(Record::default());
    let (mut workers, mut coordinators) = (JoinSet::new(), Vec::new());
    for n in 0..4 {
        let coordinator = start(&url, &format!("worker-{n}")).await?;
        coordinator.join_group_create("g", &n).await?;
        for _ in 0..2 {
            workers.spawn(work(coordinator.clone(), record.clone()));
        }
        coordinators.push(coordinator);
    }
    for _ in 0..2 {
        progress(&record, 20).await;
        let leader = servers.iter().position(Server::leads).expect("one leads");
        servers[leader].kill();
        let killed = Instant::now();
        progress(&record, 1).await;
        eprintln!("granted again {:?} after the leader was killed", killed.elapsed());
        progress(&record, 20).await;
        servers[leader].restart();
        servers = tokio::task::spawn_blocking(move || {
            wait_for("a leader", || servers.iter().any(Server::leads));
            servers[leader].wait_ready();
            servers
        })
        .await
        .unwrap();
    }
    progress(&record, 20).await;
    record.over.store(true, SeqCst);
    while let Some(worker) = workers.join_next().await {
        worker.unwrap()?;
    }
    assert!(!record.double.load(SeqCst), "two held it at once");
    assert!(!record.disorder.load(SeqCst), "a token did not rise");
    // Whoever lost its session is a member again by itself.
    let members = ["worker-0", "worker-1", "worker-2", "worker-3"].map(Into::into).into();
    let begin = Instant::now();
    while coordinators[0].members("g").await? != members {
        assert!(begin.elapsed() < Duration::from_secs(20), "all are members");
        sleep(Duration::from_millis(50)).await;
    }
    for coordinator in coordinators {
        coordinator.stop().await?;
    }
    Ok(())
}

async fn work(coordinator: tooz_core::Coordinator, record: Arc<Record>) -> Result<()> {
    let lock = coordinator.lock("it")?;
    while !record.over.load(SeqCst) {
        let guard = match lock.acquire().await {
            Ok(guard) => guard,
            // The attempt whose reply was lost may fail; nothing may be left of it.
            Err(error) if error.is_retryable() || error.kind() == ErrorKind::SessionLost => {
                continue;
            }
            Err(error) => return Err(error),
        };
        let inside = guard.run(async {
            if record.inside.swap(true, SeqCst) {
                record.double.store(true, SeqCst);
            }
            if record.newest.swap(guard.fencing_token().0, SeqCst) >= guard.fencing_token().0 {
                record.disorder.store(true, SeqCst);
            }
            sleep(Duration::from_millis(3)).await;
        });
        let _ = inside.await;
        record.inside.store(false, SeqCst);
        record.grants.fetch_add(1, SeqCst);
        drop(guard.release().await);
    }
    Ok(())
}

async fn progress(record: &Record, grants: u64) {
    let (begin, target) = (Instant::now(), record.grants.load(SeqCst) + grants);
    while record.grants.load(SeqCst) < target {
        assert!(begin.elapsed() < Duration::from_secs(40), "nobody gets the lock again");
        sleep(Duration::from_millis(5)).await;
    }
}

/// A follower that is gone costs a reconnection and nothing more.
#[tokio::test]
async fn a_killed_follower_takes_nothing_away() -> Result<()> {
    if !asked_for() {
        return Ok(());
    }
    let mut servers = tokio::task::spawn_blocking(ensemble).await.unwrap();
    let hosts: Vec<_> = servers.iter().map(|s| format!("127.0.0.1:{}", s.port)).collect();
    let url = format!("zookeeper://{}?timeout=10", hosts.join(","));
    let a = start(&url, "a").await?;
    // The largest request passes from a follower to the leader and back.
    for (member, server) in ["x", "y", "z"].iter().zip(&servers) {
        let member = start(&server.url("timeout=10"), member).await?;
        let capabilities = "c".repeat(1_048_575 - 47 - "/tooz/g/x".len() - 5);
        member.join_group_create("g", &capabilities).await?;
        member.stop().await?;
    }
    let guard = a.lock("it")?.acquire().await?;
    let mut session = a.session_events();
    let connected = |server: &Server| server.ask("cons").contains("lop=") && !server.leads();
    // One that somebody of ours is connected to, if it is not the leader.
    let follower = servers.iter().position(connected);
    let follower = follower.or_else(|| servers.iter().position(|server| !server.leads())).unwrap();
    servers[follower].kill();
    assert!(guard.verify().await?);
    while let Some(event) = session.try_next() {
        assert!(!matches!(event, SessionEvent::Lost(_)), "{event:?}");
    }
    guard.release().await?;
    a.stop().await
}
