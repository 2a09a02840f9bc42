//! Poolers, standbys, TLS, roles, peers of another kind.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod proxy;
mod server;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use proxy::Proxy;
use server::{Peer, Server, build, if_asked_for, port_of, shared, start, with_schema};
use tooz_core::{Error, ErrorKind, Loss, Result, SessionEvent};
use tooz_postgresql::SCHEMA;
use tooz_postgresql::inspect::Inspector;

const SECOND: Duration = Duration::from_secs(1);

// ---- Poolers.

#[tokio::test]
async fn a_transaction_pooler_is_refused_and_keeps_nothing() -> Result<()> {
    if_asked_for!();
    for (mode, settings) in [
        ("transaction", ""),
        ("transaction", "default_pool_size = 1"),
        ("transaction", "server_round_robin = 1\nmin_pool_size = 3"),
        ("statement", ""),
    ] {
        let pooler = Server::pgbouncer(mode, settings);
        let error = build(&pooler.url(""), "a")?.start().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DriverChosenPoorly, "{mode} {settings}: {error:?}");
        for words in ["transaction mode", "pool_mode=session"] {
            assert!(error.to_string().contains(words), "{error}");
        }
        // What other clients of the pooler get is as it was.
        let peer = Peer::at(pooler.port).await;
        let kept = "SELECT current_setting('idle_session_timeout') || ' ' || (SELECT count(*) \
                    FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())";
        assert_eq!(peer.ask::<String>(kept).await, "0 0");
    }
    Ok(())
}

#[tokio::test]
async fn a_session_pooler_serves() -> Result<()> {
    if_asked_for!();
    let pooler = Server::pgbouncer("session", "");
    let url = pooler.url("");
    let (a, b) = (start(&url, "a").await?, start(&url, "b").await?);
    let guard = a.lock("it")?.acquire().await?;
    assert!(b.lock("it")?.try_acquire().await?.is_none());
    guard.release().await?;
    b.lock("it")?.try_acquire().await?.expect("free").release().await?;
    a.stop().await?;
    b.stop().await?;
    Inspector::connect(&url).await?.wipe().await
}

#[tokio::test]
async fn a_slow_server_is_no_pooler() -> Result<()> {
    if_asked_for!();
    let mut all = tokio::task::JoinSet::new();
    for trips in 0..18 {
        all.spawn(async move {
            let url = shared("timeout=3");
            let proxy = Proxy::start(port_of(&url)).await;
            proxy.slow_after(trips);
            match start(&proxy.url(&url), "a").await {
                Ok(a) => a.stop().await.map(|()| 1),
                Err(error) => {
                    let poor = error.kind() == ErrorKind::DriverChosenPoorly;
                    assert!(!poor, "slow after {trips}: {error}");
                    assert!(error.is_retryable(), "{error:?}");
                    Ok(0)
                }
            }
        });
    }
    let started: Vec<usize> = all.join_all().await.into_iter().collect::<Result<_>>()?;
    let started: usize = started.iter().sum();
    println!("{started} of 18 started");
    assert!(started >= 6, "what was slow once is asked again");
    Ok(())
}

// ---- Standbys.

#[tokio::test]
async fn a_standby_is_refused_and_passed_over() -> Result<()> {
    if_asked_for!();
    let primary = Server::postgresql(&["wal_level=replica", "max_wal_senders=3"], |_| {});
    let standby = Server::standby(&primary);
    let error = build(&standby.url(""), "a")?.start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DriverChosenPoorly, "{error:?}");
    assert!(error.to_string().contains("standby"), "{error}");
    let both = with_schema(
        &format!(
            "postgresql://postgres@127.0.0.1:{},127.0.0.1:{}/postgres",
            standby.port, primary.port
        ),
        "target_session_attrs=read-write",
    );
    let a = start(&both, "a").await?;
    let guard = a.lock("it")?.acquire().await?;
    let peer = Peer::at(primary.port).await;
    let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1";
    assert_eq!(peer.ask::<i64>(held).await, 2, "the session's and the lock's, on the primary");
    guard.release().await?;
    a.stop().await
}

// ---- TLS, log-in, sockets.

/// An authority, a certificate for localhost, one for the user `tester`, and another authority.
const CERTIFICATES: &str = "
set -e
new='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30'
for ca in ca other; do
    openssl req -x509 $new -keyout $ca.key -out $ca.pem -subj \"/CN=tooz $ca\" \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
done
echo subjectAltName=DNS:localhost >server.ext
echo extendedKeyUsage=clientAuth >client.ext
for end in 'server localhost' 'client tester'; do
    set -- $end
    openssl req $new -keyout $1.key -out $1.csr -subj /CN=$2
    openssl x509 -req -in $1.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 \
        -extfile $1.ext -out $1.pem
done
chmod 600 server.key
";

const WHO_MAY: &str = "\
local all all trust
hostssl all tester 127.0.0.1/32 cert clientcert=verify-full
hostssl all postgres 127.0.0.1/32 scram-sha-256
hostssl all postgres ::1/128 scram-sha-256
";

fn certificates(folder: &Path) {
    let mut make = Command::new("sh");
    make.args(["-c", CERTIFICATES]).current_dir(folder).stderr(Stdio::null());
    assert!(make.status().unwrap().success(), "openssl is installed");
    let data = folder.join("data");
    std::fs::write(data.join("pg_hba.conf"), WHO_MAY).unwrap();
    let owner = std::fs::metadata(&data).unwrap();
    use std::os::unix::fs::MetadataExt;
    std::os::unix::fs::chown(folder.join("server.key"), Some(owner.uid()), Some(owner.gid()))
        .unwrap();
}

#[tokio::test]
async fn tls_modes_passwords_and_sockets() -> Result<()> {
    if_asked_for!();
    let server = Server::postgresql(
        &[
            "ssl=on",
            "ssl_cert_file=../server.pem",
            "ssl_key_file=../server.key",
            "ssl_ca_file=../ca.pem",
        ],
        certificates,
    );
    let folder = server.folder.path().display().to_string();
    let socket = |user: &str| {
        let host = folder.replace('/', "%2F");
        with_schema(&format!("postgresql://{user}@{host}:{}/postgres", server.port), "")
    };
    let a = start(&socket("postgres"), "a").await?;
    a.lock("it")?.acquire().await?.release().await?;
    a.stop().await?;
    let mut psql = Command::new("psql");
    psql.args(["-h", &folder, "-p", &server.port.to_string(), "-U", "postgres", "-c"]);
    psql.arg("ALTER ROLE postgres PASSWORD 's%cret'; CREATE ROLE tester LOGIN SUPERUSER");
    assert!(psql.stdout(Stdio::null()).status().unwrap().success());

    let with = |login: &str, host: &str, options: &str| {
        let options = options.replace("DIR", &folder);
        let url = format!("postgresql://{login}@{host}:{}/postgres", server.port);
        with_schema(&url, &options)
    };
    let right = "postgres:s%25cret";
    let ca = "sslrootcert=DIR/ca.pem";
    for (host, options) in [
        ("localhost", "".to_owned()),
        ("localhost", "sslmode=prefer".to_owned()),
        ("localhost", "sslmode=require".to_owned()),
        ("127.0.0.1", format!("sslmode=verify-ca&{ca}")),
        ("127.0.0.1", format!("sslmode=require&{ca}")),
        ("localhost", format!("sslmode=verify-full&{ca}")),
    ] {
        let a = start(&with(right, host, &options), "a").await?;
        a.lock("it")?.acquire().await?.release().await?;
        a.stop().await?;
    }
    let own = format!("sslmode=verify-full&{ca}&sslcert=DIR/client.pem&sslkey=DIR/client.key");
    start(&with("tester", "localhost", &own), "a").await?.stop().await?;

    for (login, host, options, kind) in [
        (right, "127.0.0.1", format!("sslmode=verify-full&{ca}"), ErrorKind::Connection),
        (
            right,
            "localhost",
            "sslmode=verify-ca&sslrootcert=DIR/other.pem".to_owned(),
            ErrorKind::Connection,
        ),
        (right, "localhost", "sslmode=disable".to_owned(), ErrorKind::Authentication),
        ("postgres:wrong", "localhost", "sslmode=require".to_owned(), ErrorKind::Authentication),
        ("postgres", "localhost", "sslmode=require".to_owned(), ErrorKind::Authentication),
        ("tester", "localhost", format!("sslmode=verify-full&{ca}"), ErrorKind::Authentication),
    ] {
        let begin = Instant::now();
        let error = build(&with(login, host, &options), "a")?.start().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{login} {host} {options}: {error:?}");
        let shown = format!("{error:?}");
        assert!(!shown.contains("s%cret") && !shown.contains("wrong"), "{shown}");
        assert!(begin.elapsed() < Duration::from_secs(5));
    }
    Ok(())
}

/// Authorities, certificates and keys are replaced while a coordinator lives: its next connection
/// knows the new ones.
#[tokio::test]
async fn rotated_certificates_count_from_the_next_connection() -> Result<()> {
    if_asked_for!();
    let settings = [
        "ssl=on",
        "ssl_cert_file=../server.pem",
        "ssl_key_file=../server.key",
        "ssl_ca_file=../ca.pem",
    ];
    let mut server = Server::postgresql(&settings, certificates);
    let folder = server.folder.path().display().to_string();
    let mut psql = Command::new("psql");
    psql.args(["-h", &folder, "-p", &server.port.to_string(), "-U", "postgres", "-c"]);
    psql.arg("CREATE ROLE tester LOGIN SUPERUSER");
    assert!(psql.stdout(Stdio::null()).status().unwrap().success());
    let options = format!(
        "timeout=3&sslmode=verify-full&sslrootcert={folder}/ca.pem&sslcert={folder}/client.pem\
         &sslkey={folder}/client.key"
    );
    let url = format!("postgresql://tester@localhost:{}/postgres", server.port);
    let a = start(&with_schema(&url, &options), "a").await?;
    a.join_group_create("g", &()).await?;
    let mut events = a.session_events();
    certificates(server.folder.path());
    server.restart();
    let rejoined =
        async { while !matches!(events.next().await, Some(SessionEvent::Rejoined(_))) {} };
    let time = Duration::from_secs(20);
    tokio::time::timeout(time, rejoined).await.expect("the new certificates are known");
    a.stop().await
}

#[tokio::test]
async fn refusals_are_clear() -> Result<()> {
    if_asked_for!();
    let url = shared("");
    for (from, to, kind) in [
        ("/postgres?", "/nowhere?", ErrorKind::InvalidInput),
        ("//postgres@", "//nobody@", ErrorKind::Authentication),
    ] {
        let error = build(&url.replace(from, to), "a")?.start().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
    }
    let error = build("postgresql://127.0.0.1:1/x", "a")?.start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection, "{error:?}");
    let a = start(&url, "a").await?;
    let long = "x".repeat(2_000);
    assert_eq!(a.create_group(&*long).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    a.lock(&*long)?.acquire().await?.release().await?;
    a.stop().await?;
    Inspector::connect(&url).await?.wipe().await
}

#[tokio::test]
async fn a_role_without_rights_is_told_what_an_administrator_has_to_do() -> Result<()> {
    if_asked_for!();
    let server = Server::postgresql(&[], |_| {});
    let admin = Peer::at(server.port).await;
    admin.run("CREATE ROLE service LOGIN").await;
    let url = format!("postgresql://service@127.0.0.1:{}/postgres?schema=mine", server.port);
    let refused = async || build(&url, "a").unwrap().start().await.unwrap_err();
    let error = refused().await;
    assert_eq!(error.kind(), ErrorKind::Authentication, "{error:?}");
    assert!(error.to_string().contains("schema.sql"), "{error}");
    admin.run(&format!("BEGIN; {} COMMIT", SCHEMA.replace("\"tooz\"", "\"mine\""))).await;
    let error = refused().await;
    assert_eq!(error.kind(), ErrorKind::Authentication, "{error:?}");
    admin
        .run(
            "GRANT USAGE ON SCHEMA mine TO service;
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA mine TO service;
             GRANT USAGE ON ALL SEQUENCES IN SCHEMA mine TO service",
        )
        .await;
    let a = start(&url, "a").await?;
    a.join_group_create("g", &()).await?;
    let term = a.campaign("g").await?;
    a.lock("it")?.acquire().await?.release().await?;
    term.resign().await?;
    a.stop().await?;
    admin.run("UPDATE mine.tooz_version SET version = 2").await;
    let error = refused().await;
    assert!(error.to_string().contains("version 2"), "{error}");
    Ok(())
}

// ---- Peers of another kind.

#[tokio::test]
async fn the_python_layout_excludes_the_originals_locks() -> Result<()> {
    if_asked_for!();
    let url = shared("layout=python");
    let (a, peer) = (start(&url, "a").await?, Peer::shared().await);
    // What the original asks for the lock named foo.
    let (lock, take, give) = (
        a.lock("foo")?,
        "SELECT pg_try_advisory_lock(172, 189)",
        "SELECT pg_advisory_unlock(172, 189)",
    );
    let guard = lock.acquire().await?;
    assert!(!peer.ask::<bool>(take).await);
    guard.release().await?;
    let guard = lock.acquire_shared().await?;
    assert!(!peer.ask::<bool>(take).await, "a reader of ours excludes it too");
    guard.release().await?;
    assert!(peer.ask::<bool>(take).await);
    assert!(lock.try_acquire().await?.is_none() && lock.try_acquire_shared().await?.is_none());
    let waiting = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire().await }
    });
    assert!(peer.ask::<bool>(give).await);
    let guard = tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap()?;
    guard.release().await?;

    // Nobody answers for it when it is to give way, so it loses its session.
    assert!(peer.ask::<bool>(take).await);
    let begin = Instant::now();
    assert!(lock.break_lock().await?);
    println!("taken from a peer of another kind after {:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(3));
    lock.try_acquire().await?.expect("free once the break has returned").release().await?;
    while !peer.is_gone() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    a.stop().await?;
    Inspector::connect(&url).await?.wipe().await
}

#[tokio::test]
async fn breaking_a_lock_takes_no_other() -> Result<()> {
    if_asked_for!();
    let url = shared("");
    let (a, b) = (start(&url, "a").await?, start(&url, "b").await?);
    let (broken, kept) = (a.lock("it")?.acquire_shared().await?, a.lock("other")?.acquire().await?);
    let also = a.lock("it")?.acquire_shared().await?;
    let begin = Instant::now();
    assert!(b.lock("it")?.break_lock().await?);
    println!("broken after {:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(1), "the holder gave way");
    for guard in [broken, also] {
        assert_eq!(guard.loss(), Some(Loss::Taken));
    }
    assert!(kept.verify().await?);
    a.stop().await?;
    b.stop().await?;
    Inspector::connect(&url).await?.wipe().await
}

// ---- Sizes, and servers that are not there.

#[tokio::test]
async fn what_is_too_long_is_refused_before_anything_is_sent() -> Result<()> {
    if_asked_for!();
    let a = start(&shared("timeout=20"), &"m".repeat(1_000)).await?;
    let longest = "g".repeat(1_000);
    a.join_group_create(&*longest, &()).await?;
    a.campaign(&*longest).await?.resign().await?;
    a.lock("l".repeat(1_000_000))?.acquire().await?.release().await?;
    a.update_capabilities(&*longest, &"x".repeat(16 * 1024 * 1024 - 16)).await?;
    assert_eq!(a.members_with_capabilities(&*longest).await?.len(), 1);
    let too_many = "x".repeat(16 * 1024 * 1024 + 1);
    for error in [
        a.update_capabilities(&*longest, &too_many).await.unwrap_err(),
        a.create_group("g".repeat(1_001)).await.unwrap_err(),
        a.join_group_create("h", &too_many).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
        let text = error.to_string();
        assert!(text.contains("1000") || text.contains("16777216"), "the limit is named: {text}");
    }
    a.stop().await?;
    let error = build(&shared(""), &"m".repeat(1_001))?.start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_with_the_cause() -> Result<()> {
    if_asked_for!();
    for (host, cause) in [("127.0.0.1:1", "refused"), ("nowhere.invalid:5432", "lookup")] {
        let begin = Instant::now();
        let url = format!("postgresql://postgres@{host}/postgres");
        let error = build(&url, "a")?.start().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connection, "{error:?}");
        let shown = everything(&error);
        assert!(shown.contains(host) && shown.contains(cause), "{shown}");
        assert!(begin.elapsed() < 4 * SECOND, "{:?}", begin.elapsed());
    }
    // One that takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = silent.local_addr().unwrap().to_string();
    let begin = Instant::now();
    let url = format!("postgresql://postgres@{host}/postgres?timeout=6");
    let error = build(&url, "a")?.start().await.unwrap_err();
    let shown = everything(&error);
    assert!(shown.contains(&host) && shown.contains("2 s"), "{shown}");
    assert!(begin.elapsed() < 4 * SECOND, "{:?}", begin.elapsed());
    Ok(())
}

/// An error with its causes.
fn everything(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text.push_str(&format!(": {next}"));
        cause = next.source();
    }
    text
}
