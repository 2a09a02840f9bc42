//! Two holders: what the server forgets and the holder does not hear.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod proxy;
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use proxy::Proxy;
use server::{Server, if_asked_for, port_of, schema_of, shared, start};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tooz_core::{
    Acquisition, CoordinatorUrl, ErrorKind, Hold, LockName, Loss, Mode, Options, Result, Session,
    SessionEvent, WaitLimit,
};
use tooz_postgresql::DRIVER;

const SECOND: Duration = Duration::from_secs(1);

// ---- Two holders.

/// The holder hears nothing, and the server forgets. Whoever comes next must not hold it before
/// the holder knows.
async fn excludes(
    server: &mut Server,
    url: &str,
    forget: impl FnOnce(&mut Server, &Proxy),
) -> Result<()> {
    let proxy = Proxy::start(server.port).await;
    let (holder, rival) = (start(&proxy.url(url), "a").await?, start(url, "b").await?);
    let guard = holder.lock("it")?.acquire().await?;
    proxy.silence();
    forget(server, &proxy);
    let begin = Instant::now();
    let next = rival.lock("it")?.try_acquire_for(20 * SECOND).await?.expect("free in the end");
    println!("the next holder after {:?}", begin.elapsed());
    assert!(guard.check().is_err(), "both hold it");
    assert!(guard.fencing_token() < next.fencing_token());
    next.release().await?;
    rival.stop().await
}

#[tokio::test]
async fn a_server_that_restarts_grants_nothing_before_the_last_holder_knows() -> Result<()> {
    if_asked_for!();
    let mut server = Server::postgresql(&[], |_| {});
    let url = server.url("timeout=3");
    excludes(&mut server, &url, |server, _| server.restart()).await
}

#[tokio::test]
async fn a_server_that_crashes_grants_nothing_before_the_last_holder_knows() -> Result<()> {
    if_asked_for!();
    let mut server = Server::postgresql(&[], |_| {});
    let url = server.url("timeout=3");
    let started = server.psql("postgres", "SELECT pg_postmaster_start_time()");
    excludes(&mut server, &url, |server, _| {
        let some = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'tooz:%' LIMIT 1";
        server.crash(server.psql("postgres", some).parse().unwrap());
    })
    .await?;
    assert_eq!(started, server.psql("postgres", "SELECT pg_postmaster_start_time()"));
    // A role that may see nothing is told as well.
    server.psql(
        "postgres",
        "CREATE ROLE service LOGIN; GRANT CREATE ON DATABASE postgres TO service",
    );
    let url = server.url("timeout=3").replace("postgres@", "service@");
    excludes(&mut server, &url, |server, _| {
        let some = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'tooz:%' LIMIT 1";
        server.crash(server.psql("postgres", some).parse().unwrap());
    })
    .await
}

#[tokio::test]
async fn a_standby_that_became_the_primary_grants_nothing_before_the_last_holder_knows()
-> Result<()> {
    if_asked_for!();
    let primary = Server::postgresql(&["wal_level=replica", "max_wal_senders=3"], |_| {});
    let standby = Server::standby(&primary);
    let proxy = Proxy::start(primary.port).await;
    let url = primary.url("timeout=3");
    let holder = start(&proxy.url(&url), "a").await?;
    let guard = holder.lock("it")?.acquire().await?;
    let token = format!("SELECT last_value FROM {}.tooz_token", schema_of(&url));
    let there = format!("SELECT to_regclass('{}.tooz_hold') IS NOT NULL", schema_of(&url));
    let begin = Instant::now();
    while standby.psql("postgres", &there) != "t"
        || standby.psql("postgres", &token) < guard.fencing_token().to_string()
    {
        assert!(begin.elapsed() < 10 * SECOND, "the standby follows");
    }
    proxy.silence();
    standby.psql("postgres", "SELECT pg_promote()");
    let url = url.replace(&primary.port.to_string(), &standby.port.to_string());
    let rival = start(&url, "b").await?;
    let next = rival.lock("it")?.try_acquire_for(20 * SECOND).await?.expect("free in the end");
    assert!(guard.check().is_err(), "both hold it");
    next.release().await?;
    rival.stop().await
}

#[tokio::test]
async fn a_new_schema_and_a_server_that_is_old_enough_grant_at_once() -> Result<()> {
    if_asked_for!();
    let mut server = Server::postgresql(&[], |_| {});
    let url = server.url("timeout=30");
    for name in ["a", "b"] {
        let a = start(&url, name).await?;
        a.lock(name)?.try_acquire().await?.expect("nobody can have had it").release().await?;
        a.stop().await?;
    }
    server.restart();
    for (options, granted) in
        [("", false), ("&restart_grace=0", true), ("&restart_grace=0.1", true)]
    {
        let a = start(&format!("{url}{options}"), "a").await?;
        let guard = a.lock("it")?.try_acquire_for(2 * SECOND).await?;
        assert_eq!(guard.is_some(), granted, "{options}");
        a.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_lock_whose_holder_did_not_give_it_back_is_delayed() -> Result<()> {
    if_asked_for!();
    let mut server = Server::postgresql(&[], |_| {});
    let url = server.url("timeout=2&lock_delay=2");
    let (a, b) = (start(&url, "c").await?, start(&url, "d").await?);
    let begin = Instant::now();
    for _ in 0..5 {
        a.lock("it")?.try_acquire().await?.expect("given back").release().await?;
        b.lock("it")?.try_acquire().await?.expect("given back").release().await?;
    }
    let (one, two) =
        (a.lock("read")?.acquire_shared().await?, b.lock("read")?.acquire_shared().await?);
    one.release().await?;
    assert!(a.lock("read")?.try_acquire().await?.is_none(), "read by another");
    two.release().await?;
    a.lock("read")?.try_acquire().await?.expect("given back").release().await?;
    let (held, waiting) = (a.lock("it")?.acquire().await?, b.lock("it")?);
    let waiting = tokio::spawn(async move { waiting.acquire().await });
    held.release().await?;
    waiting.await.unwrap()?.release().await?;
    a.join_group_create("g", &()).await?;
    a.campaign("g").await?.resign().await?;
    a.campaign("g").await?.resign().await?;
    println!("all given back after {:?}", begin.elapsed());
    assert!(begin.elapsed() < 2 * SECOND, "no delay after a release");

    // Whoever waits and whoever tries again and again: neither gets it early.
    excludes(&mut server, &url, |_, proxy| proxy.cut_the_server()).await?;
    let left =
        server.psql("postgres", &format!("SELECT count(*) FROM {}.tooz_hold", schema_of(&url)));
    assert_eq!(left, "0", "nothing is left behind");
    let proxy = Proxy::start(server.port).await;
    let holder = start(&proxy.url(&url), "e").await?;
    let guard = holder.lock("it")?.acquire().await?;
    proxy.cut_the_server();
    let begin = Instant::now();
    let next = loop {
        if let Some(next) = b.lock("it")?.try_acquire().await? {
            break next;
        }
        assert!(begin.elapsed() < 20 * SECOND, "free in the end");
        sleep(Duration::from_millis(20)).await;
    };
    assert!(guard.check().is_err(), "both hold it");
    next.release().await?;
    a.stop().await?;
    b.stop().await
}

// ---- The end of a connection, unread.

async fn held_by_a_driver(
    url: &str,
) -> Result<(std::sync::Arc<dyn Session>, std::sync::Arc<dyn Hold>)> {
    let url: CoordinatorUrl = url.parse()?;
    let session = (DRIVER.open)(&url, Options::of(&url))?.connect(&"a".into()).await?;
    let acquisition = Acquisition::new(LockName::from("it"), Mode::Exclusive, WaitLimit::none());
    let hold = session.require_locks()?.acquire(acquisition).await?.expect("free");
    Ok((session, hold))
}

/// The runtime of the driver stands still as that of a process that was stopped: only a look at the
/// lease can find out.
fn is_told_to_who_looks(hold: &dyn Hold) {
    let begin = Instant::now();
    while hold.lease().is_held() {
        assert!(begin.elapsed() < 5 * SECOND, "the first look finds an end that nobody has read");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(hold.lease().loss(), Some(Loss::SessionEnded));
}

#[tokio::test]
async fn an_end_that_was_not_read_is_seen_by_the_first_look() -> Result<()> {
    if_asked_for!();
    let server = Server::postgresql(&[], |_| {});
    // The server says goodbye, and its words lie before the end.
    let (_session, hold) = held_by_a_driver(&server.url("timeout=60")).await?;
    let begin = Instant::now();
    for _ in 0..1_000 {
        assert!(hold.lease().is_held());
    }
    println!("a look takes {:?}", begin.elapsed() / 1_000);
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE application_name LIKE 'tooz:%'";
    server.psql("postgres", end);
    is_told_to_who_looks(&*hold);
    // A reset.
    let proxy = Proxy::on_a_thread(server.port);
    let (_session, hold) = held_by_a_driver(&proxy.url(&server.url("timeout=60"))).await?;
    assert!(hold.lease().is_held());
    proxy.reset_clients();
    is_told_to_who_looks(&*hold);
    Ok(())
}

#[tokio::test]
async fn a_lock_that_was_waited_for_ends_with_its_own_connection_unread() -> Result<()> {
    if_asked_for!();
    let server = Server::postgresql(&[], |_| {});
    let url = server.url("timeout=60");
    let other = start(&url, "b").await?;
    let held = other.lock("it")?.acquire().await?;
    let parsed: CoordinatorUrl = url.parse()?;
    let session = (DRIVER.open)(&parsed, Options::of(&parsed))?.connect(&"a".into()).await?;
    let acquisition =
        Acquisition::new(LockName::from("it"), Mode::Exclusive, WaitLimit::within(30 * SECOND));
    let (hold, released) = tokio::join!(session.require_locks()?.acquire(acquisition), async {
        sleep(SECOND / 2).await;
        held.release().await
    });
    released?;
    let hold = hold?.expect("given back");
    assert!(hold.lease().is_held());
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE application_name LIKE 'tooz:%:a' ORDER BY backend_start DESC LIMIT 1";
    server.psql("postgres", end);
    is_told_to_who_looks(&*hold);
    assert!(session.lease().is_held(), "the session has another");
    other.stop().await
}

#[tokio::test]
async fn a_dead_connection_is_replaced_at_every_timeout() -> Result<()> {
    if_asked_for!();
    let url = shared("");
    let mut all = tokio::task::JoinSet::new();
    for ttl in [1.0, 2.0, 6.0] {
        let proxy = Proxy::start(port_of(&url)).await;
        let url = format!("{}&timeout={ttl}", proxy.url(&shared("")));
        all.spawn(async move {
            let a = start(&url, "a").await?;
            a.join_group_create("g", &()).await?;
            let guard = a.lock("it")?.acquire().await?;
            let mut events = a.session_events();
            a.heartbeat().await?;
            let begin = Instant::now();
            proxy.silence_old();
            let ttl = Duration::from_secs_f64(ttl);
            let loss = timeout(ttl + SECOND, guard.lost()).await.expect("told by the deadline");
            println!("{ttl:?}: {loss} after {:?}", begin.elapsed());
            while !matches!(
                timeout(10 * SECOND, events.next()).await.expect("a new session"),
                Some(SessionEvent::Rejoined(_))
            ) {}
            println!("{ttl:?}: rejoined after {:?}", begin.elapsed());
            a.lock("it")?.acquire().await?.release().await?;
            a.stop().await
        });
    }
    all.join_all().await.into_iter().collect()
}

/// Needs no server: what answers is nobody's.
#[tokio::test]
async fn an_answer_without_end_is_refused() -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = taken.clone();
    let hostile = tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            client.read_u8().await.unwrap();
            // A request for authentication, as long as a message can be.
            let mut more = client.write_all(b"R\x7f\xff\xff\xff").await;
            while more.is_ok() {
                more = client.write_all(&[0; 1 << 16]).await;
                counted.fetch_add(1 << 16, SeqCst);
            }
        }
    });
    let url = format!("postgresql://nobody@127.0.0.1:{port}/postgres?sslmode=disable");
    let error = server::build(&url, "a")?.start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Backend, "{error:?}");
    assert!(error.to_string().contains("larger than 256 MiB"), "{error}");
    assert!(taken.load(SeqCst) < 64 << 20, "{taken:?} bytes were taken");
    hostile.abort();
    Ok(())
}
