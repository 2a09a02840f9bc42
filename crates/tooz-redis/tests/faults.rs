//! Answers that are lost or late, connections that die silently, servers that are full or forget.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod server;

use std::time::{Duration, Instant};

use server::proxy::Proxy;
use server::{Server, asked_for, by_hand, start};
use tokio::time::{sleep, timeout};
use tooz_core::{ErrorKind, Mode, Result, Wait};

macro_rules! if_asked_for {
    () => {
        if !asked_for() {
            return Ok(());
        }
    };
}

/// Enough for anything that need not wait for a time to live.
const SOON: Duration = Duration::from_secs(10);

/// Waits until `is_so`.
async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < SOON, "{what}");
        sleep(Duration::from_millis(10)).await;
    }
}

fn exists(server: &Server, key: &str) -> bool {
    redis::cmd("EXISTS").arg(key).query(&mut server.client()).unwrap()
}

fn time_left(server: &Server, key: &str) -> i64 {
    redis::cmd("PTTL").arg(key).query(&mut server.client()).unwrap()
}

// ---- Answers.

#[tokio::test]
async fn a_release_whose_answer_is_lost_is_one() -> Result<()> {
    if_asked_for!();
    let server = Server::start(&[]);
    let proxy = Proxy::of(server.port).await;
    let a = start(&proxy.url("timeout=60"), "a").await?;
    for mode in [Mode::Exclusive, Mode::Shared] {
        let guard = a.lock("it")?.acquire_with(mode, Wait::Forever).await?.expect("no limit");
        assert!(exists(&server, "_tooz_it_lock"));
        proxy.lose(true);
        let release = tokio::spawn(guard.release());
        eventually("the lock is released", || !exists(&server, "_tooz_it_lock")).await;
        proxy.lose(false);
        release.await.unwrap().unwrap_or_else(|error| panic!("{mode:?}: {error}"));
    }
    // What was taken before is not released, however often it is tried.
    let guard = a.lock("it")?.acquire().await?;
    assert!(start(&server.url(""), "b").await?.lock("it")?.break_lock().await?);
    timeout(SOON, guard.lost()).await.expect("told");
    assert_eq!(guard.release().await.unwrap_err().kind(), ErrorKind::LockLost);
    a.stop().await
}

#[tokio::test]
async fn a_lease_counts_from_the_request() -> Result<()> {
    if_asked_for!();
    let server = Server::start(&[]);
    let proxy = Proxy::of(server.port).await;
    let url = proxy.url("lock_timeout=20&membership_timeout=60");
    let a = by_hand(&url, "a").await?;
    // Far more than the way to the server takes here, and less than what is waited for an answer.
    let (delay, noise) = (Duration::from_secs(2), Duration::from_millis(1_500));
    let latest = |asked: Instant| asked + Duration::from_secs(18) + noise;
    for mode in [Mode::Exclusive, Mode::Shared] {
        proxy.delay(delay);
        let asked = Instant::now();
        let guard = a.lock("it")?.acquire_with(mode, Wait::Forever).await?.expect("no limit");
        assert!(asked.elapsed() >= delay, "the answer was late");
        assert!(guard.deadline().expect("there is one") <= latest(asked), "{mode:?}");
        let asked = Instant::now();
        a.heartbeat().await?;
        assert!(guard.deadline().expect("there is one") <= latest(asked), "{mode:?}, renewed");
        proxy.delay(Duration::ZERO);
        guard.release().await?;
    }
    a.stop().await
}

#[tokio::test]
async fn a_lock_that_was_handed_over_gets_its_whole_time() -> Result<()> {
    if_asked_for!();
    let server = Server::start(&[]);
    // Nothing renews what these hold.
    let (a, b) = (by_hand(&server.url(""), "a").await?, by_hand(&server.url(""), "b").await?);
    for mode in [Mode::Exclusive, Mode::Shared] {
        let held = a.lock("it")?.acquire().await?;
        let lock = b.lock("it")?;
        let waiting = tokio::spawn(async move { lock.acquire_with(mode, Wait::Forever).await });
        eventually("it waits", || exists(&server, "_tooz:queue:lock:it")).await;
        held.release().await?;
        let next = timeout(SOON, waiting).await.expect("in time").unwrap()?.expect("no limit");
        // Handed over for 0.7 s, within which the waiter answered.
        let left = time_left(&server, "_tooz_it_lock");
        assert!(left > 20_000, "{mode:?}: {left} ms");
        assert!(next.verify().await?);
        next.release().await?;
    }
    a.stop().await?;
    b.stop().await
}

// ---- Connections.

#[tokio::test]
async fn a_connection_that_dies_silently_loses_nothing_at_any_time_to_live() -> Result<()> {
    if_asked_for!();
    let server = Server::start(&[]);
    let mut tests = tokio::task::JoinSet::new();
    // Half a second is the shortest that is allowed, and what takes longest is the reconnection.
    for ttl in [0.5, 1.0, 2.0, 4.0, 9.0] {
        let port = server.port;
        tests.spawn(async move {
            let proxy = Proxy::of(port).await;
            let url = proxy.url(&format!("timeout={ttl}&namespace=n{ttl}"));
            let a = start(&url, "a").await?;
            a.join_group_create("g", &1).await?;
            let (guard, term) = (a.lock("it")?.acquire().await?, a.campaign("g").await?);
            a.heartbeat().await?;
            proxy.silence_established();
            sleep(Duration::from_secs_f64(ttl * 1.5)).await;
            assert!(guard.check().is_ok() && term.check().is_ok(), "{ttl} s: held all the time");
            assert!(guard.verify().await? && term.verify().await?);
            a.stop().await
        });
    }
    while let Some(test) = tests.join_next().await {
        test.expect("no panic")?;
    }
    Ok(())
}

// ---- A full server.

#[tokio::test]
async fn a_full_server_loses_nothing_that_it_has() -> Result<()> {
    if_asked_for!();
    let server = Server::start(&["--maxmemory-policy", "noeviction"]);
    let url = server.url("timeout=2");
    let (a, b) = (start(&url, "a").await?, start(&url, "b").await?);
    a.join_group_create("g", &1).await?;
    b.join_group("g", &1).await?;
    let term = a.campaign("g").await?;
    let guards = [
        a.lock("x")?.acquire().await?,
        a.lock("s")?.acquire_shared().await?,
        b.lock("s")?.acquire_shared().await?,
    ];
    let mut waiters = Vec::new();
    let mut handed = Vec::new();
    for (name, mode) in [("hx", Mode::Exclusive), ("hs", Mode::Shared)] {
        handed.push(a.lock(name)?.acquire().await?);
        let lock = b.lock(name)?;
        waiters.push(tokio::spawn(async move { lock.acquire_with(mode, Wait::Forever).await }));
        let queue = format!("_tooz:queue:lock:{name}");
        eventually("it waits", || exists(&server, &queue)).await;
    }
    let set = |value: &str| {
        let mut set = redis::cmd("CONFIG");
        set.arg("SET").arg("maxmemory").arg(value).exec(&mut server.client()).unwrap();
    };
    set("1");
    let error = a.lock("new")?.try_acquire().await.unwrap_err();
    assert!(error.to_string().contains("out of memory"), "{error}");
    sleep(Duration::from_secs(5)).await;
    for guard in guards.iter().chain(&handed) {
        assert!(guard.check().is_ok() && guard.verify().await?, "{guard:?}");
    }
    assert!(term.check().is_ok() && term.verify().await?);
    assert_eq!(a.members("g").await?.len(), 2);
    // It changes hands as well, and stays with the next.
    for guard in handed {
        guard.release().await?;
    }
    for waiter in waiters {
        let next = timeout(SOON, waiter).await.expect("in time").unwrap()?.expect("no limit");
        sleep(Duration::from_secs(1)).await;
        assert!(next.check().is_ok() && next.verify().await?, "{next:?}");
        next.release().await?;
    }
    b.leave_group("g").await?;
    set("0");
    a.stop().await?;
    b.stop().await
}

// ---- Tokens.

#[tokio::test]
async fn tokens_rise_above_what_a_double_counts() -> Result<()> {
    if_asked_for!();
    let server = Server::start(&[]);
    let a = start(&server.url(""), "a").await?;
    let set = |last: u64| {
        redis::cmd("SET").arg("_tooz:counter").arg(last).exec(&mut server.client()).unwrap();
    };
    for last in [(1 << 53) - 2, (1 << 62) + 12_345] {
        set(last);
        let mut tokens = vec![last];
        for mode in [Mode::Exclusive, Mode::Shared].repeat(3) {
            let guard = a.lock("it")?.acquire_with(mode, Wait::Forever).await?.expect("no limit");
            tokens.push(guard.fencing_token().0);
            guard.release().await?;
        }
        assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
    }
    // The last that the server can count to.
    set(i64::MAX as u64);
    let error = a.lock("it")?.try_acquire().await.unwrap_err();
    assert!(error.to_string().contains("last fencing token"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Backend);
    assert!(!exists(&server, "_tooz_it_lock"), "nothing half done");
    a.stop().await
}

// ---- A server that forgets.

#[tokio::test]
async fn a_server_that_came_back_empty_grants_nothing_before_the_last_holder_was_told() -> Result<()>
{
    if_asked_for!();
    // Without the grace both hold it; with it, never.
    for (grace, both) in [("0", true), ("3", false)] {
        let mut server = Server::start(&[]);
        let proxy = Proxy::of(server.port).await;
        let options = format!("timeout=3&restart_grace={grace}");
        let cut_off = start(&proxy.url("timeout=3&restart_grace=0"), "cut-off").await?;
        let rival = start(&server.url(&options), "rival").await?;
        cut_off.join_group_create("g", &1).await?;
        rival.join_group("g", &1).await?;
        let (lock, shared) = (rival.lock("it")?, rival.lock("s")?);
        let (held, read) =
            (cut_off.lock("it")?.acquire().await?, cut_off.lock("s")?.acquire_shared().await?);
        let term = cut_off.campaign("g").await?;
        // One waits from before.
        let waiting = lock.clone();
        let waiting = tokio::spawn(async move { waiting.acquire().await });
        eventually("it waits", || exists(&server, "_tooz:queue:lock:it")).await;
        cut_off.heartbeat().await?;
        proxy.silence_all();
        server.kill();
        server.restart();
        if !both {
            let tried = rival.lock("other")?.try_acquire().await;
            assert!(matches!(tried, Ok(None)) || tried.is_err_and(|e| e.is_retryable()));
        }
        let candidate = rival.clone();
        let candidacy = tokio::spawn(async move { candidate.campaign("g").await });
        let ours = timeout(SOON, waiting).await.expect("in time").unwrap()?;
        let (first, second) = (held.check().is_ok(), ours.check().is_ok());
        assert_eq!((first, second), (both, true), "restart_grace={grace}");
        let writer = timeout(SOON, shared.acquire()).await.expect("in time")?;
        assert_eq!((read.check().is_ok(), writer.check().is_ok()), (both, true));
        let elected = timeout(SOON, candidacy).await.expect("in time").unwrap();
        assert!(elected.is_err() || term.check().is_ok() == both, "restart_grace={grace}");
        rival.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_answer_without_end_is_refused() -> Result<()> {
    if_asked_for!();
    let server = Server::start(&[]);
    for (begin, then) in [
        ("$9000000000000000000\r\n", "x"),
        ("*9000000000000000000\r\n", ":1\r\n"),
        ("*1000000000\r\n", ":1\r\n"),
        ("%1000000000\r\n", ":1\r\n"),
        (">1000000000\r\n", ":1\r\n"),
        ("+", "x"),
        // No value of it is too large.
        ("*2000\r\n", &format!("$65536\r\n{}\r\n", "x".repeat(1 << 16))),
    ] {
        let proxy = Proxy::of(server.port).await;
        let a = start(&proxy.url("timeout=30"), "a").await?;
        proxy.flood(begin, then.to_owned());
        let error = a.groups().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Backend, "{error:?}");
        let limit = if begin == "+" { "64 KiB" } else { "64 MiB" };
        assert!(error.to_string().contains(limit), "{error}");
        assert!(proxy.flooded() < 80 << 20, "{begin}: {} bytes were taken", proxy.flooded());
    }
    Ok(())
}
