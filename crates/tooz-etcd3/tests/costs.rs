//! What a lock costs, and that nothing is left of it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod server;

use std::time::{Duration, Instant};

use server::{Cluster, SCHEMES, asked_for, start};
use tokio::task::JoinSet;
use tooz_core::Result;

#[tokio::test]
async fn nothing_is_left_of_contended_and_cancelled_acquisitions() -> Result<()> {
    if !asked_for() {
        return Ok(());
    }
    let server = Cluster::start(1);
    let mut coordinators = Vec::new();
    for n in 0..4 {
        // Of both kinds, so that they contend with each other.
        let url = server.url(SCHEMES[n % 2], "timeout=10");
        coordinators.push(start(&url, &format!("m{n}")).await?);
    }
    let before = server.counts();
    assert_eq!(before, (4, 4), "a lease and a key for each session");
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for n in 0..8 {
        let lock = coordinators[n % 4].lock("it")?;
        tasks.spawn(async move {
            for round in 0..150 {
                // Every sixth is given up, at one point or another.
                if round % 6 == 5 {
                    let wait = Duration::from_micros(round as u64 * 37);
                    drop(tokio::time::timeout(wait, lock.acquire()).await);
                } else {
                    lock.acquire().await?.release().await?;
                }
            }
            Ok::<_, tooz_core::Error>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("no panic")?;
    }
    println!("1,000 contended acquires and 200 cancelled ones in {:?}", begin.elapsed());
    let begin = Instant::now();
    while server.counts() != before {
        assert!(begin.elapsed().as_secs() < 10, "left: {:?}", server.counts());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for coordinator in coordinators {
        coordinator.stop().await?;
    }
    assert_eq!(server.counts(), (0, 0), "a stop leaves nothing");
    Ok(())
}

#[tokio::test]
async fn a_hand_off_takes_less_than_three_round_trips() -> Result<()> {
    if !asked_for() {
        return Ok(());
    }
    let server = Cluster::start(1);
    for scheme in SCHEMES {
        let url = server.url(scheme, "timeout=10");
        let (a, b) = (start(&url, "a").await?, start(&url, "b").await?);
        let inspector = tooz_etcd3::inspect::inspector(&server.url("etcd3", ""))?;
        let (mut trips, mut hand_offs) = (Vec::new(), Vec::new());
        for _ in 0..60 {
            // A transaction that is granted is a round trip with a write.
            let free = a.lock("free")?;
            let begin = Instant::now();
            let guard = free.acquire().await?;
            trips.push(begin.elapsed());
            guard.release().await?;

            let guard = a.lock("it")?.acquire().await?;
            let lock = b.lock("it")?;
            let waiter = tokio::spawn(async move {
                let guard = lock.acquire().await;
                (Instant::now(), guard)
            });
            while !inspector.residue().await?.iter().any(|key| key.contains("/queues/")) {}
            // Its watch is open soon after its entry in the queue is there.
            tokio::time::sleep(Duration::from_millis(20)).await;
            let begin = Instant::now();
            guard.release().await?;
            let (held, guard) = waiter.await.expect("no panic");
            hand_offs.push(held - begin);
            guard?.release().await?;
        }
        let (trip, hand_off) = (median(trips), median(hand_offs));
        println!(
            "{scheme}: a round trip takes {trip:?}, a hand-off {hand_off:?}, {:.2} of them",
            hand_off.as_secs_f64() / trip.as_secs_f64()
        );
        assert!(hand_off < trip * 3, "{scheme}: {hand_off:?} of {trip:?}");
        a.stop().await?;
        b.stop().await?;
    }
    Ok(())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
