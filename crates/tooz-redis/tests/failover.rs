//! Failovers under load: a private master with a replica and three sentinels, whose master is killed
//! again and again. `TOOZ_TEST_FAILOVERS` says how often; 3 times by default, 20 for the full run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod server;

use std::fs::OpenOptions;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use server::{Folder, SentinelSet, asked_for, start};
use tokio::time::sleep;
use tooz_core::{ErrorKind, Result};

#[tokio::test]
async fn nobody_holds_a_lock_with_another_over_failovers() -> Result<()> {
    if !asked_for() {
        return Ok(());
    }
    let failovers = std::env::var("TOOZ_TEST_FAILOVERS").ok();
    let failovers = failovers.and_then(|count| count.parse().ok()).unwrap_or(3);
    let mut set = SentinelSet::start();
    let url = set.url("timeout=6&wait_replicas=1");
    let folder = Folder::new("failover");
    let (done, sections, last) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicU64::new(0)),
    );
    let mut tasks = Vec::new();
    for n in 0..4 {
        let coordinator = start(&url, &format!("m{n}")).await?;
        let (done, sections, last) = (done.clone(), sections.clone(), last.clone());
        let mark = folder.path("held");
        tasks.push(tokio::spawn(async move {
            while !done.load(Relaxed) {
                let lock = coordinator.lock("it").unwrap();
                let Ok(Some(guard)) = lock.try_acquire_for(Duration::from_secs(2)).await else {
                    continue;
                };
                let work = guard.run(async {
                    let file = OpenOptions::new().write(true).create_new(true).open(&mark);
                    drop(file.expect("nobody else is in a section"));
                    assert!(last.swap(guard.fencing_token().0, Relaxed) < guard.fencing_token().0);
                    sections.fetch_add(1, Relaxed);
                    // No await between here and the removal: the section ends before its loss.
                    std::thread::sleep(Duration::from_millis(2));
                    std::fs::remove_file(&mark).unwrap();
                });
                drop(work.await);
                drop(guard.release().await);
            }
            drop(coordinator.stop().await);
        }));
    }
    let holder = start(&url, "holder").await?;
    for n in 0..failovers {
        let kept = holder.lock("kept")?.acquire().await?;
        set.kill_master();
        set.bring_back();
        // Either it is ours on the new master too, or its holder was told.
        match kept.verify().await {
            Ok(ours) => assert!(ours, "a lock that replicas had is on the new master"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::LockLost, "{error:?}"),
        }
        drop(kept.release().await);
        let (before, begin) = (sections.load(Relaxed), Instant::now());
        while sections.load(Relaxed) < before + 3 {
            assert!(begin.elapsed() < Duration::from_secs(30), "nobody gets on after failover {n}");
            sleep(Duration::from_millis(10)).await;
        }
        println!("failover {n}: on after {:?}, {} sections", begin.elapsed(), before);
    }
    done.store(true, Relaxed);
    for task in tasks {
        task.await.expect("no two in a section");
    }
    Ok(())
}
