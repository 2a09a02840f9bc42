//! What the conformance kit does not ask: this backend's own errors, faults and costs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod server;

use std::time::{Duration, Instant};

use server::proxy::Proxy;
use server::{Acl, Folder, asked_for, build, fresh, option, start};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tooz_consul::inspect::Inspector;
use tooz_core::{
    Coordinator, ErrorKind, Events, GroupEvent, Heartbeat, LockGuard, Loss, Mode, Outcome,
    Registry, Result, SessionEvent, Wait,
};

macro_rules! asked_for {
    ($setup:literal) => {
        match asked_for($setup) {
            Some(url) => url,
            None => return Ok(()),
        }
    };
}

/// `HOST:PORT` of the plain setup.
fn address(url: &str) -> &str {
    url.trim_start_matches("consul://")
}

// ---- Errors.

#[tokio::test]
async fn refusals_are_clear() -> Result<()> {
    let url = asked_for!("CONSUL_ACL");
    let token = "acl_token=aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";
    for (other, what) in [
        ("check=auto", "permission"),
        ("acl_token=99999999-bbbb-cccc-dddd-eeeeeeeeeeee", "permission"),
    ] {
        let error = build(&url.replace(token, other), "a")?.start().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Authentication, "{error:?}");
        let shown = format!("{error:?}");
        assert!(shown.contains(what) && !shown.contains("99999999"), "{shown}");
    }
    // Without the client's certificate, and without the authority of the server's.
    for removed in ["client_cert=", "ca_cert="] {
        let kept =
            |option: &&str| !option.starts_with(removed) && !option.starts_with("client_key=");
        let (base, options) = url.split_once('?').unwrap();
        let options: Vec<_> = options.split('&').filter(kept).collect();
        let url = format!("{base}?{}", options.join("&"));
        let error = match build(&url, "a") {
            Ok(coordinator) => coordinator.start().await.unwrap_err(),
            // A system that trusts nobody.
            Err(error) => error,
        };
        let refused = [ErrorKind::Authentication, ErrorKind::InvalidInput];
        assert!(refused.contains(&error.kind()), "without {removed}: {error:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_soon() -> Result<()> {
    asked_for!("CONSUL");
    let begin = Instant::now();
    let error = build("consul://127.0.0.1:1?ttl=2", "a")?.start().await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Connection, Outcome::NotApplied));
    assert!(begin.elapsed() < Duration::from_secs(2));
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_not_there_is_passed_over() -> Result<()> {
    let url = asked_for!("CONSUL");
    let url = fresh(&url.replace("consul://", "consul://127.0.0.1:1,"), "ttl=2");
    let a = start(&url, "a").await?;
    a.lock("it")?.acquire().await?.release().await?;
    a.stop().await
}

/// How long a name or an id may be, in bytes.
const NAME: usize = 8_192;

/// What is too long for any request of its life is refused before the first, with the limit named.
#[tokio::test]
async fn what_is_too_long_is_refused_with_the_limit() -> Result<()> {
    let url = fresh(&asked_for!("CONSUL"), "ttl=10&lock_delay=0");
    let a = start(&url, "a").await?;
    a.create_group("g").await?;
    let refused = |error: tooz_core::Error, limit: &str| {
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(error.outcome(), Outcome::NotApplied);
        assert!(error.to_string().contains(limit), "it names the limit");
    };
    for length in [NAME + 1, 150_000, 500_000, 2_000_000] {
        let name = "n".repeat(length);
        refused(a.lock(name.clone())?.try_acquire().await.unwrap_err(), "8192");
        refused(a.create_group(name.clone()).await.unwrap_err(), "8192");
        refused(build(&url, &name)?.start().await.unwrap_err(), "8192");
    }
    let (large, larger) = ("x".repeat(390_000), "x".repeat(394_000));
    refused(a.join_group("g", &larger).await.unwrap_err(), "524288");
    a.join_group("g", &1).await?;
    refused(a.update_capabilities("g", &larger).await.unwrap_err(), "524288");
    a.update_capabilities("g", &large).await?;
    assert_eq!(a.member("g", "a").await?.capabilities.decode::<String>()?, large);
    a.stop().await?;
    assert!(Inspector::new(&url)?.residue().await?.is_empty());
    Ok(())
}

/// With the characters that take the most room in requests.
#[tokio::test]
async fn the_longest_names_live_a_whole_life() -> Result<()> {
    let url = fresh(&asked_for!("CONSUL"), "ttl=20&lock_delay=0");
    let name = |n: usize| format!("{n:02}{}", "\"".repeat(NAME - 2));
    let (a, b) = (start(&url, &name(1)).await?, start(&url, &name(2)).await?);
    for (mode, next) in [
        (Mode::Exclusive, Mode::Exclusive),
        (Mode::Exclusive, Mode::Shared),
        (Mode::Shared, Mode::Exclusive),
        (Mode::Shared, Mode::Shared),
    ] {
        let guard = a.lock(name(0))?.acquire_with(mode, Wait::Forever).await?.unwrap();
        let lock = b.lock(name(0))?;
        let waiting = tokio::spawn(async move { lock.acquire_with(next, Wait::Forever).await });
        assert!(guard.verify().await?);
        guard.release().await?;
        let guard = timeout(Duration::from_secs(10), waiting).await.expect("granted").unwrap()?;
        assert!(a.lock(name(0))?.break_lock().await?);
        assert_eq!(guard.unwrap().release().await.unwrap_err().kind(), ErrorKind::LockLost);
    }
    a.join_group_create(name(0), &1).await?;
    b.join_group(name(0), &2).await?;
    b.update_capabilities(name(0), &3).await?;
    let term = a.campaign(name(0)).await?;
    assert_eq!(b.leader(name(0)).await?, Some(name(1).into()));
    // Together they are larger than a request may be.
    let mut guards = Vec::new();
    for n in 0..40 {
        guards.push(a.lock(name(n))?.acquire().await?);
    }
    a.heartbeat().await?;
    for guard in guards {
        guard.check()?;
        guard.release().await?;
    }
    term.resign().await?;
    b.leave_group(name(0)).await?;
    a.leave_group(name(0)).await?;
    a.delete_group(name(0)).await?;
    a.stop().await?;
    b.stop().await
}

// ---- Rotation.

#[tokio::test]
async fn a_rotated_token_costs_nothing() -> Result<()> {
    let acl = Acl::of(&asked_for!("CONSUL_ACL"));
    let (folder, first) = (Folder::new(), acl.make_token().await);
    let file = folder.file("token");
    std::fs::write(&file, &first.secret).unwrap();
    let url = acl.url(&[("acl_token", &format!("acl_token_file={file}"))]);
    let a = start(&fresh(&url, "ttl=4"), "a").await?;
    a.join_group_create("g", &1).await?;
    let guard = a.lock("it")?.acquire().await?;
    let second = acl.make_token().await;
    std::fs::write(&file, format!("{}\n", second.secret)).unwrap();
    acl.delete_token(&first).await;
    a.heartbeat().await?;
    guard.check()?;
    assert!(guard.verify().await?, "held by the new token");
    assert_eq!(a.members("g").await?.len(), 1);
    // With neither in the file, it is said what is wrong, and put right without a restart.
    acl.delete_token(&second).await;
    let error = a.members("g").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Authentication, "{error:?}");
    let third = acl.make_token().await;
    std::fs::write(&file, &third.secret).unwrap();
    guard.release().await?;
    a.stop().await?;
    acl.delete_token(&third).await;
    Ok(())
}

#[tokio::test]
async fn rotated_certificates_are_read_again() -> Result<()> {
    let url = asked_for!("CONSUL_ACL");
    let (acl, folder) = (Acl::of(&url), Folder::new());
    let (file, good) = (folder.file("authority"), std::fs::read(option(&url, "ca_cert")).unwrap());
    // A certificate, but not that of the server's authority.
    std::fs::copy(option(&url, "client_cert"), &file).unwrap();
    let url = fresh(&acl.url(&[("ca_cert", &format!("ca_cert={file}"))]), "ttl=3");
    let a = build(&url, "a")?;
    let error = a.start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Authentication, "{error:?}");
    std::fs::write(&file, good).unwrap();
    let begin = Instant::now();
    while let Err(error) = a.start().await {
        assert!(begin.elapsed() < Duration::from_secs(10), "{error:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // What cannot be used is not taken.
    std::fs::write(&file, "half a file").unwrap();
    let guard = a.lock("it")?.acquire().await?;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(guard.verify().await?);
    guard.release().await?;
    a.stop().await
}

// ---- Sessions.

/// With the default times, where no renewal tells anything soon.
#[tokio::test]
async fn a_destroyed_session_is_told_and_repaired() -> Result<()> {
    let url = fresh(&asked_for!("CONSUL"), "");
    let (a, b) = (start(&url, "a").await?, start(&url, "b").await?);
    a.join_group_create("g", &7).await?;
    let guard = a.lock("it")?.acquire().await?;
    let mut session = a.session_events();
    let begin = Instant::now();
    assert_eq!(Inspector::new(&url)?.destroy_sessions(&"a".into()).await?, 2);
    timeout(Duration::from_secs(1), guard.lost()).await.expect("told within a second");
    let rejoined =
        async { while !matches!(session.next().await, Some(SessionEvent::Rejoined(_)) | None) {} };
    timeout(Duration::from_secs(2), rejoined).await.expect("joined again within 2 s");
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert_eq!(b.member("g", "a").await?.capabilities.decode::<i32>()?, 7);
    assert_eq!(guard.release().await.unwrap_err().kind(), ErrorKind::LockLost);
    a.stop().await?;
    b.stop().await
}

#[tokio::test]
async fn a_clean_release_has_no_delay_and_a_lost_session_has() -> Result<()> {
    let url = fresh(&asked_for!("CONSUL"), "ttl=2&lock_delay=2");
    let (a, b) = (start(&url, "a").await?, start(&url, "b").await?);
    let guard = a.lock("it")?.acquire().await?;
    guard.release().await?;
    let guard = b.lock("it")?.try_acquire().await?.expect("free at once after a release");
    let begin = Instant::now();
    Inspector::new(&url)?.destroy_sessions(&"b".into()).await?;
    let next = timeout(Duration::from_secs(10), a.lock("it")?.acquire()).await;
    let next = next.expect("free after the delay")?;
    let delay = begin.elapsed();
    assert!(delay > Duration::from_millis(1_900), "kept from all after a loss: {delay:?}");
    assert_eq!(guard.loss(), Some(Loss::SessionEnded));
    next.release().await?;
    a.stop().await?;
    b.stop().await
}

/// Without an agent's check, Consul ends a session after twice its time to live.
#[tokio::test]
async fn a_session_without_a_check_lives_by_its_renewals() -> Result<()> {
    let url = fresh(&asked_for!("CONSUL"), "ttl=1&lock_delay=0&check=no");
    let a = start(&url, "a").await?;
    let silent = Registry::new().with(tooz_consul::DRIVER)?.builder(&url, "silent")?;
    let silent = silent.heartbeat(Heartbeat::Manual).build()?;
    silent.start().await?;
    let guard = a.lock("renewed")?.acquire().await?;
    let lost = silent.lock("it")?.acquire().await?;
    timeout(Duration::from_secs(1), lost.lost()).await.expect("lost before the server ends it");
    let next = timeout(Duration::from_secs(5), a.lock("it")?.acquire()).await;
    next.expect("free when the server has ended it")?.release().await?;
    guard.check()?;
    assert!(guard.verify().await?, "renewed all the while");
    a.stop().await
}

#[tokio::test]
async fn shared_holders_that_died_are_reaped() -> Result<()> {
    let url = fresh(&asked_for!("CONSUL"), "ttl=2&lock_delay=0");
    let (a, b) = (start(&url, "a").await?, start(&url, "b").await?);
    let guard = a.lock("it")?.acquire_shared().await?;
    let lock = b.lock("it")?;
    let waiting = tokio::spawn(async move { lock.acquire().await });
    // The session of those who share it lives on.
    assert_eq!(Inspector::new(&url)?.destroy_sessions(&"a".into()).await?, 1);
    let next = timeout(Duration::from_secs(5), waiting).await.expect("freed").unwrap()?;
    assert!(next.verify().await? && guard.check().is_err());
    next.release().await?;
    a.stop().await?;
    b.stop().await
}

/// Its next heartbeat, which would tell it as well, comes after 20 s.
#[tokio::test]
async fn a_removed_member_that_watches_its_group_is_told_at_once() -> Result<()> {
    let url = fresh(&asked_for!("CONSUL"), "ttl=60");
    let (a, b) = (start(&url, "a").await?, start(&url, "b").await?);
    a.join_group_create("g", &7).await?;
    let mut events = a.watch_group("g").await?;
    b.remove_member("g", "a").await?;
    let rejoined =
        async { while !matches!(events.next().await, Some(GroupEvent::Rejoined) | None) {} };
    timeout(Duration::from_secs(5), rejoined).await.expect("joined again within 5 s");
    assert_eq!(b.member("g", "a").await?.capabilities.decode::<i32>()?, 7);
    a.stop().await?;
    b.stop().await
}

// ---- Connections.

/// How many a process may have to an agent, which takes 200 from one host by default.
const MOST_CONNECTIONS: usize = 70;

/// As when 256 partitions are handed over, by a server with its own defaults.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_wait_need_few_connections() -> Result<()> {
    let url = asked_for!("CONSUL");
    let proxy = Proxy::of(address(&url)).await;
    let url = fresh(&proxy.url(), "ttl=20&lock_delay=0");
    let (a, b) = (start(&url, "a").await?, start(&url, "b").await?);
    let names: Vec<_> = (0..256).map(|n| format!("partition-{n}")).collect();
    let acquire = async |coordinator: &Coordinator| {
        let mut tasks = Vec::new();
        for name in &names {
            let lock = coordinator.lock(name.clone())?;
            tasks.push(tokio::spawn(async move { lock.acquire().await }));
        }
        Ok::<_, tooz_core::Error>(tasks)
    };
    let all = async |tasks: Vec<JoinHandle<Result<LockGuard>>>| {
        let mut guards = Vec::new();
        for task in tasks {
            let granted = timeout(Duration::from_secs(30), task).await.expect("granted in time");
            guards.push(granted.unwrap()?);
        }
        Ok::<_, tooz_core::Error>(guards)
    };
    let held = all(acquire(&a).await?).await?;
    let waiting = acquire(&b).await?;
    let inspector = Inspector::new(&url)?;
    let begin = Instant::now();
    while inspector.queued().await? < names.len() {
        assert!(begin.elapsed() < Duration::from_secs(30), "all are in their queues");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let begin = Instant::now();
    b.heartbeat().await?;
    assert!(begin.elapsed() < Duration::from_secs(2), "heartbeats have a way of their own");
    let releases: Vec<_> = held.into_iter().map(|guard| tokio::spawn(guard.release())).collect();
    for release in releases {
        release.await.unwrap()?;
    }
    for guard in all(waiting).await? {
        guard.check()?;
        guard.release().await?;
    }
    assert!(proxy.most_open() <= MOST_CONNECTIONS, "{} connections", proxy.most_open());
    a.stop().await?;
    b.stop().await
}

/// A burst takes longer than the answer to a single request may, and costs neither a grant nor the
/// session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_gets_through() -> Result<()> {
    let a = start(&fresh(&asked_for!("CONSUL"), "ttl=6"), "a").await?;
    let mut tasks = Vec::new();
    for n in 0..500 {
        let lock = a.lock(format!("lock-{n}"))?;
        tasks.push(tokio::spawn(async move {
            let guard = lock.try_acquire().await?.expect("it is free");
            guard.check()?;
            guard.release().await
        }));
    }
    for task in tasks {
        task.await.unwrap()?;
    }
    a.stop().await
}

/// The limit is for a process, whatever the number of its coordinators.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_coordinators_share_their_connections() -> Result<()> {
    let url = asked_for!("CONSUL");
    let proxy = Proxy::of(address(&url)).await;
    let url = fresh(&proxy.url(), "ttl=20");
    let mut coordinators = Vec::new();
    for n in 0..60 {
        coordinators.push(start(&url, &format!("member-{n}")).await?);
    }
    coordinators[0].create_group("g").await?;
    let mut guards = Vec::new();
    for (n, coordinator) in coordinators.iter().enumerate() {
        coordinator.join_group("g", &()).await?;
        guards.push(coordinator.lock(format!("lock-{n}"))?.acquire().await?);
    }
    // A loss is told at once even so.
    Inspector::new(&url)?.destroy_sessions(&"member-7".into()).await?;
    timeout(Duration::from_secs(3), guards[7].lost()).await.expect("told within 3 s");
    for guard in &guards[8..] {
        guard.check()?;
    }
    assert!(proxy.most_open() <= MOST_CONNECTIONS, "{} connections", proxy.most_open());
    // A stop waits for those who still work under a lock.
    drop(guards);
    for coordinator in coordinators {
        coordinator.stop().await?;
    }
    Ok(())
}

/// Two unanswered heartbeats and a reconnection fit into a time to live, however long that is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_connections_cost_nothing() -> Result<()> {
    let upstream = asked_for!("CONSUL");
    let with = async |ttl: u32| {
        let proxy = Proxy::of(address(&upstream)).await;
        let url = fresh(&proxy.url(), &format!("ttl={ttl}&lock_delay=0"));
        let a = start(&url, "a").await?;
        a.join_group_create("g", &1).await?;
        let guard = a.lock("it")?.acquire().await?;
        let mut session = a.session_events();
        let resumed = async |session: &mut Events<SessionEvent>| loop {
            match session.next().await {
                Some(SessionEvent::Resumed) => return,
                Some(SessionEvent::Suspended) => {}
                other => panic!("with a time to live of {ttl} s: {other:?}"),
            }
        };
        proxy.silence();
        let limit = Duration::from_secs(u64::from(ttl) * 2);
        timeout(limit, resumed(&mut session)).await.expect("reconnected");
        // Right after a heartbeat, so that the next is due as late as can be.
        proxy.swallow(2);
        timeout(limit, resumed(&mut session)).await.expect("reconnected");
        assert_eq!(proxy.to_swallow(), 0);
        guard.check()?;
        assert!(guard.verify().await?);
        guard.release().await?;
        a.stop().await
    };
    let (short, longer) = tokio::join!(with(2), with(6));
    short.and(longer)
}

// ---- Lost replies.

#[tokio::test]
async fn lost_replies_are_resolved() -> Result<()> {
    let url = asked_for!("CONSUL");
    let proxy = Proxy::of(address(&url)).await;
    let url = fresh(&proxy.url(), "ttl=6&lock_delay=0");
    let a = start(&url, "a").await?;
    let lock = a.lock("it")?;
    for mode in [Mode::Exclusive, Mode::Shared] {
        for wait in [Wait::Try, Wait::Forever] {
            proxy.lose_next();
            let guard = lock.acquire_with(mode, wait).await?.expect("applied, and found so");
            assert!(guard.verify().await?);
            proxy.lose_next();
            guard.release().await?;
            let next = lock.try_acquire().await?.expect("it was released");
            next.release().await?;
        }
    }
    proxy.lose_next();
    a.create_group("g").await?;
    proxy.lose_next();
    a.join_group("g", &1).await?;
    proxy.lose_next();
    a.update_capabilities("g", &2).await?;
    assert_eq!(a.member("g", "a").await?.capabilities.decode::<i32>()?, 2);
    proxy.lose_next();
    a.leave_group("g").await?;
    proxy.lose_next();
    a.delete_group("g").await?;
    assert!(a.groups().await?.is_empty());
    assert_eq!(proxy.lost(), 13, "every reply that was to be lost was");
    a.stop().await?;
    // What is given back in the background.
    let (inspector, begin) = (Inspector::new(&url)?, Instant::now());
    while !inspector.residue().await?.is_empty() {
        let residue = inspector.residue().await?;
        assert!(begin.elapsed() < Duration::from_secs(5), "left: {residue:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

// ---- Costs.

#[tokio::test]
async fn each_step_is_one_request() -> Result<()> {
    let url = asked_for!("CONSUL");
    let proxy = Proxy::of(address(&url)).await;
    let a = start(&fresh(&proxy.url(), "ttl=60"), "a").await?;
    a.create_group("g").await?;
    let lock = a.lock("it")?;
    proxy.take_requests();
    let guard = lock.acquire().await?;
    assert_eq!(proxy.take_requests(), ["PUT /v1/txn HTTP/1.1"], "an acquisition");
    assert!(guard.verify().await?);
    assert_eq!(proxy.take_requests().len(), 1, "a look");
    guard.release().await?;
    assert_eq!(proxy.take_requests(), ["PUT /v1/txn HTTP/1.1"], "a release");
    a.join_group("g", &1).await?;
    assert_eq!(proxy.take_requests(), ["PUT /v1/txn HTTP/1.1"], "a join");
    a.members_with_capabilities("g").await?;
    assert_eq!(proxy.take_requests().len(), 1, "members with capabilities");
    let mut guards = Vec::new();
    for n in 0..100 {
        guards.push(a.lock(format!("lock-{n}"))?.acquire().await?);
    }
    proxy.take_requests();
    a.heartbeat().await?;
    // Beside the two renewals and the check, which are not counted here.
    assert_eq!(proxy.take_requests().len(), 2, "looks at 100 locks and a membership");
    for guard in guards {
        guard.release().await?;
    }
    a.stop().await
}
