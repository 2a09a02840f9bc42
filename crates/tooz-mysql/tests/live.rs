//! What the conformance kit does not ask: this backend's own errors, faults and costs.
//!
//! Each test runs on every server that the environment names, in a database of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod proxy;
mod settings;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tooz_core::{Coordinator, ErrorKind, LockGuard, Loss, Registry, Result, SessionEvent};
use tooz_mysql::inspect::Inspector;

use crate::proxy::{Fault, Proxy};
use crate::settings::Verdict;

/// How long anything may take that is not timed.
const SOON: Duration = Duration::from_secs(20);

/// A database on a server, with nobody else in it.
struct Place {
    url: String,
    inspector: Inspector,
    name: String,
}

impl Place {
    async fn new(server: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("tooz_live_{}_{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let admin = Inspector::connect(server).await?;
        admin.create_database(&name).await?;
        let (address, _) = server.split('?').next().unwrap().rsplit_once('/').unwrap();
        let url = format!("{address}/{name}");
        let inspector = Inspector::connect(&format!("{url}?namespace=n")).await?;
        inspector.prepare().await?;
        Ok(Self { url, inspector, name })
    }

    /// With a namespace, as plain lock names are the whole server's.
    async fn start(&self, member: &str, options: &str) -> Result<Coordinator> {
        let coordinator = build(&format!("{}?{options}", self.url), member)?;
        coordinator.start().await?;
        Ok(coordinator)
    }

    /// A proxy in front of the server, and the URL of the place by way of it.
    async fn behind_proxy(&self) -> (Proxy, String) {
        let (user, rest) = self.url.split_once('@').unwrap();
        let (address, database) = rest.split_once('/').unwrap();
        let proxy = Proxy::new(address).await;
        let url = format!("{user}@{}/{database}", proxy.address());
        (proxy, url)
    }

    async fn connections(&self) -> usize {
        self.inspector.connections().await.unwrap()
    }

    /// Waits until a member has the second connection by which it is woken.
    async fn listener_of(&self, member: &str) {
        let ask = format!(
            "SELECT CONVERT(s.listener,CHAR) FROM n_session s JOIN information_schema.PROCESSLIST p \
             ON p.ID=s.listener WHERE s.member_id='{member}' AND p.INFO LIKE '%GET_LOCK%'"
        );
        let start = Instant::now();
        while self.inspector.ask(&ask).await.unwrap().is_empty() {
            assert!(start.elapsed() < SOON, "{member} does not listen");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends the sessions of a member at the server.
    async fn kill(&self, member: &str) {
        assert!(self.inspector.end_sessions(&member.into()).await.unwrap() > 0);
    }

    async fn nothing_is_left(&self) {
        let start = Instant::now();
        loop {
            let left = self.inspector.residue().await.unwrap();
            if left.is_empty() {
                return;
            }
            assert!(start.elapsed() < SOON, "left: {left:?}");
            sleep(Duration::from_millis(10)).await;
        }
    }
}

fn build(url: &str, member: &str) -> Result<Coordinator> {
    Registry::new().with(tooz_mysql::DRIVER)?.builder(url, member)?.build()
}

/// The servers that the environment names.
fn servers() -> Vec<String> {
    ["TOOZ_TEST_URL_MYSQL", "TOOZ_TEST_URL_MARIADB"]
        .iter()
        .filter_map(|variable| std::env::var(variable).ok())
        .collect()
}

async fn everywhere(test: impl AsyncFn(&Place) -> Result<()>) -> Result<()> {
    for server in servers() {
        let place = Place::new(&server).await?;
        test(&place).await?;
        place.nothing_is_left().await;
        place.inspector.drop_database(&place.name).await?;
    }
    Ok(())
}

// ---- Errors.

#[tokio::test]
async fn refusals_are_clear() -> Result<()> {
    for server in servers() {
        let (scheme, rest) = server.split_once("://").unwrap();
        let (_, address) = rest.split_once('@').unwrap();
        let (host, _) = address.split_once('/').unwrap();
        for (url, kind) in [
            (format!("{scheme}://tooz:wrong@{address}"), ErrorKind::Authentication),
            (format!("{scheme}://tooz:tooz@{host}/no_such_database"), ErrorKind::InvalidInput),
            (format!("{scheme}://tooz:tooz@127.0.0.1:1/tooz"), ErrorKind::Connection),
        ] {
            let error = build(&url, "a")?.start().await.unwrap_err();
            assert_eq!(error.kind(), kind, "{error:?}");
            assert!(!format!("{error:?}").contains("wrong"), "{error:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_named_with_the_cause() -> Result<()> {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = silent.local_addr().unwrap().to_string();
    for (host, kind, cause) in [
        ("127.0.0.1:1", ErrorKind::Connection, "refused"),
        ("no-such-host.invalid", ErrorKind::Connection, "lookup"),
        (&silent[..], ErrorKind::TimedOut, "does not answer"),
    ] {
        let start = Instant::now();
        let error = build(&format!("mysql://u@{host}/d"), "a")?.start().await.unwrap_err();
        println!("{error:?} after {:?}", start.elapsed());
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(error.to_string().contains(host.split(':').next().unwrap()), "{error}");
        assert!(format!("{error:?}").contains(cause), "{error:?}");
        assert!(start.elapsed() < Duration::from_secs(5), "after {:?}", start.elapsed());
    }
    Ok(())
}

#[tokio::test]
async fn a_user_without_the_right_to_create_tables_is_told_what_to_do() -> Result<()> {
    for server in servers() {
        let admin = Inspector::connect(&server).await?;
        let name = format!("tooz_bare_{}", std::process::id());
        admin.create_database(&name).await?;
        admin
            .ask(&format!(
                "CREATE USER '{name}'@'%' IDENTIFIED BY 'bare';\
                 GRANT SELECT,INSERT,UPDATE,DELETE ON {name}.* TO '{name}'@'%'"
            ))
            .await?;
        let (_, address) = server.split_once('@').unwrap();
        let (host, _) = address.split_once('/').unwrap();
        let url = format!("mysql://{name}:bare@{host}/{name}");
        let error = build(&url, "a")?.start().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Authentication, "{error:?}");
        assert!(error.to_string().contains("schema.sql"), "{error}");
        // What it names is enough.
        let (address, _) = server.split_once("@").unwrap();
        let own = format!("{address}@{host}/{name}");
        Inspector::connect(&own).await?.ask(tooz_mysql::SCHEMA).await?;
        let a = build(&url, "a")?;
        a.start().await?;
        a.join_group_create("g", &1).await?;
        let guard = a.lock("it")?.acquire().await?;
        let b = build(&url, "b")?;
        b.start().await?;
        assert!(b.lock("it")?.break_lock().await?, "one user's sessions may wake each other");
        timeout(SOON, guard.lost()).await.expect("the loss of a broken lock");
        b.stop().await?;
        a.stop().await?;
        admin.ask(&format!("DROP USER '{name}'@'%'")).await?;
        admin.drop_database(&name).await?;
    }
    Ok(())
}

/// No server of the kind, or one that something in between has garbled.
#[tokio::test]
async fn malformed_answers_are_a_matter_of_the_connection() -> Result<()> {
    const GREETING: &[u8] =
        b"\x4a\0\0\0\n8.0.18\0\x19\0\0\0\x114aB0c\x06g\0\xff\xff\xff\x02\0\xff\xc7\
        \x15\0\0\0\0\0\0\0\0\0\0tL\x03s\x0f[4\rl4. \0caching_sha2_password\0";
    const WELCOME: &[u8] = b"\x07\0\0\x02\0\0\0\x02\0\0\0";
    // Cut in the greeting, and in the answer to the first statement.
    for answers in [
        vec![&b"\x01\0\0\0\n"[..]],
        vec![b"\x08\0\0\0\n8.0.18\0"],
        vec![b"\x10\0\0\0HTTP/1.1 400 Bad"],
        vec![GREETING, WELCOME, b"\x01\0\0\x01\xfc"],
        vec![GREETING, WELCOME, b"\x01\0\0\x01\0"],
    ] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                for (index, answer) in answers.iter().enumerate() {
                    if index > 0 {
                        let _ = client.read(&mut [0; 4_096]).await;
                    }
                    let _ = client.write_all(answer).await;
                }
                // Until the client gives up.
                let _ = client.read(&mut [0; 4_096]).await;
            }
        });
        let url = format!("mysql://u@{address}/d?ssl_mode=disabled&timeout=4");
        let started = timeout(SOON, build(&url, "a")?.start()).await.expect("an error");
        let error = started.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connection, "{error:?}");
        server.abort();
    }
    Ok(())
}

// ---- Faults.

#[tokio::test]
async fn the_loss_of_a_killed_session_is_told_within_a_second() -> Result<()> {
    everywhere(async |place| {
        let holder = place.start("holder", "namespace=n").await?;
        let waiter = place.start("waiter", "namespace=n").await?;
        // One lock that was free, and one that was waited for and so has a connection of its own.
        let free = holder.lock("free")?.acquire().await?;
        let waited = wait_for(&waiter, &holder, "waited").await?;
        for (member, guard) in [("holder", &free), ("waiter", &waited)] {
            let start = Instant::now();
            place.kill(member).await;
            let loss = timeout(Duration::from_secs(1), guard.lost()).await;
            assert_eq!(loss.ok(), Some(Loss::SessionEnded), "after {:?}", start.elapsed());
            println!("told after {:?}", start.elapsed());
        }
        holder.stop().await?;
        waiter.stop().await
    })
    .await
}

/// A lock that `coordinator` waited for until `other` released it.
async fn wait_for(coordinator: &Coordinator, other: &Coordinator, name: &str) -> Result<LockGuard> {
    let held = other.lock(name)?.acquire().await?;
    let lock = coordinator.lock(name)?;
    let waiting = tokio::spawn(async move { lock.acquire().await });
    // Nothing tells from outside that it waits; if it does not yet, it is free at once.
    sleep(Duration::from_millis(200)).await;
    held.release().await?;
    timeout(SOON, waiting).await.expect("the lock").unwrap()
}

#[tokio::test]
async fn the_connection_of_a_lock_that_was_waited_for_is_watched_too() -> Result<()> {
    everywhere(async |place| {
        let (a, b) =
            (place.start("a", "namespace=n").await?, place.start("b", "namespace=n").await?);
        let guard = wait_for(&a, &b, "it").await?;
        let kept = a.lock("kept")?.acquire().await?;
        let connection = place
            .inspector
            .ask(
                "SELECT CONVERT(connection,CHAR) FROM n_token t \
            WHERE token>1 AND connection NOT IN (SELECT connection FROM n_session)",
            )
            .await?;
        let [connection] = &connection[..] else { panic!("{connection:?}") };
        place.inspector.ask(&format!("KILL {connection}")).await?;
        let loss = timeout(Duration::from_secs(1), guard.lost()).await;
        assert_eq!(loss.ok(), Some(Loss::SessionEnded));
        kept.check()?;
        assert_eq!(guard.release().await.unwrap_err().kind(), ErrorKind::LockLost);
        assert!(b.lock("it")?.try_acquire_for(SOON).await?.is_some());
        a.stop().await?;
        b.stop().await
    })
    .await
}

#[tokio::test]
async fn a_member_whose_session_is_killed_is_back_within_two_seconds() -> Result<()> {
    everywhere(async |place| {
        let (a, b) =
            (place.start("a", "namespace=n").await?, place.start("b", "namespace=n").await?);
        a.join_group_create("g", &7).await?;
        let mut events = a.session_events();
        let start = Instant::now();
        place.kill("a").await;
        loop {
            let event = timeout(Duration::from_secs(2), events.next()).await.expect("in time");
            if let Some(SessionEvent::Rejoined(_)) = event {
                break;
            }
        }
        assert!(start.elapsed() <= Duration::from_secs(2), "after {:?}", start.elapsed());
        println!("rejoined after {:?}", start.elapsed());
        assert_eq!(b.member("g", "a").await?.capabilities.decode::<i32>()?, 7);
        a.stop().await?;
        b.stop().await
    })
    .await
}

#[tokio::test]
async fn a_silent_connection_is_dropped_by_the_server_after_the_deadline() -> Result<()> {
    everywhere(async |place| {
        let url = format!("{}?timeout=1&namespace=n", place.url);
        let builder = Registry::new().with(tooz_mysql::DRIVER)?.builder(&url, "a")?;
        let a = builder.heartbeat(tooz_core::Heartbeat::Manual).build()?;
        a.start().await?;
        let guard = a.lock("it")?.acquire().await?;
        let deadline = guard.deadline().expect("there is one");
        timeout(Duration::from_secs(1), guard.lost()).await.expect("lost at its deadline");
        assert!(Instant::now() + Duration::from_millis(20) >= deadline);
        let b = place.start("b", "namespace=n").await?;
        assert!(b.lock("it")?.try_acquire_for(SOON).await?.is_some());
        b.stop().await?;
        a.stop().await
    })
    .await
}

/// The holder's idle connections are reset, by a firewall say: the server frees what they hold, and
/// the next has it at once.
#[tokio::test]
async fn a_reset_is_told_before_the_next_holder_has_done_much() -> Result<()> {
    everywhere(async |place| {
        let next = place.start("next", "namespace=n").await?;
        let mut slowest = Duration::ZERO;
        for round in 0..8 {
            let (proxy, url) = place.behind_proxy().await;
            // What the server does not push is asked for so rarely that it is no help.
            let holder = build(&format!("{url}?namespace=n&poll_interval=10"), "holder")?;
            holder.start().await?;
            let free = holder.lock("free")?.acquire().await?;
            let waited = wait_for(&holder, &next, "waited").await?;
            place.listener_of("holder").await;
            let (lock, start) = (next.lock("free")?, Instant::now());
            proxy.inflict(Fault::Reset);
            let told = async {
                assert_eq!(free.lost().await, Loss::SessionEnded);
                assert_eq!(waited.lost().await, Loss::SessionEnded);
                start.elapsed()
            };
            let (told, held) = tokio::join!(
                async { timeout(SOON, told).await.expect("the loss is told") },
                lock.try_acquire_for(SOON)
            );
            println!("round {round}: told after {told:?}");
            slowest = slowest.max(told);
            held?.expect("it is free").release().await?;
            holder.stop().await?;
        }
        // Some ms, but on a busy machine; a look, or a heartbeat, comes after ten seconds.
        assert!(slowest < Duration::from_secs(1), "{slowest:?}");
        next.stop().await
    })
    .await
}

/// A dump reads every table, and an ALTER TABLE of each waits for it: whoever comes later waits behind.
#[tokio::test]
async fn locked_tables_end_no_lock_and_no_membership() -> Result<()> {
    const TABLES: [&str; 5] = ["session", "member", "token", "reader", "broken"];
    everywhere(async |place| {
        let other = place.start("other", "namespace=n").await?;
        let a = place.start("a", "namespace=n&timeout=2").await?;
        a.join_group_create("g", &()).await?;
        let kept = a.lock("kept")?.acquire().await?;
        let released = a.lock("released")?.acquire().await?;
        let shared = a.lock("shared")?.acquire_shared().await?;
        let shared_released = a.lock("shared released")?.acquire_shared().await?;
        let waited = wait_for(&a, &other, "waited").await?;
        let mut events = a.session_events();
        let url = format!("{}?namespace=n", place.url);
        let dump = Inspector::connect(&url).await?;
        let read = TABLES.map(|table| format!("SELECT 1 FROM n_{table} LIMIT 1")).join(";");
        dump.ask(&format!("START TRANSACTION;{read}")).await?;
        let mut alters = JoinSet::new();
        for table in TABLES {
            let alter = Inspector::connect(&url).await?;
            alters.spawn(async move {
                let sql =
                    format!("SET SESSION lock_wait_timeout=60;ALTER TABLE n_{table} COMMENT='x'");
                alter.ask(&sql).await
            });
        }
        let start = Instant::now();
        let waiting = "SELECT CONVERT(ID,CHAR) FROM information_schema.PROCESSLIST \
                       WHERE INFO LIKE 'ALTER TABLE n_%' AND STATE LIKE 'Waiting for table%'";
        while place.inspector.ask(waiting).await?.len() < TABLES.len() {
            assert!(start.elapsed() < SOON, "the tables are not locked");
            sleep(Duration::from_millis(10)).await;
        }
        let start = Instant::now();
        let error = a.lock("new")?.try_acquire().await.unwrap_err();
        println!("{error} after {:?}", start.elapsed());
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error:?}");
        assert!(error.to_string().contains("locked"), "{error}");
        let lock = a.lock("later")?;
        let later = tokio::spawn(async move { lock.acquire().await });
        // Nothing that is given back needs the tables.
        released.release().await?;
        shared_released.release().await?;
        // Twice the time after which the server, or we, would have given up what is silent.
        while start.elapsed() < Duration::from_secs(4) {
            for guard in [&kept, &shared, &waited] {
                guard.check().expect("it is held");
            }
            sleep(Duration::from_millis(50)).await;
        }
        assert!(kept.verify().await?);
        dump.ask("COMMIT").await?;
        while let Some(altered) = alters.join_next().await {
            altered.unwrap()?;
        }
        timeout(SOON, later).await.expect("the lock").unwrap()?.release().await?;
        for guard in [kept, shared, waited] {
            guard.release().await?;
        }
        assert_eq!(other.members("g").await?.len(), 1);
        let lost = async {
            while let Some(event) = events.next().await {
                assert!(
                    !matches!(event, SessionEvent::Lost(_) | SessionEvent::Rejoined(_)),
                    "{event:?}"
                );
            }
        };
        assert!(timeout(Duration::from_millis(1), lost).await.is_err(), "the session goes on");
        a.stop().await?;
        other.stop().await
    })
    .await
}

#[tokio::test]
async fn a_removed_member_is_woken() -> Result<()> {
    everywhere(async |place| {
        let a = place.start("a", "namespace=n&poll_interval=10").await?;
        let b = place.start("b", "namespace=n").await?;
        a.join_group_create("g", &7).await?;
        place.listener_of("a").await;
        let mut events = a.watch_group("g").await?;
        let start = Instant::now();
        b.remove_member("g", "a").await?;
        let rejoined = async {
            while let Some(event) = events.next().await {
                if event == tooz_core::GroupEvent::Rejoined {
                    return;
                }
            }
        };
        timeout(Duration::from_secs(5), rejoined).await.expect("far sooner than by its own look");
        println!("back after {:?}", start.elapsed());
        assert_eq!(b.member("g", "a").await?.capabilities.decode::<i32>()?, 7);
        a.stop().await?;
        b.stop().await
    })
    .await
}

/// Established connections are dead, and new ones work. What a connection holds at the server cannot
/// be taken over by another: it is lost at the deadline, no later, and the session is back at once.
#[tokio::test]
async fn a_dead_connection_costs_what_it_held_and_no_more() -> Result<()> {
    everywhere(async |place| {
        let mut tasks = JoinSet::new();
        for ttl in [1, 2, 4] {
            let (proxy, url) = place.behind_proxy().await;
            tasks.spawn(async move {
                let (ttl, id) = (Duration::from_secs(ttl), format!("a{ttl}"));
                let a = build(&format!("{url}?namespace=n&timeout={}", ttl.as_secs()), &id)?;
                a.start().await?;
                a.join_group_create(&id[..], &()).await?;
                let guard = a.lock(&id[..])?.acquire().await?;
                let mut events = a.session_events();
                let start = Instant::now();
                proxy.inflict(Fault::Silence);
                timeout(SOON, guard.lost()).await.expect("lost");
                let lost = start.elapsed();
                while !matches!(
                    timeout(SOON, events.next()).await.expect("back"),
                    Some(SessionEvent::Rejoined(_))
                ) {}
                println!("{ttl:?}: lost after {lost:?}, back after {:?}", start.elapsed());
                // On a busy machine a timer may be late.
                assert!(lost < ttl * 9 / 10 + Duration::from_millis(500), "after {lost:?}");
                // The server frees the membership only after the timeout, so it is taken over.
                assert!(start.elapsed() < ttl + Duration::from_secs(5));
                // Held by the dead connection as long as the server knows of it.
                a.lock(&id[..])?
                    .try_acquire_for(SOON)
                    .await?
                    .expect("free by then")
                    .release()
                    .await?;
                a.stop().await
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap()?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_is_too_large_for_the_server_is_refused_and_ends_nothing() -> Result<()> {
    everywhere(async |place| {
        // The server's own limit takes seconds to fill without optimization.
        let most = 1_048_576;
        let limit = "SELECT CONVERT(@@GLOBAL.max_allowed_packet,CHAR)";
        let before = place.inspector.ask(limit).await?;
        place.inspector.ask(&format!("SET GLOBAL max_allowed_packet={most}")).await?;
        let a = place.start("a", "namespace=n").await?;
        place.inspector.ask(&format!("SET GLOBAL max_allowed_packet={}", before[0])).await?;
        a.create_group("g").await?;
        let guard = a.lock("it")?.acquire().await?;
        let error = a.join_group("g", &"x".repeat(most / 2)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
        // As the page says.
        a.join_group("g", &"x".repeat(most / 2 - 8_192)).await?;
        assert_eq!(a.members("g").await?.len(), 1);
        guard.check()?;
        guard.release().await?;
        a.stop().await
    })
    .await
}

// ---- The server forgets, and the holder does not hear it.

/// Something between ends the server's side alone.
#[tokio::test]
async fn what_was_not_given_back_is_granted_after_the_delay() -> Result<()> {
    everywhere(async |place| {
        const OPTIONS: &str = "namespace=n&timeout=2&lock_delay=2";
        let next = place.start("next", OPTIONS).await?;
        // Given back, it is free at once.
        next.lock("it")?.acquire().await?.release().await?;
        next.lock("it")?.acquire_shared().await?.release().await?;
        wait_for(&next, &next, "it").await?.release().await?;
        for (held_shared, next_shared) in [(false, false), (false, true), (true, false)] {
            let (proxy, url) = place.behind_proxy().await;
            let holder = build(&format!("{url}?{OPTIONS}"), "holder")?;
            holder.start().await?;
            let take = async |coordinator: &Coordinator, shared| {
                let lock = coordinator.lock("it")?;
                if shared { lock.acquire_shared().await } else { lock.acquire().await }
            };
            let held = take(&holder, held_shared).await?;
            let start = Instant::now();
            proxy.inflict(Fault::Deaf);
            let granted = timeout(SOON, take(&next, next_shared)).await.expect("the lock")?;
            println!("granted after {:?}", start.elapsed());
            assert!(held.check().is_err(), "two holders after {:?}", start.elapsed());
            assert!(start.elapsed() >= Duration::from_secs(2), "the delay");
            granted.release().await?;
            drop((held, proxy));
            holder.stop().await?;
        }
        // Who does not wait for the end of the delay does not get it, and does not start it anew.
        let (proxy, url) = place.behind_proxy().await;
        let holder = build(&format!("{url}?{OPTIONS}"), "holder")?;
        holder.start().await?;
        let held = holder.lock("it")?.acquire().await?;
        proxy.inflict(Fault::Deaf);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(1) {
            assert!(next.lock("it")?.try_acquire().await?.is_none());
            sleep(Duration::from_millis(100)).await;
        }
        let granted = next.lock("it")?.try_acquire_for(SOON).await?.expect("it is free");
        assert!(held.check().is_err());
        println!("granted after {:?}", start.elapsed());
        granted.release().await?;
        // Nobody is in the way of what waits, while the connection that has it is heard of.
        assert!(next.lock("it")?.try_acquire().await?.is_some());
        drop((held, proxy));
        holder.stop().await?;
        next.stop().await
    })
    .await
}

/// The server restarts, and the holder is cut off: it believes in its lock until its deadline.
#[tokio::test]
async fn a_server_that_may_have_forgotten_grants_nothing_for_a_while() -> Result<()> {
    if std::env::var_os("TOOZ_TEST_URL_MARIADB").is_none() {
        return Ok(());
    }
    let mut server = Server::new();
    let place = Place::new(&server.url()).await?;
    let next = place.start("next", "namespace=n&timeout=6").await?;
    assert!(next.lock("it")?.try_acquire().await?.is_some(), "a new server has nothing to forget");
    // The tables are older than the server is going to be, in whole seconds.
    let age = "SELECT 'old' FROM information_schema.TABLES WHERE TABLE_SCHEMA=DATABASE() \
               HAVING MAX(CREATE_TIME)<NOW()-INTERVAL 4 SECOND";
    let start = Instant::now();
    while place.inspector.ask(age).await?.is_empty() {
        assert!(start.elapsed() < SOON);
        sleep(Duration::from_millis(50)).await;
    }
    next.stop().await?;
    for (grace, waits) in [("", true), ("&restart_grace=0", false)] {
        let (proxy, url) = place.behind_proxy().await;
        let holder = build(&format!("{url}?namespace=n&timeout=6{grace}"), "holder")?;
        holder.start().await?;
        let held = holder.lock("it")?.try_acquire_for(SOON).await?.expect("it is free");
        proxy.inflict(Fault::Deaf);
        server.restart();
        let next = place.start("next", &format!("namespace=n&timeout=6{grace}")).await?;
        let tried = next.lock("it")?.try_acquire().await?;
        assert_eq!(tried.is_none(), waits);
        drop(tried);
        let granted = next.lock("it")?.try_acquire_for(SOON).await?.expect("the lock");
        if waits {
            assert!(held.check().is_err(), "two holders");
        }
        granted.release().await?;
        drop((held, proxy));
        next.stop().await?;
        holder.stop().await?;
    }
    Ok(())
}

/// A MariaDB of its own, in a directory that goes with it.
struct Server {
    folder: tempfile::TempDir,
    port: u16,
    process: std::process::Child,
}

impl Server {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let users = "CREATE DATABASE IF NOT EXISTS tooz;\n\
                     CREATE USER IF NOT EXISTS tooz@'127.0.0.1' IDENTIFIED BY 'tooz';\n\
                     GRANT ALL ON *.* TO tooz@'127.0.0.1';\n";
        std::fs::write(folder.path().join("init.sql"), users).unwrap();
        let mut install = Self::command("mariadb-install-db", &folder);
        install.args(["--auth-root-authentication-method=normal", "--skip-test-db"]);
        assert!(install.stdout(std::process::Stdio::null()).status().unwrap().success());
        let process = Self::serve(&folder, port);
        Self { folder, port, process }
    }

    fn command(program: &str, folder: &tempfile::TempDir) -> std::process::Command {
        let user = std::process::Command::new("id").arg("-un").output().unwrap().stdout;
        let mut command = std::process::Command::new(program);
        command.arg("--no-defaults");
        command.arg(format!("--datadir={}", folder.path().join("data").display()));
        command.arg(format!("--user={}", String::from_utf8(user).unwrap().trim()));
        command
    }

    fn serve(folder: &tempfile::TempDir, port: u16) -> std::process::Child {
        let mut command = Self::command("mariadbd", folder);
        command.args(["--bind-address=127.0.0.1", "--skip-name-resolve", "--skip-log-bin"]);
        command.arg(format!("--port={port}"));
        for (option, file) in
            [("socket", "socket"), ("init-file", "init.sql"), ("log-error", "log")]
        {
            command.arg(format!("--{option}={}", folder.path().join(file).display()));
        }
        let process = command.spawn().unwrap();
        let start = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(start.elapsed() < SOON, "the server does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        process
    }

    fn url(&self) -> String {
        format!("mysql://tooz:tooz@127.0.0.1:{}/tooz", self.port)
    }

    /// After a crash.
    fn restart(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = Self::serve(&self.folder, self.port);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

// ---- Settings.

/// Defaults that a server or a user may have, each far from ours. One statement a row, for a server
/// that does not know the variable refuses it.
const HOSTILE: [(&str, &str); 27] = [
    ("wait_timeout", "1"),
    ("net_read_timeout", "1"),
    ("net_write_timeout", "1"),
    ("lock_wait_timeout", "1"),
    ("innodb_lock_wait_timeout", "1"),
    ("autocommit", "0"),
    ("completion_type", "2"),
    ("sql_mode", "'ANSI'"),
    ("sql_select_limit", "1"),
    ("max_join_size", "1"),
    ("sql_big_selects", "0"),
    ("sql_safe_updates", "1"),
    ("sql_auto_is_null", "1"),
    ("max_sort_length", "64"),
    ("foreign_key_checks", "0"),
    ("unique_checks", "0"),
    ("time_zone", "'+05:00'"),
    ("max_statement_time", "0.5"),
    ("idle_transaction_timeout", "1"),
    ("idle_readonly_transaction_timeout", "1"),
    ("idle_write_transaction_timeout", "1"),
    ("max_execution_time", "500"),
    ("transaction_isolation", "'READ-UNCOMMITTED'"),
    ("tx_isolation", "'READ-UNCOMMITTED'"),
    ("transaction_read_only", "1"),
    ("tx_read_only", "1"),
    ("character_set_results", "latin1"),
];

impl Place {
    /// The variables that a session may have of its own.
    async fn session_variables(&self) -> Result<Vec<String>> {
        let mysql = "SELECT VARIABLE_NAME FROM performance_schema.variables_metadata \
                     WHERE VARIABLE_SCOPE<>'GLOBAL'";
        let mariadb = "SELECT LOWER(VARIABLE_NAME) FROM information_schema.SYSTEM_VARIABLES \
                       WHERE VARIABLE_SCOPE<>'GLOBAL'";
        let maria = self.inspector.ask("SELECT VERSION()").await?[0].contains("MariaDB");
        self.inspector.ask(if maria { mariadb } else { mysql }).await
    }
}

#[tokio::test]
async fn each_session_variable_of_the_server_has_a_verdict() -> Result<()> {
    everywhere(async |place| {
        let variables = place.session_variables().await?;
        assert!(variables.len() > 100, "{variables:?}");
        let unknown: Vec<_> =
            variables.iter().filter(|name| settings::verdict(name).is_none()).collect();
        assert!(unknown.is_empty(), "set, check or call harmless: {unknown:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_defaults_of_the_server_change_nothing() -> Result<()> {
    everywhere(async |place| {
        let known = place.session_variables().await?;
        let set: Vec<_> =
            known.iter().filter(|name| settings::verdict(name) == Some(Verdict::Set)).collect();
        let values = async || {
            let inspector = Inspector::connect(&format!("{}?namespace=n", place.url)).await?;
            let mut values = Vec::new();
            for name in &set {
                let ask = format!("SELECT CONVERT(@@SESSION.{name},CHAR)");
                values.push((name.to_string(), inspector.ask(&ask).await?));
            }
            Ok::<_, tooz_core::Error>(values)
        };
        let before = values().await?;
        let hostile: Vec<_> =
            HOSTILE.iter().filter(|(name, _)| known.iter().any(|known| known == name)).collect();
        assert!(hostile.len() > 20, "{hostile:?}");
        for (name, value) in &hostile {
            place.inspector.ask(&format!("SET GLOBAL {name}={value}")).await?;
        }
        let result = async {
            assert_eq!(values().await?, before);
            let mut members = Vec::new();
            for id in ["a", "b", "c"] {
                let member = place.start(id, "namespace=n").await?;
                member.join_group_create("g", &()).await?;
                members.push(member);
            }
            for member in &members {
                assert_eq!(member.members("g").await?.len(), 3);
            }
            let [a, b, _] = &members[..] else { panic!() };
            let guard = a.lock("it")?.acquire_shared().await?;
            assert!(b.lock("it")?.try_acquire().await?.is_none());
            guard.release().await?;
            wait_for(a, b, "it").await?.release().await?;
            for member in members {
                member.stop().await?;
            }
            Ok::<_, tooz_core::Error>(())
        };
        // What they are must be put right again, whatever happens.
        let result = AssertUnwindSafe(timeout(SOON, result)).catch_unwind().await;
        for (name, _) in &hostile {
            place.inspector.ask(&format!("SET GLOBAL {name}=DEFAULT")).await?;
        }
        result.expect("no assertion failed").expect("in time")
    })
    .await
}

// ---- Names.

#[tokio::test]
async fn plain_names_are_those_of_the_original() -> Result<()> {
    everywhere(async |place| {
        let name = format!("original-{}", place.name);
        let a = place.start("a", "").await?;
        let guard = a.lock(&name[..])?.acquire().await?;
        let ask = format!("SELECT CONVERT(GET_LOCK('{name}',0),CHAR)");
        assert_eq!(place.inspector.ask(&ask).await?, ["0"], "the original finds it taken");
        guard.release().await?;
        assert_eq!(place.inspector.ask(&ask).await?, ["1"]);
        assert!(a.lock(&name[..])?.try_acquire().await?.is_none(), "and we what it took");
        let free = format!("SELECT CONVERT(RELEASE_LOCK('{name}'),CHAR)");
        assert_eq!(place.inspector.ask(&free).await?, ["1"]);
        // Names that differ in their case only are two locks, on MySQL too, unless the original's
        // layout is asked for, where they might be one.
        let other = place.start("other", "").await?;
        let (upper, lower) =
            (a.lock("Case")?.acquire().await?, other.lock("case")?.try_acquire().await?);
        assert!(lower.is_some());
        drop((upper, lower));
        let python = place.start("python", "layout=python").await?;
        let one = python.lock("Case")?.try_acquire_for(SOON).await?.expect("it is free");
        assert!(python.lock("CASE")?.try_acquire().await?.is_none());
        one.release().await?;
        for coordinator in [a, other, python] {
            coordinator.stop().await?;
        }
        Ok(())
    })
    .await
}

// ---- Costs.

#[tokio::test]
async fn a_thousand_locks_take_two_connections() -> Result<()> {
    everywhere(async |place| {
        let a = place.start("a", "namespace=n").await?;
        let mut guards = Vec::new();
        for n in 0..1_000 {
            guards.push(a.lock(format!("lock-{n}"))?.acquire().await?);
        }
        let connections = place.connections().await;
        assert!(connections <= 2, "{connections} connections");
        a.heartbeat().await?;
        for guard in guards {
            guard.check()?;
            guard.release().await?;
        }
        a.stop().await
    })
    .await
}

/// To open a connection with TLS takes MySQL 50 ms. Who waits again and again pays for it once.
#[tokio::test]
async fn the_next_wait_finds_the_connection_of_the_last() -> Result<()> {
    everywhere(async |place| {
        let (a, b) =
            (place.start("a", "namespace=n").await?, place.start("b", "namespace=n").await?);
        let mut least = Duration::MAX;
        for _ in 0..20 {
            let guard = a.lock("it")?.acquire().await?;
            let (lock, start) = (b.lock("it")?, Instant::now());
            let waiting = tokio::spawn(async move { lock.acquire().await });
            sleep(Duration::from_millis(5)).await;
            guard.release().await?;
            let guard = timeout(SOON, waiting).await.expect("its turn").unwrap()?;
            least = least.min(start.elapsed());
            guard.release().await?;
        }
        assert!(least < Duration::from_millis(25), "the fastest wait took {least:?}");
        a.stop().await?;
        b.stop().await
    })
    .await
}

#[tokio::test]
async fn fifty_waiters_of_one_lock_take_one_connection_each_coordinator() -> Result<()> {
    everywhere(async |place| {
        let (a, b) =
            (place.start("a", "namespace=n").await?, place.start("b", "namespace=n").await?);
        let guard = a.lock("it")?.acquire().await?;
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        let mut waiters = JoinSet::new();
        for n in 0..50 {
            let (lock, order) = (b.lock("it")?, order.clone());
            waiters.spawn(async move {
                let guard = lock.acquire().await?;
                order.lock().unwrap().push((n, guard.fencing_token()));
                guard.release().await
            });
            // In this order into the queue.
            tokio::task::yield_now().await;
        }
        sleep(Duration::from_millis(300)).await;
        // Two of the holder; one of the waiter, which has nothing to lose, and one that waits.
        let connections = place.connections().await;
        assert!(connections <= 4, "{connections} connections");
        guard.release().await?;
        while let Some(released) = timeout(SOON, waiters.join_next()).await.expect("the next") {
            released.unwrap()?;
        }
        let order = order.lock().unwrap().clone();
        assert_eq!(order.len(), 50);
        assert!(order.windows(2).all(|two| two[0].1 < two[1].1), "tokens rise: {order:?}");
        a.stop().await?;
        b.stop().await
    })
    .await
}

#[tokio::test]
async fn abandoned_waits_leave_no_session_and_no_lock() -> Result<()> {
    everywhere(async |place| {
        let (a, b) =
            (place.start("a", "namespace=n").await?, place.start("b", "namespace=n").await?);
        for shared in [false, true] {
            for delay in [0, 1, 2, 5, 10, 20, 50] {
                let guard = a.lock("it")?.acquire().await?;
                let lock = b.lock("it")?;
                let wait = async {
                    if shared { lock.acquire_shared().await } else { lock.acquire().await }
                };
                assert!(timeout(Duration::from_millis(delay), wait).await.is_err(), "it was held");
                guard.release().await?;
            }
        }
        let guard = a.lock("it")?.try_acquire_for(SOON).await?;
        guard.expect("it is free").release().await?;
        a.stop().await?;
        b.stop().await
        // `everywhere` looks for what is left: a lock is a session's, and there is none.
    })
    .await
}

#[tokio::test]
async fn waiting_shared_and_exclusive_holders_of_many_processes_never_meet() -> Result<()> {
    everywhere(async |place| {
        let inside = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
        let mut tasks = JoinSet::new();
        for n in 0..6 {
            let (coordinator, inside) =
                (place.start(&format!("m{n}"), "namespace=n").await?, inside.clone());
            tasks.spawn(async move {
                for round in 0..15 {
                    let shared = (n + round) % 3 != 0;
                    let lock = coordinator.lock("it")?;
                    let guard =
                        if shared { lock.acquire_shared().await? } else { lock.acquire().await? };
                    let [readers, writers] = &*inside;
                    let own = if shared { readers } else { writers };
                    own.fetch_add(1, Relaxed);
                    sleep(Duration::from_millis(1)).await;
                    let (r, w) = (readers.load(Relaxed), writers.load(Relaxed));
                    guard.check()?;
                    assert!(if shared { w == 0 } else { r == 0 && w == 1 }, "{r} and {w} together");
                    own.fetch_sub(1, Relaxed);
                    guard.release().await?;
                }
                coordinator.stop().await
            });
        }
        while let Some(done) = timeout(SOON, tasks.join_next()).await.expect("the next") {
            done.unwrap()?;
        }
        Ok(())
    })
    .await
}

/// A shared holder that registers is in the way of another transaction, and withdraws; an exclusive
/// one has found it by then, and waits for its own lock, which it gets in that moment.
#[tokio::test]
async fn a_shared_holder_registers_again_after_a_conflict() -> Result<()> {
    everywhere(async |place| {
        let a = place.start("a", "namespace=n&timeout=4").await?;
        a.lock("it")?.acquire().await?.release().await?;
        let url = format!("{}?namespace=n", place.url);
        let (row, writer) = (Inspector::connect(&url).await?, Inspector::connect(&url).await?);
        row.ask("START TRANSACTION;SELECT name FROM n_token FOR UPDATE").await?;
        let lock = a.lock("it")?;
        let acquiring = tokio::spawn(async move { lock.acquire_shared().await });
        let start = Instant::now();
        let own = loop {
            let found = place
                .inspector
                .ask("SELECT CONCAT('tooz.r.',LOWER(HEX(operation))) FROM n_reader")
                .await?;
            if let [own] = &found[..] {
                break own.clone();
            }
            assert!(start.elapsed() < SOON, "it does not register");
        };
        // Until the server gives up on the row, and the shared holder withdraws.
        assert_eq!(writer.ask(&format!("SELECT CONVERT(GET_LOCK('{own}',20),CHAR)")).await?, ["1"]);
        row.ask("ROLLBACK").await?;
        writer.ask(&format!("DO RELEASE_LOCK('{own}')")).await?;
        let guard = timeout(SOON, acquiring).await.expect("the lock").unwrap()?;
        guard.release().await?;
        drop((row, writer));
        a.stop().await
    })
    .await
}

// ---- Transports.

#[tokio::test]
async fn sockets_and_tls_by_their_usual_names() -> Result<()> {
    for server in servers() {
        let admin = Inspector::connect(&server).await?;
        let one = async |sql: &str| admin.ask(sql).await.map(|mut rows| rows.pop().unwrap());
        let name = format!("tooz_tls_{}", std::process::id());
        admin
            .ask(&format!(
                "CREATE USER '{name}'@'%' IDENTIFIED BY 'p w';GRANT ALL ON tooz.* TO '{name}'@'%'"
            ))
            .await?;
        let (_, address) = server.split_once('@').unwrap();
        let (host, _) = address.split_once('/').unwrap();
        let url = |options: &str| format!("mysql://{name}:p%20w@{host}/tooz?{options}");
        let works = async |url: &str| -> Result<()> {
            let a = build(url, "a")?;
            a.start().await?;
            a.stop().await
        };
        let socket = one("SELECT @@socket").await?;
        let mysql = !one("SELECT VERSION()").await?.contains("MariaDB");
        if mysql {
            works(&url("ssl_mode=required")).await?;
            let ca = one("SELECT CONCAT(@@datadir,@@ssl_ca)").await?;
            works(&url(&format!("ssl_mode=VERIFY_CA&ssl_ca={ca}"))).await?;
            // A file that was replaced counts for the next connection.
            let file = tempfile::NamedTempFile::new().unwrap();
            let path = file.path().display();
            let a = build(&url(&format!("ssl_mode=VERIFY_CA&ssl_ca={path}")), "a")?;
            let error = a.start().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Connection, "{error:?}");
            std::fs::copy(&ca, file.path()).unwrap();
            a.start().await?;
            a.stop().await?;
            // The server's own certificate names no host.
            let error = works(&url(&format!("ssl_ca={ca}"))).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Connection, "{error:?}");
            let error = works(&url("ssl_mode=verify_identity")).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Connection, "an authority that nobody knows");
        } else {
            // This one has no certificate.
            let error = works(&url("ssl_mode=required")).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Connection, "{error:?}");
            works(&url("ssl_mode=disabled")).await?;
        }
        let on_socket = format!("mysql://{name}:p%20w@/tooz?unix_socket={socket}");
        works(&on_socket).await?;
        works(&format!("mysql://{name}:p%20w@127.0.0.1:1,{host}/tooz")).await?;
        admin.ask(&format!("DROP USER '{name}'@'%'")).await?;
    }
    Ok(())
}
