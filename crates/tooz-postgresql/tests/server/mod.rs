//! The server that tests share, and private ones.

#![allow(dead_code, reason = "each test program uses a part")]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::{User, geteuid};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_postgres::NoTls;
use tooz_core::{Coordinator, OperationId, Registry, Result};

const URL: &str = "TOOZ_TEST_URL_POSTGRESQL";

/// Ends a test unless tests with real servers were asked for, by `TOOZ_TEST_URL_POSTGRESQL` as for
/// the conformance kit.
macro_rules! if_asked_for {
    () => {
        if !crate::server::asked_for() {
            return Ok(());
        }
    };
}
pub(crate) use if_asked_for;

pub(crate) fn asked_for() -> bool {
    let asked = std::env::var_os(URL).is_some();
    if !asked {
        eprintln!("not asked for: {URL} is not set");
    }
    asked
}

/// A schema of its own on the shared server.
pub(crate) fn shared(options: &str) -> String {
    with_schema(&std::env::var(URL).unwrap(), options)
}

/// The URL with a schema that nobody else uses.
pub(crate) fn with_schema(url: &str, options: &str) -> String {
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}schema=t{}&{options}", OperationId::random())
}

pub(crate) fn schema_of(url: &str) -> &str {
    url.split("schema=").nth(1).unwrap().split('&').next().unwrap()
}

pub(crate) fn build(url: &str, member: &str) -> Result<Coordinator> {
    Registry::new().with(tooz_postgresql::DRIVER)?.builder(url, member)?.build()
}

pub(crate) async fn start(url: &str, member: &str) -> Result<Coordinator> {
    let coordinator = build(url, member)?;
    coordinator.start().await?;
    Ok(coordinator)
}

/// Somebody else at the server: statements without tooz.
pub(crate) struct Peer(tokio_postgres::Client);

impl Peer {
    /// Logs in as `postgres` on that port.
    pub(crate) async fn at(port: u16) -> Self {
        Self::as_user(port, "postgres").await
    }

    pub(crate) async fn as_user(port: u16, user: &str) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let mut config = tokio_postgres::Config::new();
        config.user(user).dbname("postgres").application_name("peer");
        let (client, connection) = config.connect_raw(stream, NoTls).await.unwrap();
        tokio::spawn(connection);
        Self(client)
    }

    /// On the shared server.
    pub(crate) async fn shared() -> Self {
        Self::at(port_of(&std::env::var(URL).unwrap())).await
    }

    pub(crate) async fn run(&self, sql: &str) {
        self.0.batch_execute(sql).await.unwrap();
    }

    pub(crate) async fn ask<T: for<'a> tokio_postgres::types::FromSql<'a>>(&self, sql: &str) -> T {
        self.0.query_typed(sql, &[]).await.unwrap()[0].get(0)
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.0.is_closed()
    }
}

pub(crate) fn port_of(url: &str) -> u16 {
    let rest = url.rsplit(':').next().unwrap();
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

/// A process that is killed when dropped, with its folder.
pub(crate) struct Server {
    pub(crate) port: u16,
    pub(crate) folder: TempDir,
    process: Child,
    spawn: Command,
}

impl Server {
    /// A PostgreSQL server with these settings, `host` lines of its own, and files in its folder.
    pub(crate) fn postgresql(settings: &[&str], prepare: impl FnOnce(&Path)) -> Self {
        let folder = folder();
        let data = folder.path().join("data");
        let mut initdb = command(&program("initdb"), folder.path());
        initdb.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"]);
        initdb.args(["--no-sync", "-D"]).arg(&data);
        assert!(initdb.stdout(Stdio::null()).status().unwrap().success());
        prepare(folder.path());
        Self::serve(folder, settings)
    }

    /// A standby of the other one.
    pub(crate) fn standby(of: &Self) -> Self {
        let folder = folder();
        let mut copy = command(&program("pg_basebackup"), folder.path());
        copy.args(["-h", "127.0.0.1", "-U", "postgres", "-X", "stream", "-R", "-c", "fast"]);
        copy.args(["--no-sync", "-p", &of.port.to_string(), "-D"]).arg(folder.path().join("data"));
        assert!(copy.status().unwrap().success());
        Self::serve(folder, &[])
    }

    fn serve(folder: TempDir, settings: &[&str]) -> Self {
        let port = free_port();
        let mut postgres = command(&program("postgres"), folder.path());
        postgres.arg("-D").arg(folder.path().join("data")).args(["-p", &port.to_string()]);
        let sockets = format!("unix_socket_directories={}", folder.path().display());
        let always = ["listen_addresses=127.0.0.1", "fsync=off", "shared_buffers=16MB", &sockets];
        for setting in always.iter().chain(settings) {
            postgres.args(["-c", setting]);
        }
        let server = Self { port, process: postgres.spawn().unwrap(), spawn: postgres, folder };
        server.wait_ready();
        server
    }

    /// PgBouncer before the shared server.
    pub(crate) fn pgbouncer(pool_mode: &str, settings: &str) -> Self {
        let (folder, port) = (folder(), free_port());
        let server = port_of(&std::env::var(URL).unwrap());
        let text = format!(
            "[databases]\npostgres = host=127.0.0.1 port={server} dbname=postgres user=postgres\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = any\npool_mode = {pool_mode}\n{settings}\n"
        );
        let file = folder.path().join("pgbouncer.ini");
        std::fs::write(&file, text).unwrap();
        let mut pgbouncer = command(&program("pgbouncer"), folder.path());
        let process = pgbouncer.arg(&file).spawn().unwrap();
        let server = Self { port, process, spawn: pgbouncer, folder };
        server.wait_ready();
        server
    }

    /// Kills it with its sessions and starts it again.
    pub(crate) fn restart(&mut self) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-QUIT", &id]).status().unwrap().success());
        self.process.wait().unwrap();
        self.process = self.spawn.spawn().unwrap();
        self.wait_ready();
    }

    pub(crate) fn url(&self, options: &str) -> String {
        with_schema(&format!("postgresql://postgres@127.0.0.1:{}/postgres", self.port), options)
    }

    /// Sends a signal to the server with all its processes.
    pub(crate) fn signal_all(&self, signal: &str) {
        let id = self.process.id();
        let children = format!("/proc/{id}/task/{id}/children");
        let children = std::fs::read_to_string(children).unwrap();
        let all = children.split_whitespace().map(str::to_owned).chain([id.to_string()]);
        assert!(Command::new("kill").arg(signal).args(all).status().unwrap().success());
    }

    /// Kills one of its processes, whereupon it ends all sessions and recovers, in the same process.
    pub(crate) fn crash(&self, session: i32) {
        assert!(
            Command::new("kill").args(["-KILL", &session.to_string()]).status().unwrap().success()
        );
        let began = Instant::now();
        while Path::new(&format!("/proc/{session}")).exists() {
            assert!(began.elapsed() < Duration::from_secs(10), "the session does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
        self.wait_ready();
    }

    /// What psql prints for a statement. Blocks.
    pub(crate) fn psql(&self, database: &str, sql: &str) -> String {
        let mut psql = Command::new("psql");
        psql.args(["-h", "127.0.0.1", "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-Atc", sql]);
        psql.args(["-p", &self.port.to_string(), database]);
        let answer = psql.output().unwrap();
        assert!(answer.status.success(), "{sql}: {}", String::from_utf8_lossy(&answer.stderr));
        String::from_utf8(answer.stdout).unwrap().trim().to_owned()
    }

    fn wait_ready(&self) {
        let start = Instant::now();
        let ready = || {
            let mut psql = Command::new("psql");
            psql.args(["-h", "127.0.0.1", "-U", "postgres", "-c", "SELECT 1", "-p"]);
            psql.arg(self.port.to_string()).env("PGCONNECT_TIMEOUT", "2").env("PGPASSWORD", "x");
            let answer = psql.stdout(Stdio::null()).stderr(Stdio::piped()).output().unwrap();
            // One that refuses us serves, too.
            let text = String::from_utf8_lossy(&answer.stderr).into_owned();
            answer.status.success() || text.contains("pg_hba") || text.contains("password")
        };
        while !ready() {
            assert!(start.elapsed() < Duration::from_secs(30), "the server does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // At once, and without waiting for clients, also when it is stopped.
        let id = self.process.id().to_string();
        let _ = Command::new("kill").args(["-QUIT", &id]).status();
        let _ = Command::new("kill").args(["-CONT", &id]).status();
        // PgBouncer knows no QUIT, which a shell lets its background jobs ignore.
        let _ = Command::new("kill").args(["-TERM", &id]).status();
        let _ = self.process.wait();
    }
}

/// The user that servers run as when we are root, which they refuse.
fn nobody() -> Option<User> {
    geteuid().is_root().then(|| User::from_name("nobody").unwrap().expect("a user nobody"))
}

fn folder() -> TempDir {
    let folder = tempfile::Builder::new().prefix("tooz-pg-").tempdir_in("/tmp").unwrap();
    if let Some(user) = nobody() {
        let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
        std::os::unix::fs::chown(folder.path(), Some(uid), Some(gid)).unwrap();
    }
    folder
}

fn program(name: &str) -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<_> = folders.map(|entry| entry.path().join("bin")).collect();
    folders.sort();
    folders.push("/usr/sbin".into());
    folders.push("/usr/bin".into());
    let found = folders.into_iter().rev().map(|folder| folder.join(name)).find(|p| p.is_file());
    found.unwrap_or_else(|| panic!("{name} is not installed"))
}

/// A command that is killed when the test ends, whatever its end.
fn command(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if let Some(user) = nobody() {
        command.args(["--reuid", &user.uid.to_string(), "--regid", &user.gid.to_string()]);
        command.args(["--clear-groups", "--inh-caps=-all"]);
    }
    command.arg("--").arg(program).current_dir(folder).stdin(Stdio::null());
    let log = std::fs::File::options().create(true).append(true).open(folder.join("log")).unwrap();
    command.stdout(log.try_clone().unwrap()).stderr(log);
    command
}

fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 25_500 + (std::process::id() % 6) as u16 * 100;
    (0..100)
        .map(|_| base + NEXT.fetch_add(1, Relaxed) % 100)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}
