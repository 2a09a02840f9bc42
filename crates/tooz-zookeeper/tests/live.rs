//! What the conformance kit does not ask: this backend's own errors, costs and faults.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod server;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use server::proxy::{Proxy, Way};
use server::{Server, asked_for, build, free_port, number, start};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tooz_core::{ErrorKind, GroupEvent, Loss, MemberId, Result, SessionEvent};
use tooz_zookeeper::inspect::Inspector;

macro_rules! if_asked_for {
    () => {
        if !asked_for() {
            return Ok(());
        }
    };
}

/// Generous: what must happen at all, on a busy machine.
const SOON: Duration = Duration::from_secs(20);

// ---- Errors.

#[tokio::test]
async fn refusals_are_clear_and_soon() -> Result<()> {
    if_asked_for!();
    let server = Server::start();
    let address = format!("127.0.0.1:{}", server.port);
    let owner = start(&format!("zookeeper://me:right@{address}?timeout=3"), "a").await?;
    owner.create_group("g").await?;
    let refused_at = format!("127.0.0.1:{}", free_port());
    let refused = format!("zookeeper://{refused_at}?timeout=3");
    for (url, kind, part) in [
        (
            format!("zookeeper://me:wrong@{address}?timeout=3"),
            ErrorKind::Authentication,
            "the password is wrong",
        ),
        (format!("zookeeper://{address}?timeout=3"), ErrorKind::Authentication, "denied"),
        (
            "zookeeper://no-such-host.invalid?timeout=3".to_owned(),
            ErrorKind::Connection,
            "at no-such-host.invalid:2181: could not connect",
        ),
        (refused, ErrorKind::Connection, &*format!("at {refused_at}: could not connect")),
        // At the defaults, too.
        (format!("zookeeper://{refused_at}"), ErrorKind::Connection, "could not connect"),
        (
            "zookeeper://no-such-host.invalid".to_owned(),
            ErrorKind::Connection,
            "at no-such-host.invalid:2181: could not connect",
        ),
        (
            format!("zookeeper://{address}/no/such/root?timeout=3"),
            ErrorKind::InvalidInput,
            "the chroot does not exist on the server (chroot=/no/such/root)",
        ),
    ] {
        let begin = Instant::now();
        let error = build(&url, "b")?.start().await.unwrap_err();
        assert!(begin.elapsed() < Duration::from_secs(3), "{error} after {:?}", begin.elapsed());
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(error.to_string().contains(part), "{error}");
        assert!(!format!("{error:?}").contains("me:wrong"), "{error:?}");
    }
    start(&format!("zookeeper://me:right@{address}?timeout=3"), "b").await?.stop().await?;
    owner.stop().await
}

#[tokio::test]
async fn a_silent_server_is_given_up_in_time() -> Result<()> {
    if_asked_for!();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let begin = Instant::now();
    let url = format!("zookeeper://127.0.0.1:{port}?timeout=2");
    let error = build(&url, "a")?.start().await.unwrap_err();
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert!(error.to_string().contains("opens no session"), "{error}");
    // A long time to live is no reason to wait as long, nor to forget which server it was.
    let begin = Instant::now();
    let url = format!("zookeeper://127.0.0.1:{port}?timeout=300");
    let error = build(&url, "a")?.start().await.unwrap_err();
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    assert!(error.to_string().contains(&format!("at 127.0.0.1:{port}: ")), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_chroot_is_a_world_of_its_own() -> Result<()> {
    if_asked_for!();
    let server = Server::start();
    // A namespace makes the nodes that then are a chroot.
    start(&server.url("timeout=3&namespace=outer/inner"), "a").await?.stop().await?;
    let address = format!("zookeeper://127.0.0.1:{}", server.port);
    let a = start(&format!("{address}/outer?namespace=inner&timeout=3"), "a").await?;
    let b = start(&server.url("timeout=3&namespace=outer/inner"), "b").await?;
    let c = start(&format!("zookeeper://?hosts=127.0.0.1:{}/outer&timeout=3", server.port), "c")
        .await?;
    let guard = a.lock("it")?.acquire().await?;
    assert!(b.lock("it")?.try_acquire().await?.is_none(), "the same node by another path");
    assert!(c.lock("it")?.try_acquire().await?.is_some(), "another namespace");
    guard.release().await.map(drop)
}

// ---- Costs.

#[tokio::test]
async fn an_uncontended_acquisition_is_one_round_trip() -> Result<()> {
    if_asked_for!();
    let server = Server::start();
    let proxy = Proxy::to(server.port).await;
    let a = start(&proxy.url("timeout=30"), "a").await?;
    a.lock("it")?.acquire().await?.release().await?; // Makes the lock's node.
    const WAY: Duration = Duration::from_millis(150);
    proxy.set(Way::Slow(WAY));
    let begin = Instant::now();
    let guard = a.lock("it")?.acquire().await?;
    let acquired = begin.elapsed();
    // What else is under way does not hold up the release.
    sleep(WAY * 4).await;
    let begin = Instant::now();
    guard.release().await?;
    let released = begin.elapsed();
    for time in [acquired, released] {
        assert!(time >= WAY * 2 && time < WAY * 4, "{acquired:?}, {released:?}");
    }
    proxy.set(Way::Open);
    a.stop().await
}

#[tokio::test]
async fn a_release_before_a_thousand_waiters_costs_three_requests() -> Result<()> {
    if_asked_for!();
    const WAITERS: u64 = 1_000;
    let server = Server::start();
    // With long sessions, hardly any of the requests are heartbeats.
    let a = start(&server.url("timeout=300"), "a").await?;
    let first = a.lock("it")?.acquire().await?;
    let mut waiters = JoinSet::new();
    for _ in 0..WAITERS {
        let lock = a.lock("it")?;
        waiters.spawn(async move { lock.acquire().await?.release().await });
    }
    // All are in the queue, and no request is under way.
    let begin = Instant::now();
    let mut quiet = (0, Instant::now());
    while number(&server, "zk_watch_count") <= WAITERS
        || quiet.1.elapsed() < Duration::from_millis(500)
    {
        let requests = number(&server, "zk_packets_received");
        // Our questions are counted too.
        if requests > quiet.0 + 4 {
            quiet.1 = Instant::now();
        }
        quiet.0 = requests;
        assert!(begin.elapsed() < SOON * 3, "all wait");
        sleep(Duration::from_millis(50)).await;
    }
    let (before, begin) = (number(&server, "zk_packets_received"), Instant::now());
    first.release().await?;
    while let Some(released) = waiters.join_next().await {
        released.unwrap()?;
    }
    let requests = number(&server, "zk_packets_received") - before;
    let each = begin.elapsed() / u32::try_from(WAITERS).unwrap();
    eprintln!("{requests} requests for {} releases, {each:?} each", WAITERS + 1);
    assert!(requests <= 3 * (WAITERS + 1), "{requests} requests");
    a.stop().await
}

// ---- Faults.

/// A server may serve a connection, and confirm renewals, of a session that ended while the client
/// was connecting again. What the session made is gone then, and that is what we can see.
#[tokio::test]
async fn a_session_without_its_node_is_told_and_repaired() -> Result<()> {
    if_asked_for!();
    let server = Server::start();
    let url = server.url("timeout=20");
    let a = start(&url, "a").await?;
    let mut session = a.session_events();
    Inspector::connect(&url).await?.wipe().await?;
    let event = timeout(Duration::from_secs(1), session.next()).await.expect("told in 1 s");
    assert_eq!(event, Some(SessionEvent::Lost(Loss::SessionEnded)));
    let event = timeout(Duration::from_secs(1), session.next()).await.expect("repaired in 1 s");
    assert_eq!(event, Some(SessionEvent::Rejoined(Vec::new())));
    a.lock("it")?.acquire().await?.release().await?;
    a.stop().await
}

/// The session is ended at the server, by its number and its password on another connection.
#[tokio::test]
async fn a_session_that_ends_at_the_server_is_told_and_repaired() -> Result<()> {
    if_asked_for!();
    let server = Server::start();
    let url = server.url("timeout=20");
    let (a, b) = (start(&url, "a").await?, start(&url, "b").await?);
    a.join_group_create("g", &1).await?;
    b.join_group("g", &2).await?;
    let lock = a.lock("it")?.acquire().await?;
    let term = a.campaign("g").await?;
    let mut session = a.session_events();
    let inspector = Inspector::connect(&url).await?;
    let next = {
        let b = b.clone();
        tokio::spawn(async move {
            let term = b.campaign("g").await?;
            Ok::<_, tooz_core::Error>((Instant::now(), term))
        })
    };
    while server.ask("dump").matches("/g/leader/").count() < 2 {
        sleep(Duration::from_millis(20)).await;
    }
    let begin = Instant::now();
    let lost = async {
        let (one, two) = tokio::join!(lock.lost(), term.lost());
        assert_eq!((one, two), (Loss::SessionEnded, Loss::SessionEnded));
        Instant::now()
    };
    let member = MemberId::from("a");
    let (lost, ended) = tokio::join!(lost, inspector.expire_sessions(&member));
    assert_eq!(ended?, 1);
    let rejoined = async {
        loop {
            if let Some(SessionEvent::Rejoined(groups)) = session.next().await {
                return groups;
            }
        }
    };
    let groups = timeout(Duration::from_secs(2), rejoined).await.expect("rejoined in 2 s");
    assert_eq!(groups, ["g".into()]);
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    let (led, next) = timeout(SOON, next).await.unwrap().unwrap()?;
    eprintln!("told {:?} after, the next leads {:?} after", lost - begin, led - begin);
    // Both learn of it from the same server at the same time; no reconnection brings it back. If one
    // crosses it, the server is silent to the old leader, which asks over another connection.
    assert!(lost < led + Duration::from_secs(1), "the old leader knows");
    assert!(term.check().is_err() && next.check().is_ok());
    assert_eq!(b.leader("g").await?, Some("b".into()));
    assert_eq!(a.members("g").await?.len(), 2);
    assert_eq!(lock.release().await.unwrap_err().kind(), ErrorKind::LockLost);
    assert_eq!(term.resign().await.unwrap_err().kind(), ErrorKind::LockLost);
    assert_eq!(a.leader("g").await?, Some("b".into()), "what was lost took nothing away");
    a.stop().await?;
    b.stop().await
}

/// With the way to the server gone, the holder knows before the next one holds, and long before
/// its client says that the session expired.
#[tokio::test]
async fn who_is_cut_off_knows_before_the_next_one_holds() -> Result<()> {
    if_asked_for!();
    let server = Server::start();
    let proxy = Proxy::to(server.port).await;
    let (a, b) =
        (start(&proxy.url("timeout=2"), "a").await?, start(&server.url("timeout=2"), "b").await?);
    let guard = a.lock("it")?.acquire().await?;
    let next = {
        let lock = b.lock("it")?;
        tokio::spawn(async move { lock.acquire().await.map(|guard| (Instant::now(), guard)) })
    };
    while server.ask("dump").matches("/locks/it/").count() < 2 {
        sleep(Duration::from_millis(20)).await;
    }
    let mut session = a.session_events();
    proxy.set(Way::Silent);
    let begin = Instant::now();
    let loss = timeout(SOON, guard.lost()).await.unwrap();
    let lost = Instant::now();
    assert_eq!(loss, Loss::Expired);
    assert!(lost - begin < Duration::from_secs(2), "{:?}", lost - begin);
    assert_eq!(session.next().await, Some(SessionEvent::Suspended));
    let (held, next) = timeout(SOON, next).await.unwrap().unwrap()?;
    assert!(lost < held, "lost {:?} after the next one held", lost - held);
    assert!(next.fencing_token() > guard.fencing_token());
    proxy.set(Way::Open);
    assert_eq!(guard.release().await.unwrap_err().kind(), ErrorKind::LockLost);
    assert!(next.verify().await?);
    a.stop().await?;
    b.stop().await
}

/// The connection is dead, and nobody says so: a new one is made while the session still lives,
/// whatever its time to live and whenever it happens.
#[tokio::test]
async fn a_dead_connection_loses_nothing() -> Result<()> {
    if_asked_for!();
    let server = Server::start();
    let mut all = JoinSet::new();
    for (ttl, rounds) in [(2_u32, 3), (5, 2), (10, 1)] {
        let (proxy, direct) = (Proxy::to(server.port).await, server.url("timeout=20"));
        all.spawn(async move {
            let a = start(&proxy.url(&format!("timeout={ttl}")), &format!("a{ttl}")).await?;
            let b = start(&direct, &format!("b{ttl}")).await?;
            let (group, lock) = (format!("g{ttl}"), format!("l{ttl}"));
            a.join_group_create(&group, &()).await?;
            let (guard, term) = (a.lock(&lock)?.acquire().await?, a.campaign(&group).await?);
            let mut session = a.session_events();
            for round in 0..rounds {
                // At another point between two heartbeats.
                sleep(Duration::from_millis(u64::from(ttl) * 90 * round)).await;
                let begin = Instant::now();
                proxy.silence();
                let verified = timeout(SOON, guard.verify()).await.expect("an answer")?;
                let over = begin.elapsed();
                eprintln!("{ttl} s, round {round}: served again after {over:?}");
                assert!(verified && over < Duration::from_secs(ttl.into()), "{over:?}");
                guard.check()?;
                term.check()?;
                let event = timeout(SOON, session.next()).await.expect("an event");
                assert_eq!(event, Some(SessionEvent::Suspended));
                let event = timeout(SOON, session.next()).await.expect("an event");
                assert_eq!(event, Some(SessionEvent::Resumed));
            }
            assert_eq!(b.members(&group).await?.len(), 1);
            assert!(b.lock(&lock)?.try_acquire().await?.is_none());
            guard.release().await?;
            a.stop().await?;
            b.stop().await
        });
    }
    all.join_all().await.into_iter().collect()
}

#[tokio::test]
async fn a_short_cut_loses_nothing() -> Result<()> {
    if_asked_for!();
    let server = Server::start();
    let proxy = Proxy::to(server.port).await;
    let a = start(&proxy.url("timeout=10"), "a").await?;
    a.join_group_create("g", &()).await?;
    let guard = a.lock("it")?.acquire().await?;
    let mut session = a.session_events();
    proxy.set(Way::LosingAReply);
    assert_eq!(timeout(SOON, session.next()).await.unwrap(), Some(SessionEvent::Suspended));
    assert_eq!(timeout(SOON, session.next()).await.unwrap(), Some(SessionEvent::Resumed));
    assert!(guard.verify().await?);
    guard.release().await?;
    assert_eq!(a.members("g").await?.len(), 1);
    a.stop().await
}

/// The reply to each kind of write is lost in turn.
#[tokio::test]
async fn lost_replies_are_resolved() -> Result<()> {
    if_asked_for!();
    let server = Server::start();
    let proxy = Proxy::to(server.port).await;
    let options = "timeout=20";
    let (a, b) = (start(&proxy.url(options), "a").await?, start(&server.url(options), "b").await?);
    let inspector = Inspector::connect(&server.url(options)).await?;
    let lose = || proxy.set(Way::LosingAReply);
    let lost = || timeout(SOON, proxy.is(Way::Open));
    for round in 0..8 {
        lose();
        let guard = a.lock("it")?.acquire().await?;
        lost().await.expect("a reply was lost");
        assert!(b.lock("it")?.try_acquire().await?.is_none(), "round {round}");
        lose();
        guard.release().await?;
        lost().await.expect("a reply was lost");
        let group = format!("g{round}");
        lose();
        a.create_group(&group).await?;
        lost().await.expect("a reply was lost");
        lose();
        a.join_group(&group, &round).await?;
        lost().await.expect("a reply was lost");
        lose();
        a.update_capabilities(&group, &(round + 1)).await?;
        lost().await.expect("a reply was lost");
        let shown = b.member(&group, "a").await?.capabilities.decode::<u32>()?;
        assert_eq!(shown, round + 1);
        lose();
        a.leave_group(&group).await?;
        lost().await.expect("a reply was lost");
        lose();
        a.delete_group(&group).await?;
        lost().await.expect("a reply was lost");
        assert!(b.groups().await?.is_empty());
        // Somebody waits for a lock that is held, and gives up while replies are lost.
        let held = b.lock("it")?.acquire().await?;
        lose();
        assert!(a.lock("it")?.try_acquire().await?.is_none());
        lost().await.expect("a reply was lost");
        held.release().await?;
    }
    let entries = inspector.residue().await?;
    let entries: Vec<_> = entries.iter().filter(|node| node.contains("__lock__")).collect();
    assert!(entries.is_empty(), "{entries:?}");
    a.stop().await?;
    b.stop().await
}

#[tokio::test]
async fn a_restarted_server_finds_everything_as_it_was() -> Result<()> {
    if_asked_for!();
    let mut server = Server::start();
    let a = start(&server.url("timeout=20"), "a").await?;
    a.join_group_create("g", &1).await?;
    let mut events = a.watch_group("g").await?;
    assert!(matches!(timeout(SOON, events.next()).await.unwrap(), Some(GroupEvent::Snapshot(_))));
    let guard = a.lock("it")?.acquire().await?;
    server.kill();
    server.restart();
    server.wait_ready();
    assert!(timeout(SOON, guard.verify()).await.unwrap()?);
    a.update_capabilities("g", &2).await?;
    let event = timeout(SOON, events.next()).await.unwrap();
    assert!(matches!(event, Some(GroupEvent::Updated(_))), "{event:?}");
    guard.release().await?;
    a.stop().await
}

/// What is watched is set again after each reconnection, in one request of the client for each
/// connection. All that one session holds and waits for together is several times larger.
#[tokio::test]
async fn any_number_of_watched_nodes_survives_a_reconnection() -> Result<()> {
    if_asked_for!();
    let server = Server::start();
    let proxy = Proxy::to(server.port).await;
    let (a, b) =
        (start(&proxy.url("timeout=30"), "a").await?, start(&server.url("timeout=30"), "b").await?);
    // 40 of 16 KB: 640 KB of paths.
    let name = |n: usize| format!("{n:02}{}", "x".repeat(16_000));
    let mut held = Vec::new();
    for n in 0..40 {
        held.push(a.lock(name(n))?.acquire().await?);
    }
    let mut waiting = Vec::new();
    for n in 40..44 {
        let theirs = b.lock(name(n))?.acquire().await?;
        let lock = a.lock(name(n))?;
        waiting.push((theirs, tokio::spawn(async move { lock.acquire().await })));
    }
    let watched = async {
        while number(&server, "zk_watch_count") < 40 + 4 + 4 + 4 + 2 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, watched).await.expect("all is watched");
    let mut session = a.session_events();
    proxy.set(Way::LosingAReply);
    assert!(timeout(SOON, held[0].verify()).await.expect("connected again")?);
    timeout(SOON, proxy.is(Way::Open)).await.expect("a reply was lost");
    // The sessions that only watch may end, too.
    let dump = server.ask("dump");
    let sessions = dump.split("0x").skip(1);
    let sessions = sessions.map(|id| id.split(|c: char| !c.is_ascii_hexdigit()).next().unwrap());
    let spares: BTreeSet<_> = sessions.filter(|id| !dump.contains(&format!("{id}:"))).collect();
    assert!(spares.len() > 5, "{dump}");
    let inspector = Inspector::connect(&server.url("timeout=30")).await?;
    for id in spares {
        inspector.end_session(i64::from_str_radix(id, 16).unwrap()).await?;
    }
    // What happens to all that is told, over whatever connection.
    for n in [0, 20, 39] {
        assert!(b.lock(name(n))?.break_lock().await?);
        assert_eq!(timeout(SOON, held[n].lost()).await.expect("told"), Loss::Taken);
    }
    for (theirs, ours) in waiting {
        theirs.release().await?;
        let ours = timeout(SOON, ours).await.expect("woken").unwrap()?;
        ours.release().await?;
    }
    for (n, guard) in held.into_iter().enumerate() {
        let lost = guard.release().await.is_err_and(|error| error.kind() == ErrorKind::LockLost);
        assert_eq!(lost, [0, 20, 39].contains(&n), "{n}");
    }
    while let Some(event) = session.try_next() {
        let of_the_cut = matches!(event, SessionEvent::Suspended | SessionEvent::Resumed);
        assert!(of_the_cut, "{event:?}");
    }
    a.stop().await?;
    b.stop().await?;
    drop(inspector);
    let ended = async {
        while number(&server, "zk_global_sessions") > 0 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, ended).await.expect("every session is ended");
    Ok(())
}

/// The members of one group, on more than one connection.
#[tokio::test]
async fn any_number_of_members_is_watched() -> Result<()> {
    if_asked_for!();
    let server = Server::start();
    let proxy = Proxy::to(server.port).await;
    let url = server.url("timeout=30");
    let a = start(&proxy.url("timeout=30"), "a").await?;
    a.create_group("g").await?;
    let mut members = Vec::new();
    for n in 0..12 {
        let member = start(&url, &format!("{n:02}{}", "x".repeat(16_000))).await?;
        member.join_group("g", &n).await?;
        members.push(member);
    }
    let mut events = a.watch_group("g").await?;
    let first = timeout(SOON, events.next()).await.expect("a snapshot");
    assert!(matches!(&first, Some(GroupEvent::Snapshot(all)) if all.len() == 12));
    proxy.set(Way::LosingAReply);
    assert_eq!(timeout(SOON, a.members("g")).await.expect("connected again")?.len(), 12);
    for (n, member) in members.iter().enumerate() {
        member.update_capabilities("g", &(100 + n)).await?;
        let event = timeout(SOON, events.next()).await.expect("an event");
        let Some(GroupEvent::Updated(updated)) = event else { panic!("an update") };
        assert_eq!(updated.id, *member.member_id());
        assert_eq!(updated.capabilities.decode::<usize>()?, 100 + n);
    }
    for member in members {
        member.stop().await?;
    }
    a.stop().await
}

/// The largest names and capabilities that are allowed work to the end, and one byte more is
/// refused before the server sees it: it would break the connection, each time anew.
#[tokio::test]
async fn what_is_too_large_is_refused_before_it_is_sent() -> Result<()> {
    if_asked_for!();
    let server = Server::start();
    let proxy = Proxy::to(server.port).await;
    let url = proxy.url("timeout=20");
    let (a, b) = (start(&url, "a").await?, start(&url, "b").await?);
    let held = a.lock("held")?.acquire().await?;
    let mut session = a.session_events();

    // Limits as documented, less what stands around the name.
    let name = |around: &str| "x".repeat(16_384 - around.len());
    let lock = name("/tooz/locks//0123456789abcdef0123456789abcdef-shared__lock__-2147483648");
    let group = name("/tooz//leader/0123456789abcdef0123456789abcdef-shared__lock__-2147483648");
    let member = name("/tooz/g/");
    let c = start(&url, &member).await?;
    b.create_group(&group).await?;
    b.join_group(&group, &()).await?;
    let term = b.campaign(&group).await?;
    assert_eq!(a.leader(&group).await?, Some("b".into()));
    a.create_group("g").await?;
    c.join_group("g", &()).await?;
    let guard = c.lock(&lock)?.acquire().await?;
    let next = {
        let lock = b.lock(&lock)?;
        tokio::spawn(async move { lock.acquire_shared().await })
    };
    while server.ask("dump").matches("xxx/").count() < 3 {
        sleep(Duration::from_millis(20)).await;
    }
    // What is watched is watched again.
    proxy.set(Way::LosingAReply);
    assert!(guard.verify().await?);
    timeout(SOON, proxy.is(Way::Open)).await.expect("a reply was lost");
    guard.release().await?;
    let next = timeout(SOON, next).await.expect("the next holds").unwrap()?;
    next.release().await?;
    assert!(!c.lock(&lock)?.break_lock().await?);
    term.resign().await?;
    b.leave_group(&group).await?;
    b.delete_group(&group).await?;
    // The request has 47 bytes beside the path and the data, and these 5 in front.
    let capabilities = |path: &str| "c".repeat(1_048_575 - 47 - path.len() - 5);
    a.join_group("g", &capabilities("/tooz/g/a")).await?;
    a.update_capabilities("g", &capabilities("/tooz/g/a")).await?;
    assert_eq!(b.members_with_capabilities("g").await?.len(), 2);

    let begin = Instant::now();
    let larger = capabilities("/tooz/g/a") + "c";
    let refused = [
        (a.update_capabilities("g", &larger).await.unwrap_err(), "servers take 1048575"),
        (b.join_group("g", &larger).await.unwrap_err(), "servers take 1048575"),
        (b.lock(lock + "x")?.acquire().await.unwrap_err(), "16384 are allowed"),
        (b.create_group(group + "x").await.unwrap_err(), "16384 are allowed"),
        (b.remove_member("g", member + "x").await.unwrap_err(), "16384 are allowed"),
    ];
    for (error, limit) in refused {
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(error.to_string().contains(limit), "{error}");
    }
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    held.check()?;
    while let Some(event) = session.try_next() {
        let of_the_cut = matches!(event, SessionEvent::Suspended | SessionEvent::Resumed);
        assert!(of_the_cut, "{event:?}");
    }
    for coordinator in [a, b, c] {
        coordinator.stop().await?;
    }
    Ok(())
}

/// A request that the server cannot bear is given up, and takes nothing with it; with the option
/// it is not even sent.
#[tokio::test]
async fn what_breaks_the_connection_twice_is_given_up() -> Result<()> {
    if_asked_for!();
    let server = Server::start_with(|_| String::new(), &["-Djute.maxbuffer=20000".to_owned()]);
    let a = start(&server.url("timeout=20"), "a").await?;
    a.join_group_create("g", &()).await?;
    let held = a.lock("held")?.acquire().await?;
    let large = "c".repeat(100_000);
    let error = timeout(SOON, a.update_capabilities("g", &large)).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection, "{error}");
    assert!(error.to_string().contains("jute.maxbuffer"), "{error}");
    assert!(timeout(SOON, held.verify()).await.unwrap()?, "all else goes on");
    held.release().await?;
    let b = start(&server.url("timeout=20&jute_maxbuffer=20000"), "b").await?;
    b.join_group("g", &"c".repeat(19_900)).await?;
    for error in [
        b.update_capabilities("g", &"c".repeat(20_000)).await.unwrap_err(),
        b.lock("x".repeat(5_000))?.acquire().await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
    a.stop().await?;
    b.stop().await
}

/// After 2^31 queue entries the server's numbers no longer tell anything. Locks, shared locks and
/// terms still have one order, and tokens go on rising.
#[tokio::test]
async fn a_queue_whose_numbers_are_used_up_has_one_order() -> Result<()> {
    if_asked_for!();
    let mut server = Server::start_with(
        |_| String::new(),
        // The journal says what the tree should look like, which is about to change.
        &["-Dzookeeper.digest.enabled=false".to_owned()],
    );
    let url = server.url("timeout=60");
    let (a, b) = (start(&url, "a").await?, start(&url, "b").await?);
    let first = a.lock("it")?.acquire().await?;
    let mut newest = first.fencing_token();
    a.join_group_create("g", &()).await?;
    b.join_group("g", &()).await?;
    a.campaign("g").await?.resign().await?;
    first.release().await?;
    server.kill();
    server.set_counters(i32::MAX - 3);
    server.restart();
    server.wait_ready();
    let inspector = Inspector::connect(&url).await?;
    let mut used_up = false;
    for round in 0..6 {
        let first = a.lock("it")?.acquire().await?;
        let names = inspector.residue().await?;
        used_up |= names.iter().any(|node| node.contains("__lock__2147483647"));
        assert!(first.fencing_token() > newest, "round {round}");
        // Who comes later waits, in the order of coming, whatever its id.
        let mut waiting = Vec::new();
        for before in 0..3 {
            let lock = b.lock("it")?;
            waiting.push(tokio::spawn(async move { lock.acquire().await }));
            while server.ask("dump").matches("/locks/it/").count() < before + 2 {
                sleep(Duration::from_millis(5)).await;
            }
        }
        assert!(b.lock("it")?.try_acquire().await?.is_none(), "round {round}: two holders");
        assert!(b.lock("it")?.try_acquire_shared().await?.is_none(), "round {round}: two holders");
        let mut holder = first;
        for (nth, next) in waiting.into_iter().enumerate() {
            assert!(!next.is_finished(), "round {round}: two holders");
            newest = holder.fencing_token();
            holder.release().await?;
            holder = timeout(SOON, next).await.expect("the next in the queue").unwrap()?;
            assert!(holder.fencing_token() > newest, "round {round}, {nth}");
        }
        newest = holder.fencing_token();
        holder.release().await?;

        let shared = a.lock("it")?.acquire_shared().await?;
        let beside = b.lock("it")?.acquire_shared().await?;
        assert!(b.lock("it")?.try_acquire().await?.is_none(), "round {round}: beside a shared one");
        assert!(a.lock("it")?.break_lock().await?);
        assert_eq!(timeout(SOON, shared.lost()).await.unwrap(), Loss::Taken);
        assert_eq!(timeout(SOON, beside.lost()).await.unwrap(), Loss::Taken);

        let term = a.campaign("g").await?;
        let next = tokio::spawn({
            let b = b.clone();
            async move { b.campaign("g").await }
        });
        while server.ask("dump").matches("/g/leader/").count() < 2 {
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(b.leader("g").await?, Some("a".into()), "round {round}");
        assert!(!next.is_finished(), "round {round}: two leaders");
        term.resign().await?;
        timeout(SOON, next).await.expect("the next leads").unwrap()?.resign().await?;
    }
    assert!(used_up, "the server gave its last number");
    a.stop().await?;
    b.stop().await
}

/// Many at once: the server gives negative numbers, and others again, while it writes.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_behind_used_up_numbers_holds_one_by_one() -> Result<()> {
    if_asked_for!();
    // It waits for its disk, so that some come while it writes the last number.
    let settings = ["-Dzookeeper.digest.enabled=false", "-Dzookeeper.forceSync=yes"];
    let mut server = Server::start_with(|_| String::new(), &settings.map(str::to_owned));
    let url = server.url("timeout=60");
    let a = start(&url, "a").await?;
    a.lock("it")?.acquire().await?.release().await?;
    server.kill();
    server.set_counters(i32::MAX - 10);
    server.restart();
    server.wait_ready();
    let (inside, newest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut crowd = JoinSet::new();
    for _ in 0..32 {
        let (lock, inside, newest) = (a.lock("it")?, inside.clone(), newest.clone());
        crowd.spawn(async move {
            for _ in 0..2 {
                let guard = lock.acquire().await?;
                assert!(!inside.swap(true, SeqCst), "two hold it");
                let token = guard.fencing_token().0;
                assert!(newest.swap(token, SeqCst) < token, "a token did not rise");
                tokio::task::yield_now().await;
                inside.store(false, SeqCst);
                guard.release().await?;
            }
            Ok::<_, tooz_core::Error>(())
        });
    }
    // They finish at about the same time.
    let all = timeout(SOON * 3, crowd.join_all()).await.expect("nobody is stuck");
    all.into_iter().collect::<Result<()>>()?;
    assert!(server.has_written("__lock__2147483647"), "the last number");
    assert!(server.has_written("__lock__-2147483648"), "and those after it");
    a.stop().await
}

#[tokio::test]
async fn a_broken_holder_is_told_by_push() -> Result<()> {
    if_asked_for!();
    let server = Server::start();
    // No heartbeat comes in time.
    let url = server.url("timeout=300");
    let (a, b) = (start(&url, "a").await?, start(&url, "b").await?);
    let shared = (a.lock("it")?.acquire_shared().await?, b.lock("it")?.acquire_shared().await?);
    assert!(b.lock("it")?.break_lock().await?);
    assert_eq!(timeout(SOON, shared.0.lost()).await.unwrap(), Loss::Taken);
    assert_eq!(timeout(SOON, shared.1.lost()).await.unwrap(), Loss::Taken);
    a.stop().await?;
    b.stop().await
}

#[tokio::test]
async fn a_removed_member_is_told_by_push() -> Result<()> {
    if_asked_for!();
    let server = Server::start();
    // No heartbeat comes in time.
    let url = server.url("timeout=300");
    let registry = tooz_core::Registry::new().with(tooz_zookeeper::DRIVER)?;
    let a = registry.builder(&url, "a")?.rejoin_when_removed(false).build()?;
    a.start().await?;
    let b = start(&url, "b").await?;
    a.join_group_create("g", &()).await?;
    let mut session = a.session_events();
    b.remove_member("g", "a").await?;
    let told = timeout(SOON, session.next()).await.unwrap();
    assert_eq!(told, Some(SessionEvent::Removed("g".into())));
    // The queue of the candidates is no member.
    b.join_group("g", &()).await?;
    b.campaign("g").await?.resign().await?;
    let error = a.remove_member("g", "leader").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    a.stop().await?;
    b.stop().await
}

#[tokio::test]
async fn a_group_can_be_deleted_after_an_election() -> Result<()> {
    if_asked_for!();
    let server = Server::start();
    let a = start(&server.url("timeout=5"), "a").await?;
    a.join_group_create("g", &()).await?;
    a.campaign("g").await?.resign().await?;
    assert_eq!(a.members("g").await?, [MemberId::from("a")].into());
    assert_eq!(a.delete_group("g").await.unwrap_err().kind(), ErrorKind::GroupNotEmpty);
    a.leave_group("g").await?;
    a.delete_group("g").await?;
    assert!(a.groups().await?.is_empty(), "and the locks are no group");
    let error = a.create_group("locks").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    a.stop().await
}

#[tokio::test]
async fn the_server_is_left_without_watches() -> Result<()> {
    if_asked_for!();
    let server = Server::start();
    let a = start(&server.url("timeout=10"), "a").await?;
    a.join_group_create("g", &()).await?;
    let watches = || number(&server, "zk_watch_count");
    let until_watched = |expected| {
        let watches = &watches;
        async move {
            let begin = Instant::now();
            while watches() != expected {
                assert!(begin.elapsed() < SOON, "{} watches, not {expected}", watches());
                sleep(Duration::from_millis(20)).await;
            }
        }
    };
    until_watched(2).await; // Of our own session and membership.
    for _ in 0..10 {
        let mut events = a.watch_group("g").await?;
        timeout(SOON, events.next()).await.unwrap();
        let mut leaders = a.watch_leader("g").await?;
        timeout(SOON, leaders.next()).await.unwrap();
        let guard = a.lock("it")?.acquire().await?;
        assert!(a.lock("it")?.try_acquire().await?.is_none());
        let waited = a.lock("it")?.try_acquire_for(Duration::from_millis(50)).await?;
        assert!(waited.is_none());
        guard.release().await?;
    }
    until_watched(2).await;
    a.stop().await
}
