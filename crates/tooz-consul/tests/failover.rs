//! Three servers, of which the leader is killed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use server::{Cluster, asked_for, fresh, start};
use tokio::time::timeout;
use tooz_core::{GroupEvent, Result};

/// Everybody works on, whoever's server it was: locks held stay held, nobody holds one twice, members
/// stay members.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_election_is_ridden_out() -> Result<()> {
    if asked_for("CONSUL_CLUSTER").is_none() {
        return Ok(());
    }
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    // By its renewals alone through any server, and by the check of an agent that survives.
    let url =
        fresh(&cluster.url(&[leader, follower, 3 - leader - follower]), "ttl=15&lock_delay=0");
    let (_, options) = url.split_once('?').unwrap();
    let checked = format!("{}?{options}&check=yes", cluster.url(&[follower]));
    let (a, b) = (start(&url, "a").await?, start(&checked, "b").await?);
    a.join_group_create("g", &1).await?;
    b.join_group("g", &2).await?;
    let mut events = b.watch_group("g").await?;
    assert!(matches!(events.next().await, Some(GroupEvent::Snapshot(m)) if m.len() == 2));
    let (kept_a, kept_b) = (a.lock("a")?.acquire().await?, b.lock("b")?.acquire().await?);

    let (held, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (grants, last) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut contenders = Vec::new();
    for coordinator in [&a, &b] {
        for _ in 0..4 {
            let lock = coordinator.lock("contended")?;
            let (held, over) = (held.clone(), over.clone());
            let (grants, last) = (grants.clone(), last.clone());
            contenders.push(tokio::spawn(async move {
                while !over.load(SeqCst) {
                    // During the election, an attempt may fail.
                    let Ok(Some(guard)) = lock.try_acquire_for(Duration::from_secs(1)).await else {
                        continue;
                    };
                    if guard.check().is_ok() {
                        assert_eq!(held.fetch_add(1, SeqCst), 0, "held by one alone");
                        let token = guard.fencing_token().0;
                        assert!(last.swap(token, SeqCst) < token, "tokens rise");
                        tokio::time::sleep(Duration::from_millis(2)).await;
                        held.fetch_sub(1, SeqCst);
                        grants.fetch_add(1, SeqCst);
                    }
                    let _ = guard.release().await;
                }
            }));
        }
    }
    let until = async |count: u64| {
        let begin = Instant::now();
        while grants.load(SeqCst) < count {
            assert!(begin.elapsed() < Duration::from_secs(20), "it goes on");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    until(20).await;
    cluster.kill(leader);
    let before = grants.load(SeqCst);
    until(before + 50).await;
    over.store(true, SeqCst);
    for contender in contenders {
        timeout(Duration::from_secs(20), contender).await.expect("nobody is stuck").unwrap();
    }
    for guard in [&kept_a, &kept_b] {
        guard.check()?;
        assert!(guard.verify().await?, "still held");
    }
    assert_eq!(a.members("g").await?.len(), 2);
    let nothing = timeout(Duration::from_millis(200), events.next()).await;
    assert!(nothing.is_err(), "nobody left: {nothing:?}");
    kept_a.release().await?;
    kept_b.release().await?;
    a.stop().await?;
    b.stop().await
}
