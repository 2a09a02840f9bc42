//! What the conformance kit does not ask: this backend's own faults and costs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod proxy;
mod server;

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proxy::Proxy;
use server::{Peer, Server, if_asked_for, port_of, shared, start};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tooz_core::{ErrorKind, GroupEvent, Lock, LockGuard, Loss, MemberId, Result, SessionEvent};
use tooz_postgresql::inspect::Inspector;

const SECOND: Duration = Duration::from_secs(1);

/// Starts to wait for a lock that is held, and is in the server's queue when it returns.
async fn waiter(
    peer: &Peer,
    lock: Lock,
    before: i64,
) -> tokio::task::JoinHandle<Result<LockGuard>> {
    let waiting = tokio::spawn(async move { lock.acquire().await });
    queued(peer, before + 1).await;
    waiting
}

/// Waits until so many sessions of the server wait for an advisory lock.
async fn queued(peer: &Peer, count: i64) {
    let begin = Instant::now();
    while peer.ask::<i64>(QUEUED).await != count {
        assert!(begin.elapsed() < 10 * SECOND, "{count} waiters in the queue");
        sleep(Duration::from_millis(5)).await;
    }
}

const QUEUED: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";

/// Waits until a member has so many connections.
async fn connections(inspector: &Inspector, member: &str, count: i64, within: Duration) {
    let (member, begin) = (MemberId::from(member), Instant::now());
    loop {
        let now = inspector.connections(&member).await.unwrap();
        if now == count {
            return;
        }
        assert!(begin.elapsed() < within, "{count} connections, not {now}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Who breaks a lock speaks to all; it takes nothing from who gets it next and hears of it late.
#[tokio::test]
async fn a_broken_lock_stays_with_the_next_holder() -> Result<()> {
    if_asked_for!();
    let server = Server::postgresql(&[], |_| {});
    let (url, peer) = (server.url(""), Peer::at(server.port).await);
    let [a, b, c] = ["a", "b", "c"].map(|name| start(&url, name));
    let (a, b, c) = (a.await?, b.await?, c.await?);
    let broken = a.lock("it")?.acquire().await?;
    let waiting = waiter(&peer, b.lock("it")?, 0).await;
    // The process that hears for b; the other one waits in the queue.
    let main = "SELECT pid FROM pg_stat_activity \
                WHERE application_name LIKE 'tooz:%:b' ORDER BY backend_start LIMIT 1";
    let main = Pid::from_raw(peer.ask::<i32>(main).await);
    kill(main, Signal::SIGSTOP).unwrap();
    assert!(c.lock("it")?.break_lock().await?);
    assert_eq!(timeout(SECOND, broken.lost()).await.unwrap(), Loss::Taken);
    let guard = timeout(SECOND, waiting).await.unwrap().unwrap()?;
    kill(main, Signal::SIGCONT).unwrap();
    // Asked over the connection that has heard by then.
    b.create_group("g").await?;
    assert!(guard.verify().await?);
    guard.release().await?;
    Ok(())
}

/// The server does not end a statement that has not reached it yet.
#[tokio::test]
async fn a_wait_ends_in_time_however_short_it_is() -> Result<()> {
    if_asked_for!();
    let server = Server::postgresql(&[], |_| {});
    let url = server.url("");
    let (a, b) = (start(&url, "a").await?, start(&url, "b").await?);
    let _guard = a.lock("it")?.acquire().await?;
    let lock = b.lock("it")?;
    for round in 0..400 {
        let time = Duration::from_micros(50 * round);
        let begin = Instant::now();
        assert!(lock.try_acquire_for(time).await?.is_none());
        let late = begin.elapsed() - time;
        assert!(late < SECOND / 2, "a wait of {time:?} ended {late:?} late");
    }
    Ok(())
}

// ---- Sessions that end.

#[tokio::test]
async fn the_end_of_a_session_is_told_within_a_second() -> Result<()> {
    if_asked_for!();
    let server = Server::postgresql(&[], |_| {});
    let (url, peer) = (server.url(""), Peer::at(server.port).await);
    let (a, b) = (start(&url, "a").await?, start(&url, "b").await?);
    a.join_group_create("g", &7).await?;
    let (on_main, held) = (a.lock("free")?.acquire().await?, b.lock("it")?.acquire().await?);
    let waiting = waiter(&peer, a.lock("it")?, 0).await;
    held.release().await?;
    let waited_for = waiting.await.unwrap()?;

    // The session of the lock that was waited for has nothing else.
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE application_name LIKE 'tooz:%:a' ORDER BY backend_start";
    let begin = Instant::now();
    assert!(peer.ask::<bool>(&format!("{end} DESC LIMIT 1")).await);
    assert_eq!(timeout(SECOND, waited_for.lost()).await.unwrap(), Loss::SessionEnded);
    println!("the loss of one lock was told after {:?}", begin.elapsed());
    on_main.check()?;
    assert_eq!(waited_for.release().await.unwrap_err().kind(), ErrorKind::LockLost);
    // The server tells of the end before it has made it.
    b.lock("it")?.try_acquire_for(SECOND).await?.expect("free").release().await?;

    let mut events = a.session_events();
    let begin = Instant::now();
    assert!(peer.ask::<bool>(&format!("{end} LIMIT 1")).await);
    assert_eq!(timeout(SECOND, on_main.lost()).await.unwrap(), Loss::SessionEnded);
    println!("the loss of the session was told after {:?}", begin.elapsed());
    while !matches!(
        timeout(2 * SECOND, events.next()).await.unwrap(),
        Some(SessionEvent::Rejoined(_))
    ) {}
    let took = begin.elapsed();
    println!("rejoined after {took:?}");
    assert!(took < 2 * SECOND, "{took:?}");
    assert_eq!(b.member("g", "a").await?.capabilities.decode::<i32>()?, 7);
    a.stop().await?;
    b.stop().await
}

#[tokio::test]
async fn a_restart_of_the_server_is_told_and_repaired() -> Result<()> {
    if_asked_for!();
    let mut server = Server::postgresql(&[], |_| {});
    let url = server.url("timeout=10");
    let (a, b) = (start(&url, "a").await?, start(&url, "b").await?);
    a.join_group_create("g", &()).await?;
    let mut events = b.watch_group("g").await?;
    let mut guards = Vec::new();
    for n in 0..20 {
        guards.push(a.lock(format!("lock-{n}"))?.acquire().await?);
    }
    let lock = b.lock("lock-0")?;
    let waiting = tokio::spawn(async move { lock.acquire().await });
    sleep(Duration::from_millis(100)).await;
    server.restart();
    for guard in &guards {
        timeout(SECOND, guard.lost()).await.expect("told as soon as the server is gone");
    }
    let next = timeout(10 * SECOND, waiting).await.unwrap().unwrap()?;
    assert!(guards.iter().all(|guard| guard.fencing_token() < next.fencing_token()));
    let begin = Instant::now();
    while b.members("g").await?.len() != 1 {
        assert!(begin.elapsed() < 5 * SECOND, "the group is rebuilt");
        sleep(Duration::from_millis(20)).await;
    }
    while timeout(5 * SECOND, events.next()).await.unwrap() != Some(GroupEvent::Gap) {}
    next.release().await?;
    a.stop().await?;
    b.stop().await
}

#[tokio::test]
async fn a_hung_server_costs_nothing_before_the_deadline_and_all_after_it() -> Result<()> {
    if_asked_for!();
    let server = Server::postgresql(&[], |_| {});
    let a = start(&server.url("timeout=3"), "a").await?;
    let guard = a.lock("it")?.acquire().await?;
    let mut events = a.session_events();
    server.signal_all("-STOP");
    sleep(Duration::from_millis(1_200)).await;
    server.signal_all("-CONT");
    assert!(guard.verify().await?, "held all the time");
    a.heartbeat().await?;
    let begin = Instant::now();
    server.signal_all("-STOP");
    let loss = timeout(3 * SECOND, guard.lost()).await.expect("told by the deadline");
    println!("{loss}, {:?} after the server hung", begin.elapsed());
    assert_eq!(loss, Loss::Expired);
    server.signal_all("-CONT");
    while !matches!(
        timeout(8 * SECOND, events.next()).await.unwrap(),
        Some(SessionEvent::Rejoined(_))
    ) {}
    a.lock("it")?.acquire().await?.release().await?;
    a.stop().await
}

#[tokio::test]
async fn a_lost_answer_is_found_out() -> Result<()> {
    if_asked_for!();
    let url = shared("");
    let proxy = Proxy::start(port_of(&url)).await;
    let (a, b) = (start(&proxy.url(&url), "a").await?, start(&url, "b").await?);
    for n in 0..5 {
        let group = format!("g{n}");
        proxy.lose_answers();
        a.create_group(&*group).await?;
        assert!(b.groups().await?.contains(&(&*group).into()), "made");
        proxy.lose_answers();
        a.delete_group(&*group).await?;
        assert!(!b.groups().await?.contains(&(&*group).into()), "deleted");
        proxy.lose_answers();
        let guard = a.lock("it")?.acquire().await?;
        assert!(guard.verify().await?, "held by the session that there is");
        assert!(b.lock("it")?.try_acquire().await?.is_none());
        guard.release().await?;
    }
    a.stop().await?;
    b.stop().await
}

// ---- What is left behind.

#[tokio::test]
async fn abandoned_waits_leave_no_lock_and_no_session() -> Result<()> {
    if_asked_for!();
    let url = shared("");
    let (a, b) = (start(&url, "a").await?, start(&url, "b").await?);
    let inspector = Inspector::connect(&url).await?;
    for delay in (0..60).map(|n| Duration::from_micros(n * n * 4)) {
        let held = b.lock("it")?.acquire().await?;
        let lock = a.lock("it")?;
        let mut waits = JoinSet::new();
        for _ in 0..4 {
            let lock = lock.clone();
            waits.spawn(async move { timeout(delay, lock.acquire()).await.map(drop) });
        }
        if delay.as_millis() % 2 == 0 {
            held.release().await?;
        }
        while waits.join_next().await.is_some() {}
    }
    let guard = timeout(5 * SECOND, b.lock("it")?.acquire()).await.expect("nobody has it")?;
    guard.release().await?;
    // The main connections, with the one lock each that shows that it lives.
    let begin = Instant::now();
    loop {
        let left = inspector.residue().await?;
        if left.len() <= 2 + 4 && left.iter().all(|session| session.ends_with("holds 1")) {
            break;
        }
        assert!(begin.elapsed() < 5 * SECOND, "left: {left:?}");
        sleep(Duration::from_millis(20)).await;
    }
    a.stop().await?;
    b.stop().await?;
    let begin = Instant::now();
    while !inspector.residue().await?.is_empty() {
        assert!(begin.elapsed() < 2 * SECOND, "{:?}", inspector.residue().await?);
        sleep(Duration::from_millis(10)).await;
    }
    inspector.wipe().await
}

// ---- Costs.

#[tokio::test]
async fn a_thousand_locks_take_one_connection_and_waiters_one_each() -> Result<()> {
    if_asked_for!();
    let server = Server::postgresql(&["max_connections=100"], |_| {});
    let (url, peer) = (server.url("timeout=3"), Peer::at(server.port).await);
    let (a, b) = (start(&url, "a").await?, start(&url, "b").await?);
    let inspector = Inspector::connect(&url).await?;
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for n in 0..1_000 {
        let lock = a.lock(format!("lock-{n}"))?;
        tasks.spawn(async move { lock.acquire().await });
    }
    let guards: Vec<_> = tasks.join_all().await.into_iter().collect::<Result<_>>()?;
    println!("1,000 locks acquired in {:?}", begin.elapsed());
    assert_eq!(inspector.connections(&"a".into()).await?, 1);

    // 50 waiters for one lock: as many connections as the option says.
    let lock = b.lock("lock-0")?;
    let mut waits = JoinSet::new();
    for _ in 0..50 {
        let lock = lock.clone();
        waits.spawn(async move { lock.acquire().await?.release().await });
    }
    queued(&peer, 4).await;
    assert_eq!(inspector.connections(&"b".into()).await?, 1 + 4);
    // 50 waiters for 50 locks: one each.
    for n in 1..50 {
        let lock = b.lock(format!("lock-{n}"))?;
        waits.spawn(async move { lock.acquire().await?.release().await });
    }
    queued(&peer, 4 + 49).await;
    assert_eq!(inspector.connections(&"b".into()).await?, 1 + 4 + 49);

    let begin = Instant::now();
    a.heartbeat().await?;
    println!("everything renewed in {:?}", begin.elapsed());
    for guard in guards {
        guard.release().await?;
    }
    for release in waits.join_all().await {
        release?;
    }
    connections(&inspector, "b", 1, 5 * SECOND).await;
    a.stop().await?;
    b.stop().await
}

#[tokio::test]
async fn waiters_get_it_in_the_order_of_arrival() -> Result<()> {
    if_asked_for!();
    let server = Server::postgresql(&[], |_| {});
    let (url, peer) = (server.url(""), Peer::at(server.port).await);
    let (a, b) = (start(&url, "a").await?, start(&url, "b").await?);
    let held = a.lock("it")?.acquire().await?;
    let (order, mut served) = tokio::sync::mpsc::unbounded_channel();
    let mut waits = JoinSet::new();
    for n in 0..6 {
        let lock = if n % 2 == 0 { a.lock("it")? } else { b.lock("it")? };
        let order = order.clone();
        waits.spawn(async move {
            let guard = lock.acquire().await?;
            order.send((n, guard.fencing_token())).unwrap();
            guard.release().await
        });
        queued(&peer, n + 1).await;
    }
    held.release().await?;
    waits.join_all().await.into_iter().collect::<Result<Vec<_>>>()?;
    drop(order);
    let mut last = None;
    for n in 0..6 {
        let (who, token) = served.recv().await.unwrap();
        assert_eq!(who, n);
        assert!(last < Some(token), "tokens rise in the order of the queue");
        last = Some(token);
    }
    a.stop().await?;
    b.stop().await
}

#[tokio::test]
async fn acquire_and_release_are_one_statement_each() -> Result<()> {
    if_asked_for!();
    let url = shared("");
    let proxy = Proxy::start(port_of(&url)).await;
    let a = start(&proxy.url(&url), "a").await?;
    let lock = a.lock("it")?;
    // The session's renewal is another one, now and then.
    let (mut acquires, mut releases) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let begin = proxy.trips();
        let guard = lock.acquire().await?;
        let acquired = proxy.trips();
        guard.release().await?;
        acquires.push(acquired - begin);
        releases.push(proxy.trips() - acquired);
    }
    assert_eq!((acquires.iter().min(), releases.iter().min()), (Some(&1), Some(&1)));
    assert!(acquires.iter().chain(&releases).all(|trips| *trips <= 2), "{acquires:?} {releases:?}");
    a.join_group_create("g", &()).await?;
    let before = proxy.trips();
    a.members_with_capabilities("g").await?;
    assert!(proxy.trips() - before <= 2, "members with capabilities: one, and a renewal perhaps");
    a.stop().await?;
    let b = start(&url, "b").await?;
    let (mut reads, mut pairs) = (Vec::new(), Vec::new());
    let lock = b.lock("it")?;
    for _ in 0..200 {
        let begin = Instant::now();
        b.groups().await?;
        reads.push(begin.elapsed());
        let begin = Instant::now();
        lock.acquire().await?.release().await?;
        pairs.push(begin.elapsed());
    }
    reads.sort();
    pairs.sort();
    println!("median of a read {:?}, of acquire and release {:?}", reads[100], pairs[100]);
    b.stop().await
}
