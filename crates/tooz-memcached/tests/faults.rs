//! Connections that break, answers that are lost, servers that forget.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod server;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use server::proxy::Proxy;
use server::{Server, asked_for, start};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tooz_core::{
    Coordinator, Error, ErrorKind, Events, LockGuard, Loss, Mode, Result, SessionEvent, Wait,
};

macro_rules! if_asked_for {
    () => {
        if !asked_for() {
            return Ok(());
        }
    };
}

/// Enough for anything that need not wait for a time to live.
const SOON: Duration = Duration::from_secs(5);

// ---- Connections and answers.

#[tokio::test]
async fn a_broken_connection_loses_nothing() -> Result<()> {
    if_asked_for!();
    let server = Server::start(&[]);
    let proxy = Proxy::start(server.port).await;
    let a = start(&proxy.url("timeout=10"), "a").await?;
    a.join_group_create("g", &1).await?;
    let guards = [a.lock("x")?.acquire().await?, a.lock("s")?.acquire_shared().await?];
    let term = a.campaign("g").await?;
    let mut events = a.session_events();
    for _ in 0..5 {
        proxy.cut();
        let suspended = timeout(SOON, events.next()).await.expect("told of the trouble");
        assert_eq!(suspended, Some(SessionEvent::Suspended));
        let resumed = timeout(SOON, events.next()).await.expect("told of its end");
        assert_eq!(resumed, Some(SessionEvent::Resumed));
    }
    for guard in &guards {
        assert!(guard.verify().await?);
    }
    assert!(term.verify().await?);
    assert_eq!(a.members("g").await?.len(), 1);
    a.stop().await
}

#[tokio::test]
async fn lost_answers_are_resolved() -> Result<()> {
    if_asked_for!();
    let server = Server::start(&[]);
    let proxy = Proxy::start(server.port).await;
    let (a, b) =
        (start(&proxy.url("timeout=60"), "a").await?, start(&server.url("timeout=60"), "b").await?);
    for mode in [Mode::Exclusive, Mode::Shared] {
        proxy.lose_answer_to("add __TOOZ_LOCK_it");
        let guard = a.lock("it")?.acquire_with(mode, Wait::Forever).await?.expect("no limit");
        assert!(proxy.has_lost() && guard.verify().await?, "{mode:?}: it is ours");
        assert!(b.lock("it")?.try_acquire().await?.is_none());
        // The renewal took effect, and its answer never came.
        proxy.lose_answer_to("md __TOOZ_LOCK_it");
        renewed(&a).await?;
        assert!(proxy.has_lost() && guard.verify().await?, "{mode:?}: still ours");
        guard.check()?;
        proxy.lose_answer_to("md __TOOZ_LOCK_it");
        guard.release().await?;
        assert!(proxy.has_lost() && b.lock("it")?.try_acquire().await?.is_some());
    }
    let theirs = b.lock("it")?.acquire_shared().await?;
    proxy.lose_answer_to("cas __TOOZ_LOCK_it");
    let ours = a.lock("it")?.acquire_shared().await?;
    assert!(proxy.has_lost() && ours.verify().await? && theirs.verify().await?);
    ours.release().await?;
    theirs.release().await?;

    proxy.lose_answer_to("add _TOOZ_GROUP_g");
    a.create_group("g").await?;
    for (bytes, members) in [("cas _TOOZ_GROUP_g", 1), ("cas _TOOZ_GROUP_g", 0)] {
        assert!(proxy.has_lost());
        proxy.lose_answer_to(bytes);
        match members {
            1 => a.join_group("g", &1).await?,
            _ => a.leave_group("g").await?,
        }
        assert_eq!(b.members("g").await?.len(), members);
    }
    assert!(proxy.has_lost());
    a.join_group("g", &1).await?;
    let term = a.campaign("g").await?;
    proxy.lose_answer_to("md __TOOZ_LOCK__TOOZ_GROUP_LEADER_g");
    renewed(&a).await?;
    assert!(proxy.has_lost() && term.verify().await?, "the term goes on");
    term.resign().await?;
    a.leave_group("g").await?;
    proxy.lose_answer_to("md _TOOZ_GROUP_g");
    a.delete_group("g").await?;
    assert!(proxy.has_lost() && b.groups().await?.is_empty());
    a.stop().await?;
    b.stop().await
}

/// A heartbeat that is confirmed.
async fn renewed(coordinator: &Coordinator) -> Result<()> {
    let begin = Instant::now();
    while let Err(error) = coordinator.heartbeat().await {
        assert!(begin.elapsed() < SOON, "{error:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_hangs_is_told_of_by_the_deadline() -> Result<()> {
    if_asked_for!();
    let server = Server::start(&[]);
    let a = start(&server.url("timeout=2"), "a").await?;
    let guard = a.lock("it")?.acquire().await?;
    let deadline = guard.deadline().expect("there is one");
    server.signal("-STOP");
    let loss = timeout(Duration::from_secs(4), guard.lost()).await.expect("told");
    assert_eq!(loss, Loss::Expired);
    assert!(deadline.elapsed() < Duration::from_secs(2), "one renewal may still have come through");
    server.signal("-CONT");
    let again = timeout(SOON, a.lock("it")?.try_acquire_for(SOON)).await.expect("in time")?;
    assert!(again.expect("it works on").verify().await?);
    a.stop().await
}

// ---- A server that forgets.

/// How soon a loss is told that the server knows of: a heartbeat and some noise.
const TOLD: Duration = Duration::from_secs(4);

#[tokio::test]
async fn what_is_flushed_is_lost_and_built_again() -> Result<()> {
    if_asked_for!();
    let server = Server::start(&[]);
    let a = start(&server.url("timeout=30"), "a").await?;
    a.join_group_create("g", &7).await?;
    let (guard, term) = (a.lock("it")?.acquire().await?, a.campaign("g").await?);
    let token = guard.fencing_token();
    let mut events = a.session_events();
    server.say(b"flush_all");
    timeout(TOLD, guard.lost()).await.expect("told of the lock");
    timeout(TOLD, term.lost()).await.expect("told of the term");
    rejoined(&mut events).await;
    assert_eq!(a.member("g", "a").await?.capabilities.decode::<i32>()?, 7);
    assert!(a.lock("it")?.acquire().await?.fencing_token() > token);
    a.stop().await
}

async fn rejoined(events: &mut Events<SessionEvent>) {
    loop {
        match timeout(SOON, events.next()).await.expect("a new session") {
            Some(SessionEvent::Rejoined(_)) => return,
            Some(_) => {}
            None => panic!("the coordinator ended"),
        }
    }
}

#[tokio::test]
async fn a_server_that_came_back_grants_nothing_before_the_last_holder_was_told() -> Result<()> {
    if_asked_for!();
    // Without the grace both hold it; with it, never.
    for (grace, both) in [("0", true), ("4", false)] {
        let mut server = Server::start(&[]);
        let proxy = Proxy::start(server.port).await;
        let cut_off = start(&proxy.url("timeout=4&restart_grace=0"), "cut-off").await?;
        let rival = start(&server.url(&format!("timeout=4&restart_grace={grace}")), "b").await?;
        cut_off.join_group_create("g", &1).await?;
        rival.join_group("g", &1).await?;
        let (held, read) =
            (cut_off.lock("it")?.acquire().await?, cut_off.lock("s")?.acquire_shared().await?);
        let term = cut_off.campaign("g").await?;
        // One waits from before.
        let lock = rival.lock("it")?;
        let waiting = tokio::spawn(async move { lock.acquire().await });
        // Its local deadline is as late as it can be.
        renewed(&cut_off).await?;
        proxy.silence_all();
        server.kill();
        server.restart();
        let writer = rival.lock("s")?;
        let writer = tokio::spawn(async move { writer.acquire().await });
        let candidate = rival.clone();
        let candidacy = tokio::spawn(async move { candidate.campaign("g").await });
        let ours = timeout(SOON * 2, waiting).await.expect("in time").unwrap()?;
        assert_eq!((held.check().is_ok(), ours.check().is_ok()), (both, true), "{grace}");
        let writer = timeout(SOON * 2, writer).await.expect("in time").unwrap()?;
        assert_eq!((read.check().is_ok(), writer.check().is_ok()), (both, true), "{grace}");
        let elected = timeout(SOON * 2, candidacy).await.expect("in time").unwrap();
        assert!(elected.is_err() || term.check().is_ok() == both, "{grace}");
        rival.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_connection_that_dies_silently_loses_nothing_at_any_time_to_live() -> Result<()> {
    if_asked_for!();
    let server = Server::start(&[]);
    let mut tests = JoinSet::new();
    // The shortest that is allowed, and those up to where renewals come no more rarely.
    for ttl in [1.0, 1.5, 3.0, 8.0] {
        let port = server.port;
        tests.spawn(async move {
            let proxy = Proxy::start(port).await;
            let a = start(&proxy.url(&format!("timeout={ttl}&namespace=n{ttl}")), "a").await?;
            a.join_group_create("g", &1).await?;
            let (guard, term) = (a.lock("it")?.acquire().await?, a.campaign("g").await?);
            renewed(&a).await?;
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

#[tokio::test]
async fn a_full_server_loses_nothing_that_it_has() -> Result<()> {
    if_asked_for!();
    let server = Server::start(&["-M", "-m", "1", "-I", "512k"]);
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
    // Of all lengths, until none is taken any longer.
    for size in (1..1200).step_by(40).chain((1200..20_000).step_by(900)) {
        let mut fill = Vec::new();
        for n in 0..(3 << 20) / (size + 80) {
            fill.extend(format!("set fill-{size}-{n} 0 0 {size}\r\n").bytes());
            fill.extend(std::iter::repeat_n(b'x', size));
            fill.extend(b"\r\n");
            if fill.len() > 32 << 10 {
                if server.say(&fill).windows(12).any(|w| w == b"SERVER_ERROR") {
                    break;
                }
                fill.clear();
            }
        }
    }
    let error = a.lock("new")?.try_acquire().await.unwrap_err();
    assert!(error.to_string().contains("out of memory"), "{error}");
    sleep(Duration::from_secs(6)).await;
    for guard in &guards {
        assert!(guard.check().is_ok() && guard.verify().await?, "{guard:?}");
    }
    assert!(term.check().is_ok() && term.verify().await?);
    assert_eq!(a.members("g").await?.len(), 2);
    assert!(server.get("_TOOZ_MEMBER_a").is_some(), "for Python peers it lives too");
    let [exclusive, ..] = guards;
    exclusive.release().await?;
    Ok(())
}

#[tokio::test]
async fn a_member_that_nobody_can_read_hides_no_other() -> Result<()> {
    if_asked_for!();
    let server = Server::start(&[]);
    let a = start(&server.url("timeout=10"), "a").await?;
    a.join_group_create("g", &7).await?;
    let (flags, mut group) = server.get("_TOOZ_GROUP_g").expect("it is there");
    assert_eq!(group[0], 0x81, "a map of one member");
    group[0] = 0x82;
    group.extend(b"\xc4\x03bad\x81\xc4\x0ccapabilities");
    group.extend([0x91; 20_000]);
    group.push(0xc0);
    server.set("_TOOZ_GROUP_g", flags, 0, &group);
    server.set("_TOOZ_MEMBER_bad", 1, 0, b"It's alive!");
    assert_eq!(a.members("g").await?.len(), 2);
    assert_eq!(a.member("g", "a").await?.capabilities.decode::<i32>()?, 7);
    assert_eq!(a.members_with_capabilities("g").await?.len(), 2);
    renewed(&a).await?;
    a.update_capabilities("g", &8).await?;
    assert_eq!(a.groups().await?.len(), 1);
    a.remove_member("g", "bad").await?;
    assert_eq!(a.members("g").await?.len(), 1);
    a.stop().await
}

/// Who holds what, by the word of the guards.
type Holders = Arc<Mutex<HashMap<String, Vec<(u64, Arc<LockGuard>)>>>>;

#[tokio::test]
async fn a_server_killed_under_load_and_restarted_empty() -> Result<()> {
    if_asked_for!();
    let mut server = Server::start(&["-c", "1024"]);
    let url = server.url("timeout=10");
    let (mut coordinators, mut held, mut sessions) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..20 {
        let coordinator = start(&url, &format!("member-{n}")).await?;
        sessions.push(coordinator.session_events());
        coordinator.join_group_create("g", &n).await?;
        coordinator.join_group_create(format!("g-{}", n % 4), &n).await?;
        held.push(coordinator.lock(format!("held-{n}"))?.acquire().await?);
        held.push(coordinator.lock("shared")?.acquire_shared().await?);
        coordinators.push(coordinator);
    }
    let term = coordinators[0].campaign("g").await?;
    let highest = held.iter().map(|guard| guard.fencing_token()).max();
    // The load: all contend for one lock, through the death and after it.
    let (stop, inside) = (tokio_util::sync::CancellationToken::new(), Arc::new(Mutex::new(0_u64)));
    let mut load = JoinSet::new();
    for coordinator in &coordinators {
        let (lock, stop, inside) = (coordinator.lock("hot")?, stop.clone(), inside.clone());
        load.spawn(async move {
            let mut granted = 0_u32;
            while !stop.is_cancelled() {
                let guard = match lock.try_acquire_for(Duration::from_secs(1)).await {
                    Ok(Some(guard)) => guard,
                    Ok(None) => continue,
                    // While the server is away, it may say so; it goes on afterwards.
                    Err(error) => {
                        assert!(error.is_retryable() || error.kind() == ErrorKind::SessionLost);
                        sleep(Duration::from_millis(20)).await;
                        continue;
                    }
                };
                {
                    let mut last = inside.lock().unwrap();
                    let token = guard.fencing_token().0;
                    // A holder of before the death who is let in late would be refused here.
                    assert!(token > *last || guard.check().is_err(), "{token} after {last}");
                    *last = token.max(*last);
                }
                granted += 1;
                let _ = guard.release().await;
            }
            granted
        });
    }
    sleep(Duration::from_millis(500)).await;
    server.kill();
    sleep(Duration::from_millis(300)).await;
    server.restart();
    let restarted = Instant::now();
    for guard in held.iter() {
        timeout(TOLD, guard.lost()).await.expect("a holder is told");
        assert!(guard.check().is_err());
    }
    timeout(TOLD, term.lost()).await.expect("the leader is told");
    let told = restarted.elapsed();
    for session in &mut sessions {
        rejoined(session).await;
    }
    let rebuilt = restarted.elapsed();
    eprintln!("41 holders told after {told:?}, 20 sessions rebuilt after {rebuilt:?}");
    let a = &coordinators[0];
    assert_eq!(a.members("g").await?.len(), 20, "the groups are rebuilt");
    assert_eq!(a.groups().await?.len(), 5);
    for n in 0..4 {
        assert_eq!(a.members(format!("g-{n}")).await?.len(), 5);
    }
    assert!(a.leader("g").await?.is_none());
    sleep(Duration::from_secs(1)).await;
    stop.cancel();
    let after = Instant::now();
    while let Some(granted) = load.join_next().await {
        assert!(granted.expect("no panic") > 0, "no wedge");
    }
    assert!(after.elapsed() < SOON, "no wedge");
    let again = a.lock("held-0")?.try_acquire().await?.expect("it is free");
    assert!(Some(again.fencing_token()) > highest, "tokens rise over the death");
    again.release().await?;
    for coordinator in &coordinators {
        timeout(SOON, coordinator.stop()).await.expect("in time")?;
    }
    Ok(())
}

#[tokio::test]
async fn what_a_full_server_evicts_is_told_as_lost() -> Result<()> {
    if_asked_for!();
    // The smallest there is, and items that push ours out.
    let server = Server::start(&["-m", "1", "-I", "512k"]);
    let flood = Flood::start(server.port);
    let mut coordinators = Vec::new();
    for n in 0..4 {
        coordinators.push(start(&server.url("timeout=4"), &format!("m-{n}")).await?);
    }
    let holders = Holders::default();
    let mut tasks = JoinSet::new();
    let end = Instant::now() + Duration::from_secs(8);
    for (n, coordinator) in coordinators.iter().enumerate() {
        let (coordinator, holders) = (coordinator.clone(), holders.clone());
        tasks.spawn(async move {
            let mut turn = n;
            while Instant::now() < end {
                turn += 1;
                let name = format!("lock-{}", turn % 10);
                let lock = coordinator.lock(&name)?;
                match lock.try_acquire_for(Duration::from_millis(200)).await {
                    Ok(Some(guard)) => note(&holders, &name, guard),
                    Ok(None) => {}
                    // A server without memory says so.
                    Err(error) => passing(error)?,
                }
                sleep(Duration::from_millis(20)).await;
            }
            Ok::<_, Error>(())
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.expect("no panic")?;
    }
    let written = flood.stop();
    let (mut grants, mut evicted) = (0, 0);
    let holders = std::mem::take(&mut *holders.lock().unwrap());
    for (name, mut guards) in holders {
        guards.sort_by_key(|(token, _)| *token);
        grants += guards.len();
        // Whoever was followed by another learns of it within a heartbeat.
        let last = guards.pop();
        for (token, guard) in guards {
            evicted += 1;
            let told = timeout(TOLD, guard.lost()).await;
            told.unwrap_or_else(|_| panic!("{name}: the holder of {token} is silent"));
        }
        drop(last);
    }
    eprintln!("{written} items written: {grants} grants, {evicted} followed by another");
    assert!(evicted > 0, "nothing was evicted: the test shows nothing");
    for coordinator in &coordinators {
        if let Err(error) = timeout(SOON, coordinator.stop()).await.expect("no wedge") {
            passing(error)?;
        }
    }
    Ok(())
}

fn note(holders: &Holders, name: &str, guard: LockGuard) {
    let token = guard.fencing_token().0;
    let mut holders = holders.lock().unwrap();
    holders.entry(name.to_owned()).or_default().push((token, Arc::new(guard)));
}

/// An error that a full server may cause.
fn passing(error: Error) -> Result<()> {
    match error.kind() {
        ErrorKind::Backend
        | ErrorKind::SessionLost
        | ErrorKind::Connection
        | ErrorKind::TimedOut => Ok(()),
        _ => Err(error),
    }
}

/// Writes as fast as the server takes it, in sizes as ours.
struct Flood {
    stop: Arc<std::sync::atomic::AtomicBool>,
    thread: std::thread::JoinHandle<u64>,
}

impl Flood {
    fn start(port: u16) -> Self {
        use std::io::{Read as _, Write as _};
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
            let (mut written, mut answer) = (0_u64, vec![0; 1 << 16]);
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                let mut batch = Vec::new();
                for n in 0..200_u64 {
                    // Of the length of a lock's item, of a session's, and of a group's.
                    let size = [70, 20, 130][(n % 3) as usize];
                    write!(batch, "set flood-{} 0 0 {size} noreply\r\n", written + n).unwrap();
                    batch.extend(std::iter::repeat_n(b'x', size));
                    batch.extend(b"\r\n");
                }
                written += 200;
                batch.extend(b"mn\r\n");
                stream.write_all(&batch).unwrap();
                // What it cannot store, it says in spite of "noreply".
                loop {
                    let size = stream.read(&mut answer).unwrap();
                    if answer[..size].ends_with(b"MN\r\n") {
                        break;
                    }
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            written
        });
        Self { stop, thread }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
