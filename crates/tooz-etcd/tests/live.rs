//! What the conformance kit does not ask: this backend's own errors, faults and costs.
//! `TOOZ_TEST_URL_ETCD` names a server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

/// The same for all drivers of etcd.
#[path = "../../tooz-etcd3/tests/server/proxy.rs"]
#[allow(dead_code, reason = "a part of it is used here")]
mod proxy;

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tooz_core::{
    Capabilities, Coordinator, CoordinatorUrl, ErrorKind, GroupEvent, JoinRequest, Mode, Options,
    Registry, Result, SessionEvent, Wait,
};
use tooz_etcd::inspect::Inspector;

/// A namespace of the server's that no other test has; `None` if it was not asked for.
fn url(options: &str) -> Option<String> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let Ok(server) = std::env::var("TOOZ_TEST_URL_ETCD") else {
        eprintln!("not asked for: TOOZ_TEST_URL_ETCD is not set");
        return None;
    };
    let (process, count) = (std::process::id(), COUNT.fetch_add(1, Relaxed));
    Some(format!("{server}?namespace=live/{process}-{count}&{options}"))
}

fn build(url: &str, member: &str) -> Result<Coordinator> {
    Registry::new().with(tooz_etcd::DRIVER)?.builder(url, member)?.build()
}

async fn start(url: &str, member: &str) -> Result<Coordinator> {
    let coordinator = build(url, member)?;
    coordinator.start().await?;
    Ok(coordinator)
}

#[tokio::test]
async fn unreachable_servers_are_told_soon() -> Result<()> {
    // Nobody listens on port 1, and the name cannot be resolved.
    for url in ["etcd://127.0.0.1:1?timeout=3", "etcd://no-such-host.invalid?timeout=3"] {
        let begin = Instant::now();
        let error = build(url, "a")?.start().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connection, "{error:?}");
        assert!(begin.elapsed() < Duration::from_secs(3), "after {:?}", begin.elapsed());
    }
    Ok(())
}

#[tokio::test]
async fn the_next_server_is_asked_when_one_is_dead() -> Result<()> {
    let Some(url) = url("timeout=3") else { return Ok(()) };
    let url = url.replacen("etcd://", "etcd://127.0.0.1:1,", 1);
    let coordinator = start(&url, "a").await?;
    let guard = coordinator.lock("it")?.acquire().await?;
    guard.release().await?;
    coordinator.stop().await
}

/// A proxy of the server, and the URL by it.
async fn through_a_proxy(url: &str) -> Result<(proxy::Proxy, String)> {
    let parsed: CoordinatorUrl = url.parse()?;
    let proxy = proxy::Proxy::of(parsed.hosts()[0].port.unwrap()).await;
    let (_, options) = url.split_once('?').unwrap();
    let url = format!("etcd://127.0.0.1:{}?{options}", proxy.port);
    Ok((proxy, url))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_goes_silent_costs_nothing() -> Result<()> {
    let Some(url) = url("timeout=3") else { return Ok(()) };
    let (proxy, url) = through_a_proxy(&url).await?;
    let a = start(&url, "a").await?;
    // Several requests at a time, each of which leaves the client a connection.
    let busy = (0..8).map(|n| {
        let lock = a.lock(format!("busy-{n}"));
        tokio::spawn(async move { lock?.acquire().await?.release().await })
    });
    for busy in busy.collect::<Vec<_>>() {
        busy.await.unwrap()?;
    }
    let guard = a.lock("it")?.acquire().await?;
    a.join_group_create("g", &()).await?;
    let mut events = a.watch_group("g").await?;
    assert!(matches!(events.next().await, Some(GroupEvent::Snapshot(_))));
    proxy.silence();
    // Longer than it lives without a renewal.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(guard.check().is_ok(), "{:?}", guard.check());
    assert!(guard.verify().await?);
    // Neither does the watch stay on the old connection.
    let gap = async { while !matches!(events.next().await, Some(GroupEvent::Gap)) {} };
    tokio::time::timeout(Duration::from_secs(10), gap).await.expect("the watch goes on");
    guard.release().await?;
    a.stop().await
}

#[tokio::test]
async fn waiters_get_it_in_the_order_of_their_arrival() -> Result<()> {
    let Some(url) = url("timeout=10") else { return Ok(()) };
    let (holder, waiter) = (start(&url, "holder").await?, start(&url, "waiter").await?);
    let guard = holder.lock("it")?.acquire().await?;
    let inspector = Inspector::new(&url)?;
    let (order, mut served) = tokio::sync::mpsc::unbounded_channel();
    for n in 0..20 {
        let (lock, order) = (waiter.lock("it")?, order.clone());
        tokio::spawn(async move {
            let guard = lock.acquire().await.unwrap();
            order.send(n).unwrap();
            guard.release().await.unwrap();
        });
        let begin = Instant::now();
        let waiting = |keys: Vec<String>| keys.iter().filter(|k| k.contains("/queue/")).count();
        while waiting(inspector.residue().await?) <= n {
            assert!(begin.elapsed() < Duration::from_secs(5), "it is in the queue");
        }
    }
    guard.release().await?;
    for n in 0..20 {
        let next = tokio::time::timeout(Duration::from_secs(5), served.recv());
        assert_eq!(next.await.expect("somebody gets it"), Some(n));
    }
    Ok(())
}

#[tokio::test]
async fn nothing_is_left_of_contended_and_cancelled_acquisitions() -> Result<()> {
    let Some(url) = url("timeout=5") else { return Ok(()) };
    let inspector = Inspector::new(&url)?;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..4 {
        let coordinator = start(&url, &format!("m{n}")).await?;
        tasks.spawn(async move {
            for round in 0..50_u64 {
                let lock = coordinator.lock("it").unwrap();
                if round % 5 == 4 {
                    // Dropped in the middle of the wait.
                    let patience = Duration::from_millis(round % 7);
                    drop(tokio::time::timeout(patience, lock.acquire()).await);
                } else {
                    lock.acquire().await.unwrap().release().await.unwrap();
                }
            }
            coordinator.stop().await.unwrap();
        });
    }
    tasks.join_all().await;
    let begin = Instant::now();
    while !inspector.residue().await?.is_empty() {
        // What a request on its way had left expires with its time to live.
        assert!(begin.elapsed() < Duration::from_secs(7), "{:?}", inspector.residue().await?);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_removed_member_is_told_before_its_next_heartbeat() -> Result<()> {
    let Some(url) = url("timeout=60") else { return Ok(()) };
    let registry = Registry::new().with(tooz_etcd::DRIVER)?;
    let removed = registry.builder(&url, "removed")?.rejoin_when_removed(false).build()?;
    removed.start().await?;
    removed.join_group_create("g", &1).await?;
    removed.update_capabilities("g", &2).await?;
    let mut events = removed.session_events();
    // Its own time to live is a short one, which is nothing to the other's session.
    let operator = start(&url.replace("=60", "=2"), "operator").await?;
    operator.remove_member("g", "removed").await?;
    // A third of 60 s is left to the next heartbeat.
    let told = tokio::time::timeout(Duration::from_secs(10), events.next()).await;
    assert_eq!(told.expect("it is pushed"), Some(SessionEvent::Removed("g".into())));
    removed.stop().await?;
    operator.stop().await
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_it_is_acquired() -> Result<()> {
    let Some(url) = url("timeout=10") else { return Ok(()) };
    let (proxy, url) = through_a_proxy(&url).await?;
    // Its id is in the line of a request that releases, not of one that acquires.
    let member = "m".repeat(500);
    let a = start(&url, &member).await?;
    for mode in [Mode::Exclusive, Mode::Shared] {
        let mut longest = 0;
        for length in (100..3_600).step_by(250) {
            let lock = a.lock("n".repeat(length))?;
            match lock.acquire_with(mode, Wait::Forever).await {
                Ok(held) => {
                    // The server is strict with the first line that comes over a connection.
                    proxy.lose(true);
                    proxy.lose(false);
                    let release = held.expect("no limit").release();
                    let released = tokio::time::timeout(Duration::from_secs(5), release).await;
                    released.expect("it can be released")?;
                    longest = length;
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
                    assert!(error.to_string().contains("4096"), "{error}");
                }
            }
        }
        // About 2,800 without the 500 of the member.
        assert!((1_800..2_700).contains(&longest), "{longest}");
    }
    let error = a.create_group("g".repeat(3_000)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");

    a.join_group_create("g", &"c".repeat(1_100_000)).await?;
    let error = a.update_capabilities("g", &"c".repeat(1_200_000)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
    assert!(error.to_string().contains("1572864"), "{error}");
    let members = a.members_with_capabilities("g").await?;
    assert_eq!(members[0].capabilities.decode::<String>()?.len(), 1_100_000);
    a.stop().await
}

#[tokio::test]
async fn a_join_that_outlives_its_session_leaves_nothing() -> Result<()> {
    let Some(url) = url("timeout=10") else { return Ok(()) };
    start(&url, "other").await?.create_group("g").await?;
    let parsed: CoordinatorUrl = url.parse()?;
    let driver = (tooz_etcd::DRIVER.open)(&parsed, Options::of(&parsed))?;
    let session = driver.connect(&"a".into()).await?;
    session.close().await?;
    let request = JoinRequest::new("g".into(), Capabilities::encode(&())?, false);
    let error = session.require_groups()?.join(request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SessionLost, "{error:?}");
    let residue = Inspector::new(&url)?.residue().await?;
    assert!(!residue.iter().any(|key| key.contains("/member/")), "{residue:?}");
    Ok(())
}

#[tokio::test]
async fn a_standing_watch_misses_nothing_however_much_the_server_forgets() -> Result<()> {
    let Some(url) = url("timeout=10") else { return Ok(()) };
    let (a, b) = (start(&url, "a").await?, start(&url, "b").await?);
    a.join_group_create("g", &1).await?;
    let mut events = a.watch_group("g").await?;
    assert!(matches!(events.next().await, Some(GroupEvent::Snapshot(all)) if all.len() == 1));
    // More than the thousand events that the server remembers.
    for n in 0..600 {
        let guard = b.lock(format!("l{n}"))?.acquire().await?;
        guard.release().await?;
    }
    b.join_group("g", &2).await?;
    let next = tokio::time::timeout(Duration::from_secs(5), events.next()).await;
    assert!(
        matches!(next, Ok(Some(GroupEvent::Joined(_)))),
        "a watch that stands is told whatever the server forgot: {next:?}"
    );
    Ok(())
}
