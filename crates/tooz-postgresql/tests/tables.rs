//! Tables and catalogs that somebody has locked.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod server;

use std::time::{Duration, Instant};

use server::{Peer, Server, if_asked_for, schema_of, start};
use tokio::time::{sleep, timeout};
use tooz_core::{Registry, Result, SessionEvent};
use tooz_postgresql::DRIVER;

const SECOND: Duration = Duration::from_secs(1);

const TABLES: &str = "tooz_member, tooz_group, tooz_leader";

#[tokio::test]
async fn a_locked_table_costs_no_lock_no_term_and_no_member() -> Result<()> {
    if_asked_for!();
    let server = Server::postgresql(&[], |_| {});
    let url = server.url("timeout=2");
    // It does not try again for longer than the test.
    let a =
        Registry::new().with(DRIVER)?.builder(&url, "a")?.operation_timeout(2 * SECOND).build()?;
    a.start().await?;
    let b = start(&url, "b").await?;
    a.join_group_create("g", &7).await?;
    b.join_group("g", &8).await?;
    let term = a.campaign("g").await?;
    let free = a.lock("free")?.acquire().await?;
    let held = b.lock("waited-for")?.acquire().await?;
    let lock = a.lock("waited-for")?;
    let waiting = tokio::spawn(async move { lock.acquire().await });
    sleep(SECOND / 5).await;
    held.release().await?;
    let waited_for = waiting.await.unwrap()?;
    let mut watch = b.watch_group("g").await?;
    let (mut events, schema) = (a.session_events(), schema_of(&url));
    while timeout(SECOND, watch.next()).await.is_ok() {}

    let peer = Peer::at(server.port).await;
    peer.run(&format!("SET search_path TO {schema}; BEGIN; LOCK TABLE {TABLES}")).await;
    let begin = Instant::now();
    while begin.elapsed() < 3 * SECOND {
        term.check()?;
        free.check()?;
        waited_for.check()?;
        // Others are taken and given back as ever.
        let one = Instant::now();
        a.lock("other")?.acquire().await?.release().await?;
        assert!(one.elapsed() < SECOND, "{:?}", one.elapsed());
        sleep(SECOND / 10).await;
    }
    let error = a.members("g").await.unwrap_err();
    assert!(error.to_string().contains("locked"), "{error}");
    peer.run("COMMIT").await;
    assert!(term.verify().await? && free.verify().await? && waited_for.verify().await?);
    assert_eq!(b.members("g").await?.len(), 2, "they are members as before");
    let lost = async {
        loop {
            if let Some(SessionEvent::Lost(loss)) = events.next().await {
                return loss;
            }
        }
    };
    assert!(timeout(SECOND / 5, lost).await.is_err(), "no session was lost");
    assert!(timeout(SECOND / 5, watch.next()).await.is_err(), "nothing happened in the group");

    // A row that went while the table was locked is made again.
    peer.run(&format!("BEGIN; LOCK TABLE {TABLES}; DELETE FROM tooz_member")).await;
    sleep(SECOND / 5).await;
    peer.run("COMMIT").await;
    let begin = Instant::now();
    while b.members("g").await?.len() != 2 {
        assert!(begin.elapsed() < 10 * SECOND, "rejoined");
        sleep(SECOND / 20).await;
    }
    free.check()?;

    // A term can be given up while nobody can write who leads.
    peer.run(&format!("BEGIN; LOCK TABLE {TABLES}")).await;
    let begin = Instant::now();
    term.resign().await?;
    assert!(begin.elapsed() < 2 * SECOND, "{:?}", begin.elapsed());
    peer.run("COMMIT").await;
    let begin = Instant::now();
    while b.leader("g").await?.is_some() {
        assert!(begin.elapsed() < 10 * SECOND, "who leads no longer is not said to");
        sleep(SECOND / 20).await;
    }
    b.campaign("g").await?.resign().await?;
    a.stop().await?;
    b.stop().await
}

#[tokio::test]
async fn a_candidate_that_waits_locks_no_table() -> Result<()> {
    if_asked_for!();
    let server = Server::postgresql(&[], |_| {});
    let url = server.url("timeout=6");
    let (a, b) = (start(&url, "a").await?, start(&url, "b").await?);
    a.join_group_create("g", &()).await?;
    b.join_group("g", &()).await?;
    let term = a.campaign("g").await?;
    let candidate = b.clone();
    let waiting = tokio::spawn(async move { candidate.campaign("g").await });
    let peer = Peer::at(server.port).await;
    let queued = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    let begin = Instant::now();
    while peer.ask::<i64>(queued).await != 1 {
        assert!(begin.elapsed() < 10 * SECOND, "it waits");
        sleep(SECOND / 50).await;
    }
    let alter = format!("BEGIN; LOCK TABLE {}.tooz_leader; COMMIT", schema_of(&url));
    timeout(5 * SECOND, peer.run(&alter)).await.expect("nobody locks it");
    term.resign().await?;
    let term = timeout(5 * SECOND, waiting).await.unwrap().unwrap()?;
    assert_eq!(a.leader("g").await?, Some("b".into()));
    term.resign().await?;
    a.stop().await?;
    b.stop().await
}

/// `VACUUM FULL` of a whole database waits for catalogs as well.
#[tokio::test]
async fn locked_catalogs_cost_no_lock() -> Result<()> {
    if_asked_for!();
    let server = Server::postgresql(&[], |_| {});
    let url = server.url("timeout=2");
    let a = start(&url, "a").await?;
    let guard = a.lock("it")?.acquire().await?;
    a.heartbeat().await?;
    let peer = Peer::at(server.port).await;
    peer.run("BEGIN; LOCK TABLE pg_proc, pg_class, pg_type, pg_namespace, pg_attribute, pg_index, pg_authid").await;
    let begin = Instant::now();
    while begin.elapsed() < 3 * SECOND {
        guard.check()?;
        sleep(SECOND / 20).await;
    }
    peer.run("COMMIT").await;
    assert!(guard.verify().await?);
    a.stop().await
}
