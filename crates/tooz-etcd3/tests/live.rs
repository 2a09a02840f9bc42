//! What the conformance kit does not ask: errors, faults and costs, over both transports.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod server;

use std::time::{Duration, Instant};

use server::proxy::Proxy;
use server::{Cluster, SCHEMES, asked_for, build, builder, start};
use tokio::time::{sleep, timeout};
use tooz_core::{ErrorKind, GroupEvent, Loss, Mode, Outcome, Result, SessionEvent, Wait};

macro_rules! if_asked_for {
    () => {
        if !asked_for() {
            return Ok(());
        }
    };
}

/// Long for anything that is not to be timed.
const LONG: Duration = Duration::from_secs(20);

/// A namespace for each scheme. A plus would be a blank in a URL.
fn space(scheme: &str) -> String {
    scheme.replace('+', "-")
}

async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < LONG, "not within {LONG:?}: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_release_whose_answer_is_lost_is_one() -> Result<()> {
    if_asked_for!();
    let server = Cluster::start(1);
    let is_held = || server.ctl(&["get", "", "--prefix", "--keys-only"]).contains("/locks");
    for scheme in SCHEMES {
        let proxy = Proxy::of(server.nodes[0].port).await;
        let a = start(&format!("{scheme}://127.0.0.1:{}?timeout=60", proxy.port), "a").await?;
        for mode in [Mode::Exclusive, Mode::Shared] {
            let guard = a.lock("it")?.acquire_with(mode, Wait::Forever).await?.expect("no limit");
            assert!(is_held());
            proxy.lose(true);
            let release = tokio::spawn(guard.release());
            eventually("the lock is released", || !is_held()).await;
            proxy.lose(false);
            release.await.unwrap().unwrap_or_else(|error| panic!("{scheme}, {mode:?}: {error}"));
        }
        a.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_wait_that_is_over_leaves_no_watch() -> Result<()> {
    if_asked_for!();
    let server = Cluster::start(1);
    for scheme in SCHEMES {
        let proxy = Proxy::of(server.nodes[0].port).await;
        let a = start(&format!("{scheme}://127.0.0.1:{}?timeout=60", proxy.port), "a").await?;
        a.create_group(scheme).await?;
        // The session's own.
        let before = server.nodes[0].metric("etcd_debugging_mvcc_watcher_total");
        let waiters = (0..10).map(|_| {
            let lock = a.lock("it");
            tokio::spawn(async move {
                let lock = lock?;
                for _ in 0..20 {
                    lock.acquire().await?.release().await?;
                }
                Ok(())
            })
        });
        for waiter in waiters.collect::<Vec<_>>() {
            timeout(LONG, waiter).await.unwrap().unwrap()?;
        }
        drop(a.watch_group(scheme).await?);
        let what = format!("{scheme}: the server watches {before} keys again");
        eventually(&what, || server.nodes[0].metric("etcd_debugging_mvcc_watcher_total") == before)
            .await;
        if scheme == "etcd3" {
            assert_eq!(proxy.connections(), 1);
        }
        a.stop().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_goes_silent_costs_nothing() -> Result<()> {
    if_asked_for!();
    let server = Cluster::start(1);
    let mut holders = Vec::new();
    for scheme in SCHEMES {
        let proxy = Proxy::of(server.nodes[0].port).await;
        let options = format!("timeout=3&namespace={}/", space(scheme));
        let a = start(&format!("{scheme}://127.0.0.1:{}?{options}", proxy.port), "a").await?;
        // Several requests at a time, each of which leaves the gateway's client a connection.
        let busy = (0..8).map(|n| {
            let lock = a.lock(format!("busy-{n}"));
            tokio::spawn(async move { lock?.acquire().await?.release().await })
        });
        for busy in busy.collect::<Vec<_>>() {
            busy.await.unwrap()?;
        }
        let guard = a.lock("it")?.acquire().await?;
        a.join_group_create("group", &()).await?;
        let mut events = a.watch_group("group").await?;
        assert!(matches!(events.next().await, Some(GroupEvent::Snapshot(_))));
        holders.push((scheme, proxy, a, guard, events));
    }
    for (_, proxy, ..) in &holders {
        proxy.silence();
    }
    // Longer than it lives without a renewal.
    sleep(Duration::from_secs(4)).await;
    for (scheme, _proxy, a, guard, mut events) in holders {
        assert!(guard.check().is_ok(), "{scheme}: {:?}", guard.check());
        assert!(guard.verify().await?, "{scheme}");
        // Neither do watches stay on the old connection.
        let gap = async { while !matches!(events.next().await, Some(GroupEvent::Gap)) {} };
        timeout(LONG, gap).await.expect("the watch goes on over another connection");
        guard.release().await?;
        a.stop().await?;
    }
    Ok(())
}

// ---- Errors and users.

/// A server that takes connections and says nothing, and one to which no connection comes about:
/// its queue of those is full.
async fn black_holes() -> (tokio::net::TcpListener, [tokio::net::TcpStream; 2], [String; 2]) {
    let local = "127.0.0.1:0".parse().unwrap();
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let full = tokio::net::TcpSocket::new_v4().unwrap();
    full.bind(local).unwrap();
    let full = full.listen(1).unwrap();
    let at = full.local_addr().unwrap();
    let waiting = [
        tokio::net::TcpStream::connect(at).await.unwrap(),
        tokio::net::TcpStream::connect(at).await.unwrap(),
    ];
    let hosts = [silent.local_addr().unwrap().to_string(), at.to_string()];
    // Never accepted from, and open until the test ends.
    std::mem::forget(full);
    (silent, waiting, hosts)
}

#[tokio::test]
async fn servers_out_of_reach_are_told_soon_with_address_and_cause() -> Result<()> {
    let (_silent, _waiting, [silent, full]) = black_holes().await;
    let mut cases = tokio::task::JoinSet::new();
    for scheme in SCHEMES {
        // Nobody listens at the port 1.
        for (host, cause, limit) in [
            ("127.0.0.1:1", "refused", 2),
            ("no-such-host.invalid:1", "lookup", 5),
            ("127.0.0.1:1,localhost:1", "refused", 2),
            (&full, "in time|deadline", 5),
            (&silent, "in time|deadline", 5),
        ] {
            let (host, may_be_silent) = (host.to_owned(), host == silent);
            cases.spawn(async move {
                let begin = Instant::now();
                let url = format!("{scheme}://{host}");
                let error = build(&url, "a").unwrap().start().await.unwrap_err();
                let (took, told) = (begin.elapsed(), causes(&error));
                println!("{url}: {took:?}: {told}");
                let is_silent = error.kind() == ErrorKind::TimedOut && may_be_silent;
                assert!(is_silent || error.kind() == ErrorKind::Connection, "{url}: {error:?}");
                assert!(took < Duration::from_secs(limit), "{url}: {took:?}");
                let address = host.rsplit(',').next().unwrap();
                assert!(error.to_string().contains(address), "{url}: {error}");
                assert!(cause.split('|').any(|text| told.contains(text)), "{url}: {told}");
            });
        }
    }
    cases.join_all().await;
    Ok(())
}

#[tokio::test]
async fn an_answer_without_end_is_refused() -> Result<()> {
    let server = server::endless::Endless::start().await;
    let url = format!("etcd3://127.0.0.1:{}", server.port);
    let error = build(&url, "a")?.start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Backend, "{error:?}");
    assert!(error.to_string().contains("64 MiB"), "{error}");
    let sent = server.sent.load(std::sync::atomic::Ordering::Relaxed);
    assert!(sent < 80 << 20, "{sent} bytes were taken");
    Ok(())
}

/// An error and what is underneath, as a person is shown it.
fn causes(error: &tooz_core::Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[tokio::test]
async fn tokens_that_a_change_of_users_made_old_are_renewed_by_one_login() -> Result<()> {
    if_asked_for!();
    let server = Cluster::with_jwt();
    let root = ["--user", "root:secret", "user", "add"];
    for scheme in SCHEMES {
        let port = server.nodes[0].port;
        let options = format!("timeout=6&namespace={}/", space(scheme));
        let a = start(&format!("{scheme}://root:secret@127.0.0.1:{port}?{options}"), "a").await?;
        let guard = a.lock("it")?.acquire().await?;
        a.join_group_create("group", &()).await?;

        server.ctl(&[&root[..], &[&format!("{scheme}-1:x")]].concat());
        assert!(guard.verify().await?, "{scheme}");
        guard.release().await?;
        let guard = a.lock("it")?.acquire().await?;

        // A watch with an old token.
        server.ctl(&[&root[..], &[&format!("{scheme}-2:x")]].concat());
        let mut events = a.watch_group("group").await?;
        let first = timeout(LONG, events.next()).await.expect("a snapshot");
        assert!(matches!(first, Some(GroupEvent::Snapshot(all)) if all.len() == 1), "{scheme}");

        // Many calls at once.
        server.ctl(&[&root[..], &[&format!("{scheme}-3:x")]].concat());
        let before = logins(&server);
        let calls = (0..100).map(|n| {
            let lock = a.lock(format!("l{n}"));
            tokio::spawn(async move { lock?.acquire().await?.release().await })
        });
        for call in calls.collect::<Vec<_>>() {
            timeout(LONG, call).await.unwrap().unwrap()?;
        }
        // The watch of the session may need another.
        let logins = logins(&server) - before;
        assert!(logins <= 3.0, "{scheme}: {logins} logins");
        guard.check()?;
        guard.release().await?;
        a.stop().await?;
    }
    Ok(())
}

/// How many there have been.
fn logins(server: &Cluster) -> f64 {
    let labels =
        r#"{grpc_method="Authenticate",grpc_service="etcdserverpb.Auth",grpc_type="unary"}"#;
    server.nodes[0].metric(&format!("grpc_server_started_total{labels}"))
}

#[tokio::test]
async fn refusals_are_clear_and_soon() -> Result<()> {
    if_asked_for!();
    let server = Cluster::start(1);
    server.ctl(&["user", "add", "root:root-secret"]);
    server.ctl(&["user", "add", "some:right"]);
    server.ctl(&["role", "add", "some"]);
    server.ctl(&["role", "grant-permission", "some", "--prefix=true", "readwrite", "mine/"]);
    server.ctl(&["user", "grant-role", "some", "some"]);
    server.ctl(&["auth", "enable"]);
    let port = server.nodes[0].port;
    for scheme in SCHEMES {
        let url = |login: &str, name: &str| {
            format!("{scheme}://{login}127.0.0.1:{port}?timeout=3&namespace={name}")
        };
        for refused in [url("", "mine/"), url("some:wrong@", "mine/"), url("some:right@", "other/")]
        {
            let begin = Instant::now();
            let error = build(&refused, "a")?.start().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Authentication, "{refused}: {error:?}");
            assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
            assert!(!format!("{error:?}").contains("wrong@"));
        }
        let allowed = start(&url("some:right@", "mine/"), "a").await?;
        allowed.lock("it")?.acquire().await?.release().await?;
        allowed.join_group_create("group", &()).await?;
        let mut events = allowed.watch_group("group").await?;
        assert!(matches!(events.next().await, Some(GroupEvent::Snapshot(_))));
        allowed.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn tokens_are_renewed() -> Result<()> {
    if_asked_for!();
    let mut server = Cluster::start(1);
    server.ctl(&["user", "add", "root:secret"]);
    server.ctl(&["auth", "enable"]);
    for scheme in SCHEMES {
        let port = server.nodes[0].port;
        let options = format!("timeout=10&namespace={}/", space(scheme));
        let url = format!("{scheme}://root:secret@127.0.0.1:{port}?{options}");
        let a = start(&url, "a").await?;
        let guard = a.lock("it")?.acquire().await?;
        a.join_group_create("group", &()).await?;
        let mut events = a.watch_group("group").await?;
        assert!(matches!(events.next().await, Some(GroupEvent::Snapshot(_))));
        // A server that starts again knows no token.
        server.nodes[0].kill();
        server.nodes[0].restart();
        assert!(guard.verify().await?);
        // The watch, too, needs a new one.
        assert_eq!(timeout(LONG, events.next()).await.unwrap(), Some(GroupEvent::Gap));
        let snapshot = timeout(LONG, events.next()).await.unwrap();
        assert!(matches!(snapshot, Some(GroupEvent::Snapshot(members)) if members.len() == 1));
        guard.check()?;
        guard.release().await?;
        a.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn both_transports_speak_tls_with_client_certificates() -> Result<()> {
    let Ok(url) = std::env::var("TOOZ_TEST_URL_ETCD3_TLS") else {
        eprintln!("not asked for: TOOZ_TEST_URL_ETCD3_TLS is not set");
        return Ok(());
    };
    for scheme in ["etcd3", "etcd3+https"] {
        let url = url.replacen("etcd3", scheme, 1);
        let a = start(&format!("{url}&timeout=5&namespace={}/", space(scheme)), "a").await?;
        let guard = a.lock("it")?.acquire().await?;
        assert!(guard.verify().await?);
        guard.release().await?;
        a.stop().await?;

        let (server, options) = url.split_once('?').unwrap();
        let ca = options.split('&').find(|option| option.starts_with("ca_cert=")).unwrap();
        for (refused, what) in [
            (format!("{server}?ssl=yes&timeout=5"), "the authority is not among the system's"),
            (format!("{server}?{ca}&timeout=5"), "no client certificate"),
        ] {
            let begin = Instant::now();
            let error = build(&refused, "a")?.start().await.unwrap_err();
            println!("{scheme}, {what}: {error}");
            assert!(begin.elapsed() < Duration::from_secs(6), "{what}");
            assert!(
                matches!(error.kind(), ErrorKind::Authentication | ErrorKind::Connection),
                "{what}: {error:?}"
            );
        }
    }
    Ok(())
}

/// That of v2 too, whose server is the same.
#[tokio::test]
async fn certificates_that_were_replaced_are_read_again() -> Result<()> {
    if_asked_for!();
    let folder = tempfile::tempdir().unwrap();
    let mut server = server::Node::with_tls(folder.path());
    let at = folder.path().display();
    let files =
        format!("ca_cert={at}/ca.pem&cert_cert={at}/client.pem&cert_key={at}/client-key.pem");
    let mut held = Vec::new();
    for scheme in ["etcd3", "etcd3+https", "etcd"] {
        let v2 = if scheme == "etcd" { "&protocol=https" } else { "" };
        let namespace = space(scheme);
        let url = format!(
            "{scheme}://127.0.0.1:{}?{files}&timeout=20&namespace={namespace}{v2}",
            server.port
        );
        let a = start(&url, "a").await?;
        let guard = a.lock("it")?.acquire().await?;
        held.push((scheme, a, guard));
    }
    server::certificates(folder.path());
    server.kill();
    server.restart();
    for (scheme, a, guard) in held {
        // The server may not be asked at once: whoever answers first may be the old connection.
        let begin = Instant::now();
        while let Err(error) = guard.verify().await {
            assert!(begin.elapsed() < Duration::from_secs(10), "{scheme}: {error:?}");
            sleep(Duration::from_millis(50)).await;
        }
        guard.check()?;
        guard.release().await?;
        a.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn each_version_of_the_gateway_is_found_or_named() -> Result<()> {
    if_asked_for!();
    let server = Cluster::start(1);
    for (version, works) in [("v3", true), ("v3beta", true), ("v3alpha", false)] {
        let url = server.url("etcd3+http", &format!("timeout=2&api_version={version}"));
        let started = start(&url, "a").await;
        // Servers of 3.4 and 3.5 have the first two.
        assert_eq!(started.is_ok(), works, "{version}: {started:?}");
        match started {
            Ok(a) => {
                a.lock("it")?.acquire().await?.release().await?;
                a.stop().await?;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Backend, "{error}"),
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_is_too_large_is_refused_and_costs_nothing_else() -> Result<()> {
    if_asked_for!();
    let server = Cluster::start(1);
    for scheme in SCHEMES {
        let options = format!("timeout=5&namespace={}/", space(scheme));
        let a = start(&server.url(scheme, &options), "a").await?;
        let guard = a.lock("it")?.acquire().await?;
        for name in ["n".repeat(150_000), "/".repeat(60_000)] {
            let error = a.lock(name)?.acquire().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
            assert!(error.to_string().contains("max_request_bytes=1572864"), "{error}");
        }
        // What can be acquired, after a wait too, can be released.
        for name in ["n".repeat(105_000), "/".repeat(44_000)] {
            for mode in [Mode::Exclusive, Mode::Shared] {
                let (lock, next) = (a.lock(name.clone())?, a.lock(name.clone())?);
                let held = lock.acquire_with(mode, Wait::Forever).await?.expect("no limit");
                let waiter = tokio::spawn(async move { next.acquire().await });
                held.release().await?;
                let held = timeout(LONG, waiter).await.unwrap().unwrap()?;
                held.release().await?;
            }
        }

        // Measured: the server takes 1,572,864 bytes.
        let capable = "c".repeat(1_572_000);
        a.join_group_create("group", &capable).await?;
        let member = a.member("group", "a").await?;
        assert_eq!(member.capabilities.decode::<String>()?, capable);
        let error = a.update_capabilities("group", &"c".repeat(1_573_000)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
        assert!(error.to_string().contains("max_request_bytes=1572864"), "{error}");

        // A driver that is told of a limit that the server does not have learns it from the server.
        let unaware = format!("{options}&max_request_bytes=99999999");
        let b = start(&server.url(scheme, &unaware), "b").await?;
        for size in [1_600_000, 3_000_000] {
            let error = b.join_group("group", &"c".repeat(size)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
        }
        guard.check()?;
        guard.release().await?;
        a.stop().await?;
        b.stop().await?;
    }
    Ok(())
}

// ---- Loss.

#[tokio::test]
async fn a_revoked_lease_is_told_at_once_and_the_group_joined_again() -> Result<()> {
    if_asked_for!();
    let server = Cluster::start(1);
    for scheme in SCHEMES {
        let a =
            start(&server.url(scheme, &format!("timeout=30&namespace={}/", space(scheme))), "a")
                .await?;
        a.join_group_create("group", &"able").await?;
        let guard = a.lock("it")?.acquire().await?;
        let mut events = a.session_events();
        let lock = format!("{}//tooz/locksit", space(scheme));
        let lease = server.ctl(&["get", &lock, "--write-out=json"]);
        let lease: serde_json::Value = serde_json::from_str(&lease).unwrap();
        let lease = format!("{:x}", lease["kvs"][0]["lease"].as_i64().unwrap());
        server.ctl(&["lease", "revoke", &lease]);
        let begin = Instant::now();
        let loss = timeout(Duration::from_secs(1), guard.lost()).await;
        assert_eq!(loss.expect("told within a second"), Loss::SessionEnded);
        println!("{scheme}: loss told after {:?}", begin.elapsed());
        loop {
            let left = Duration::from_secs(2).saturating_sub(begin.elapsed());
            match timeout(left, events.next()).await.expect("joined again within 2 s") {
                Some(SessionEvent::Rejoined(groups)) => break assert_eq!(groups, ["group".into()]),
                Some(_) => {}
                None => panic!("the events ended"),
            }
        }
        println!("{scheme}: joined again after {:?}", begin.elapsed());
        let member = a.member("group", "a").await?;
        assert_eq!(member.capabilities.decode::<String>()?, "able");
        a.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_removed_member_is_told_before_its_next_heartbeat() -> Result<()> {
    if_asked_for!();
    let server = Cluster::start(1);
    for scheme in SCHEMES {
        let url = server.url(scheme, "timeout=60");
        let removed = builder(&url, "removed")?.rejoin_when_removed(false).build()?;
        removed.start().await?;
        removed.join_group_create("group", &1).await?;
        removed.join_group_create("other", &1).await?;
        removed.update_capabilities("group", &2).await?;
        let mut events = removed.session_events();
        let operator = start(&url, "operator").await?;
        operator.remove_member("group", "removed").await?;
        // A third of 60 s is left to the next heartbeat.
        let told = timeout(LONG / 2, events.next()).await.expect("it is pushed");
        assert_eq!(told, Some(SessionEvent::Removed("group".into())));
        assert_eq!(operator.members("other").await?.len(), 1, "the other group is another's");

        // A member of Python's is no session of ours, so there is nobody to tell.
        let lease = server.ctl(&["lease", "grant", "60"]);
        let lease = lease.split(' ').nth(1).unwrap();
        server.ctl(&["put", "--lease", lease, "tooz/groups/group/python", ""]);
        operator.remove_member("group", "python").await?;
        assert!(operator.members("group").await?.is_empty());
        let attached = server.ctl(&["lease", "timetolive", lease, "--keys"]);
        assert!(attached.contains("attached keys([])"), "{attached}");
        removed.stop().await?;
        operator.stop().await?;
        server.ctl(&["del", "", "--prefix"]);
    }
    Ok(())
}

#[tokio::test]
async fn what_others_delete_is_noticed_by_the_next_heartbeat() -> Result<()> {
    if_asked_for!();
    let server = Cluster::start(1);
    for scheme in SCHEMES {
        let a = start(&server.url(scheme, "timeout=3"), "a").await?;
        a.join_group_create("group", &7).await?;
        let guard = a.lock("it")?.acquire().await?;
        let kept = a.lock("kept")?.acquire().await?;
        // As a Python peer breaks a lock.
        server.ctl(&["del", "/tooz/locksit"]);
        let loss = timeout(Duration::from_secs(3), guard.lost()).await;
        assert_eq!(loss.expect("noticed within an interval"), Loss::Taken);
        kept.check()?;
        server.ctl(&["del", "tooz/groups/group/a"]);
        eventually("the membership is renewed", || {
            !server.ctl(&["get", "tooz/groups/group/a", "--keys-only"]).trim().is_empty()
        })
        .await;
        assert_eq!(a.member("group", "a").await?.capabilities.decode::<u8>()?, 7);
        kept.check()?;
        a.stop().await?;
        server.ctl(&["del", "", "--prefix"]);
    }
    Ok(())
}

#[tokio::test]
async fn a_request_that_comes_late_leaves_nothing() -> Result<()> {
    if_asked_for!();
    let server = Cluster::start(1);
    let node = &server.nodes[0];
    // The session outlives the request.
    let options = "timeout=2&membership_timeout=20&lock_timeout=20";
    for scheme in SCHEMES {
        let (a, b) = (
            start(&server.url(scheme, options), "a").await?,
            start(&server.url(scheme, options), "b").await?,
        );
        node.signal("-STOP");
        let error = a.lock("it")?.try_acquire().await.unwrap_err();
        node.signal("-CONT");
        assert_eq!(error.outcome(), Outcome::Unknown, "{error:?}");
        // The server has carried it out by now, for nobody.
        let guard = b.lock("it")?.try_acquire_for(LONG).await?.expect("it is cancelled");
        guard.release().await?;
        a.stop().await?;
        b.stop().await?;
        eventually("nothing is left", || server.counts() == (0, 0)).await;
    }
    Ok(())
}

// ---- Watches.

#[tokio::test]
async fn a_watch_survives_compaction_and_tells_of_its_own_loss() -> Result<()> {
    if_asked_for!();
    let mut server = Cluster::start(1);
    for scheme in SCHEMES {
        let url = server.url(scheme, &format!("timeout=10&namespace={}/", space(scheme)));
        let (a, b) = (start(&url, "a").await?, start(&url, "b").await?);
        a.join_group_create("group", &()).await?;
        let mut events = a.watch_group("group").await?;
        assert!(matches!(events.next().await, Some(GroupEvent::Snapshot(_))));
        b.join_group("group", &()).await?;
        let joined = timeout(LONG, events.next()).await.unwrap();
        assert!(matches!(&joined, Some(GroupEvent::Joined(m)) if m.id == "b".into()), "{joined:?}");
        let status = server.ctl(&["get", "x", "--write-out=json"]);
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let revision = status["header"]["revision"].as_i64().unwrap().to_string();
        server.ctl(&["compact", &revision]);
        b.leave_group("group").await?;
        let left = timeout(LONG, events.next()).await.unwrap();
        assert!(matches!(&left, Some(GroupEvent::Left(m)) if m.id == "b".into()), "{left:?}");
        // The watch goes down with its server, and with what it would have told.
        server.nodes[0].kill();
        server.nodes[0].restart();
        assert_eq!(timeout(LONG, events.next()).await.unwrap(), Some(GroupEvent::Gap));
        let snapshot = timeout(LONG, events.next()).await.unwrap();
        assert!(matches!(snapshot, Some(GroupEvent::Snapshot(members)) if members.len() == 1));
        a.stop().await?;
        b.stop().await?;
    }
    Ok(())
}

// ---- The layout.

#[tokio::test]
async fn locks_are_where_python_has_them() -> Result<()> {
    if_asked_for!();
    let server = Cluster::start(1);
    for (options, key) in [("timeout=5", "/tooz/locksit"), ("timeout=5&layout=etcd3", "/locks/it")]
    {
        for scheme in SCHEMES {
            let a = start(&server.url(scheme, options), "a").await?;
            let guard = a.lock("it")?.acquire().await?;
            let found = server.ctl(&["get", key, "--write-out=json"]);
            let found: serde_json::Value = serde_json::from_str(&found).unwrap();
            // 16 bytes in base64.
            assert_eq!(found["kvs"][0]["value"].as_str().unwrap().len(), 24, "{found}");
            assert_eq!(found["kvs"][0]["create_revision"], guard.fencing_token().0);
            guard.release().await?;
            // Somebody of another kind has it, and gives it back.
            server.ctl(&["put", key, "sixteen bytes..."]);
            assert!(a.lock("it")?.try_acquire().await?.is_none());
            assert!(a.lock("it")?.try_acquire_shared().await?.is_none());
            let lock = a.lock("it")?;
            let waiting = tokio::spawn(async move { lock.acquire().await });
            eventually("it waits", || {
                server.ctl(&["get", "tooz-ext/queues/", "--prefix", "--keys-only"]).len() > 1
            })
            .await;
            server.ctl(&["del", key]);
            let guard = timeout(LONG, waiting).await.unwrap().unwrap()?;
            guard.release().await?;
            a.stop().await?;
        }
    }
    Ok(())
}
