//! What the engine's thread hop costs: the same call on a session directly, and through a
//! coordinator, from the runtimes that users have. The calls alternate, so that the machine's
//! noise hits all alike.

#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use tooz_core::blocking::block_on;
use tooz_core::{Coordinator, CoordinatorUrl, GroupId, MemberId, Options, Session};

const ROUNDS: usize = 50;
const CALLS: usize = 200;

fn main() {
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    let coordinator = block_on(async {
        let coordinator = tooz_memory::start("bench-hop", "host-1").await.unwrap();
        coordinator.create_group("g").await.unwrap();
        coordinator
    });
    let multi = tokio::runtime::Runtime::new().unwrap();
    let current = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let session = current.block_on(async {
        let url: CoordinatorUrl = "memory://bench-hop?timeout=3600".parse().unwrap();
        let driver = (tooz_memory::DRIVER.open)(&url, Options::of(&url)).unwrap();
        driver.connect(&MemberId::from("raw")).await.unwrap()
    });

    let mut rows: [(&str, Vec<Duration>); 5] = [
        ("session directly, no engine", Vec::new()),
        ("coordinator, no runtime (block_on)", Vec::new()),
        ("coordinator, current-thread runtime", Vec::new()),
        ("coordinator, multi-thread, main task", Vec::new()),
        ("coordinator, multi-thread, spawned task", Vec::new()),
    ];
    for _ in 0..ROUNDS {
        rows[0].1.extend(current.block_on(direct(session.clone())));
        rows[1].1.extend(block_on(through(coordinator.clone())));
        rows[2].1.extend(current.block_on(through(coordinator.clone())));
        rows[3].1.extend(multi.block_on(through(coordinator.clone())));
        rows[4].1.extend(multi.block_on(multi.spawn(through(coordinator.clone()))).unwrap());
    }
    println!("{:<42}{:>10}{:>10}{:>10}", "one call of leader(), in us", "min", "p50", "p99");
    for (name, times) in &mut rows {
        times.sort_unstable();
        let at = |q: usize| times[(times.len() - 1) * q / 100].as_nanos() as f64 / 1000.0;
        println!("{name:<42}{:>10.1}{:>10.1}{:>10.1}", at(0), at(50), at(99));
    }
}

async fn direct(session: Arc<dyn Session>) -> Vec<Duration> {
    let group = GroupId::from("g");
    let mut times = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let began = Instant::now();
        session.require_elections().unwrap().leader(&group).await.unwrap();
        times.push(began.elapsed());
    }
    times
}

async fn through(coordinator: Coordinator) -> Vec<Duration> {
    let mut times = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let began = Instant::now();
        coordinator.leader("g").await.unwrap();
        times.push(began.elapsed());
    }
    times
}
