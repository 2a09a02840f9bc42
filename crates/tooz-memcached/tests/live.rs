//! What the conformance kit does not ask: this backend's own errors, costs and protocols.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod server;

use std::process::Command;
use std::time::{Duration, Instant};

use server::proxy::Proxy;
use server::{Server, asked_for, build, start};
use tooz_core::{ErrorKind, Result, Wait};

macro_rules! if_asked_for {
    () => {
        if !asked_for() {
            return Ok(());
        }
    };
}

// ---- Errors.

#[tokio::test]
async fn refusals_are_clear_and_soon() -> Result<()> {
    if_asked_for!();
    let mut server = Server::start(&["-C"]);
    let begin = Instant::now();
    let error = build(&server.url("timeout=2"), "a")?.start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DriverChosenPoorly);
    assert!(error.to_string().contains("without CAS ids"), "{error}");
    server.kill();
    let error = build(&server.url("timeout=2"), "a")?.start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection, "{error:?}");
    assert!(begin.elapsed() < Duration::from_secs(2));
    Ok(())
}

#[tokio::test]
async fn names_that_no_key_can_have_are_refused() -> Result<()> {
    if_asked_for!();
    let server = Server::start(&[]);
    let error = build(&server.url("timeout=2"), "a b")?.start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let a = start(&server.url("timeout=2"), "a").await?;
    for error in [
        a.lock("two words")?.try_acquire().await.unwrap_err(),
        a.lock("_TOOZ_GROUP_LEADER_g")?.try_acquire().await.unwrap_err(),
        a.create_group("LIST").await.unwrap_err(),
        a.create_group("x".repeat(220)).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
    }
    a.stop().await
}

#[tokio::test]
async fn a_login_is_needed_where_it_is_asked_for() -> Result<()> {
    if_asked_for!();
    let folder = Folder::new("auth");
    let server = Server::start(&["-Y", &folder.write("users", "tt:right\n")]);
    let with = |login: &str| format!("memcached://{login}127.0.0.1:{}?timeout=2", server.port);
    for url in [with(""), with("tt:wrong@")] {
        let error = build(&url, "a")?.start().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Authentication, "{error:?}");
        assert!(!format!("{error:?}").contains("wrong"));
    }
    start(&with("tt:right@"), "a").await?.stop().await
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn tls_with_and_without_a_certificate_of_ours() -> Result<()> {
    if_asked_for!();
    let folder = Folder::new("tls");
    folder.certificates();
    let [ca, certificate, key] = ["ca.pem", "certificate.pem", "key.pem"].map(|n| folder.path(n));
    let (chain, server_key, trusted) = (
        format!("ssl_chain_cert={certificate}"),
        format!("ssl_key={key}"),
        format!("ssl_ca_cert={ca}"),
    );
    let options = format!("{chain},{server_key},{trusted},ssl_verify_mode=2");
    let server = Server::start(&["-Z", "-o", &options]);
    let url =
        |more: &str| format!("memcached://localhost:{}?timeout=2&use_ssl=yes{more}", server.port);
    let ours = format!("&ca_cert={ca}&ssl_cert={certificate}&ssl_key={key}");
    let a = start(&url(&ours), "a").await?;
    let guard = a.lock("it")?.acquire().await?;
    guard.release().await?;
    a.stop().await?;
    // Nobody that the client trusts, or nothing that the server asks for.
    for refused in
        [url(&format!("&ssl_cert={certificate}&ssl_key={key}")), url(&format!("&ca_cert={ca}"))]
    {
        let error = build(&refused, "a").and_then(|a| tooz_core::blocking::block_on(a.start()));
        let kind = error.unwrap_err().kind();
        // A machine without any authority refuses the first before it connects.
        assert!(matches!(kind, ErrorKind::Connection | ErrorKind::InvalidInput), "{kind:?}");
    }
    // A server that waits for TLS says nothing to somebody without.
    let plain = format!("memcached://localhost:{}?timeout=2", server.port);
    let error = build(&plain, "a")?.start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error:?}");
    Ok(())
}

// ---- Costs.

#[tokio::test]
async fn everything_takes_as_many_round_trips_as_it_is_said_to() -> Result<()> {
    if_asked_for!();
    let server = Server::start(&[]);
    let proxy = Proxy::start(server.port).await;
    // So long that no heartbeat falls between.
    let a = build_by_hand(&proxy.url("timeout=60"), "a")?;
    a.start().await?;
    let lock = a.lock("it")?;
    let mut last = proxy.sent();
    let mut cost = || {
        let now = proxy.sent();
        now - std::mem::replace(&mut last, now)
    };
    let guard = lock.acquire().await?;
    assert_eq!(cost(), 1, "an acquisition");
    assert!(guard.verify().await?);
    assert_eq!(cost(), 1, "a verification");
    guard.release().await?;
    assert_eq!(cost(), 1, "a release");
    let shared = lock.acquire_shared().await?;
    assert_eq!(cost(), 1, "the first shared acquisition");
    let another = lock.acquire_shared().await?;
    assert_eq!(cost(), 2, "a further shared acquisition");
    let mut guards = vec![shared, another];
    // Few enough that their renewal is one piece on its way through the proxy.
    for n in 0..10 {
        guards.push(a.lock(format!("lock-{n}"))?.acquire().await?);
    }
    a.join_group_create("g", &1).await?;
    let term = a.campaign("g").await?;
    a.heartbeat().await?;
    cost();
    a.heartbeat().await?;
    assert_eq!(cost(), 1, "the renewal of 12 locks, a term and a membership");
    assert_eq!(a.members_with_capabilities("g").await?.len(), 1);
    assert_eq!(cost(), 2, "the members");
    assert_eq!(a.leader("g").await?, Some("a".into()));
    assert_eq!(cost(), 1, "the leader");
    for guard in &guards {
        guard.check()?;
    }
    term.check()?;
    a.stop().await
}

#[tokio::test]
async fn the_longer_a_wait_the_fewer_the_looks() -> Result<()> {
    if_asked_for!();
    let server = Server::start(&[]);
    let proxy = Proxy::start(server.port).await;
    // As a process of another kind has it, whose release nobody tells.
    server.set("__TOOZ_LOCK_it", 1, 60, b"somebody");
    let a = start(&proxy.url("timeout=60"), "a").await?;
    let (lock, before) = (a.lock("it")?, proxy.sent());
    let time = Duration::from_secs(2);
    assert!(lock.try_acquire_for(time).await?.is_none());
    // 5 ms at first, 100 ms in the end, by a quarter less for the jitter; and the heartbeats.
    let looks = proxy.sent() - before;
    assert!((20..150).contains(&looks), "{looks} looks in {time:?}");
    let waiting = tokio::spawn(async move { lock.acquire().await });
    tokio::time::sleep(Duration::from_millis(400)).await;
    server.say(b"delete __TOOZ_LOCK_it");
    let released = Instant::now();
    let guard = waiting.await.unwrap()?;
    let latency = released.elapsed();
    assert!(latency < Duration::from_millis(500), "seen after {latency:?}");
    guard.release().await?;
    a.stop().await
}

#[tokio::test]
async fn a_hand_off_within_a_process_waits_for_no_look() -> Result<()> {
    if_asked_for!();
    let server = Server::start(&[]);
    let (a, b) = (
        start(&server.url("timeout=60"), "a").await?,
        start(&server.url("timeout=60"), "b").await?,
    );
    let mut times = Vec::new();
    for _ in 0..20 {
        let guard = a.lock("it")?.acquire().await?;
        let lock = b.lock("it")?;
        let waiting = tokio::spawn(async move { lock.acquire().await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        let released = Instant::now();
        guard.release().await?;
        let next = waiting.await.unwrap()?;
        times.push(released.elapsed());
        next.release().await?;
    }
    times.sort_unstable();
    eprintln!("a hand-off within a process: {:?} at the median", times[10]);
    // A look would come after 190 to 250 ms.
    assert!(times[10] < Duration::from_millis(100), "{times:?}");
    a.stop().await?;
    b.stop().await
}

// ---- Protocols.

#[tokio::test]
async fn both_protocols_are_the_same_to_each_other() -> Result<()> {
    if_asked_for!();
    let server = Server::start(&[]);
    let url = |protocol: &str| server.url(&format!("timeout=3&protocol={protocol}"));
    let (a, b) = (start(&url("classic"), "a").await?, start(&url("meta"), "b").await?);
    for (one, other) in [(&a, &b), (&b, &a)] {
        let guard = one.lock("it")?.acquire().await?;
        assert!(other.lock("it")?.try_acquire().await?.is_none());
        assert!(other.lock("it")?.try_acquire_shared().await?.is_none());
        one.heartbeat().await?;
        assert!(guard.verify().await?);
        let lock = other.lock("it")?;
        let waiting =
            tokio::spawn(async move { lock.try_acquire_for(Duration::from_secs(5)).await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        guard.release().await?;
        let next = waiting.await.unwrap()?.expect("it is free");
        next.release().await?;

        let (mine, theirs) =
            (one.lock("s")?.acquire_shared().await?, other.lock("s")?.acquire_shared().await?);
        mine.release().await?;
        assert!(one.lock("s")?.try_acquire().await?.is_none());
        theirs.release().await?;

        one.join_group_create("g", &7).await?;
        other.join_group("g", &8).await?;
        assert_eq!(other.members("g").await?.len(), 2);
        let term = one.campaign("g").await?;
        assert!(other.campaign_with("g", Wait::Try).await?.is_none());
        assert_eq!(other.leader("g").await?.as_ref(), Some(one.member_id()));
        one.heartbeat().await?;
        assert!(term.verify().await?);
        term.resign().await?;
        assert!(other.lock("b")?.try_acquire().await?.is_some());
        one.leave_group("g").await?;
        other.leave_group("g").await?;
        other.delete_group("g").await?;
        assert!(one.groups().await?.is_empty());
    }
    let broken = a.lock("it")?.acquire().await?;
    assert!(b.lock("it")?.break_lock().await?);
    tokio::time::timeout(Duration::from_secs(4), broken.lost()).await.expect("told");
    a.stop().await?;
    b.stop().await
}

fn build_by_hand(url: &str, member: &str) -> Result<tooz_core::Coordinator> {
    let registry = tooz_core::Registry::new().with(tooz_memcached::DRIVER)?;
    registry.builder(url, member)?.heartbeat(tooz_core::Heartbeat::Manual).build()
}

/// A folder that the server's user can read, removed when dropped.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("tooz-memcached-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.0.join(name), text).unwrap();
        self.path(name)
    }

    /// An authority, and from it one certificate for both ends.
    fn certificates(&self) {
        const SCRIPT: &str = "
set -e
new='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30'
openssl req -x509 $new -keyout ca.key -out ca.pem -subj '/CN=tooz test authority' \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
openssl req $new -keyout key.pem -out request.pem -subj /CN=localhost
printf '%s\\n' subjectAltName=DNS:localhost,IP:127.0.0.1 \
    extendedKeyUsage=serverAuth,clientAuth basicConstraints=critical,CA:FALSE >extensions
openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 \
    -extfile extensions -out certificate.pem
chmod 644 key.pem
";
        let made = Command::new("sh").args(["-c", SCRIPT]).current_dir(&self.0).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
