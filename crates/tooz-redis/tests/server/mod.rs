//! A private server for one test.

#![allow(dead_code, reason = "each test program uses a part")]

pub(crate) mod proxy;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tooz_core::{Coordinator, CoordinatorUrl, Heartbeat, Options, Registry, Result, Session};

/// Whether tests with real servers were asked for, by `TOOZ_TEST_URL_REDIS` as for the conformance
/// kit. They start their own with `redis-server`.
pub(crate) fn asked_for() -> bool {
    let asked = std::env::var_os("TOOZ_TEST_URL_REDIS").is_some();
    if !asked {
        eprintln!("not asked for: TOOZ_TEST_URL_REDIS is not set");
    }
    asked
}

/// A folder of one test, removed when dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let (process, number) = (std::process::id(), NEXT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(format!("tooz-redis-{name}-{process}-{number}"));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// The path of a file in it.
    pub(crate) fn path(&self, file: &str) -> String {
        self.0.join(file).display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Killed when dropped.
pub(crate) struct Server {
    pub(crate) port: u16,
    process: Child,
    arguments: Vec<String>,
}

impl Server {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let port = free_port();
        let arguments: Vec<_> = arguments.iter().map(|a| (*a).to_owned()).collect();
        let process = spawn(port, &arguments);
        Self { port, process, arguments }.ready()
    }

    /// Starts the sentinel that `file` says.
    pub(crate) fn sentinel(port: u16, file: &Path) -> Self {
        let process = Command::new("redis-server")
            .arg(file)
            .arg("--sentinel")
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        Self { port, process, arguments: Vec::new() }.ready()
    }

    fn ready(self) -> Self {
        self.wait_ready();
        self
    }

    /// Waits until a section of INFO has `text`.
    fn wait_for(&self, section: &str, text: &str) {
        let start = Instant::now();
        let mut connection = self.client();
        loop {
            let info: String =
                redis::cmd("INFO").arg(section).query(&mut connection).unwrap_or_default();
            if info.contains(text) {
                return;
            }
            // A failover takes 3 to 4 s, and a sentinel that missed a replica looks again in 10 s.
            assert!(start.elapsed() < Duration::from_secs(40), "no {text} in {info}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn url(&self, options: &str) -> String {
        format!("redis://127.0.0.1:{}?{options}", self.port)
    }

    pub(crate) fn client(&self) -> redis::Connection {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port)).unwrap();
        client.get_connection().unwrap()
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again on its port, empty.
    pub(crate) fn restart(&mut self) {
        self.process = spawn(self.port, &self.arguments);
        self.wait_ready();
    }

    /// Starts it again on its port, as a replica.
    fn follow(&mut self, master: &Self) {
        self.arguments.truncate(2);
        let address = ["--replicaof", "127.0.0.1", &master.port.to_string()].map(str::to_owned);
        self.arguments.extend(address);
        self.restart();
    }

    pub(crate) fn signal(&self, signal: &str) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    fn wait_ready(&self) {
        let start = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(start.elapsed() < Duration::from_secs(10), "the server does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A master with a replica, and three sentinels.
pub(crate) struct SentinelSet {
    sentinels: Vec<Server>,
    /// The master first.
    data: [Server; 2],
    folder: Folder,
}

impl SentinelSet {
    pub(crate) fn start() -> Self {
        // The sentinels know the replica by this address.
        let announced = ["--replica-announce-ip", "127.0.0.1"];
        let master = Server::start(&announced);
        let mut replica = Server::start(&announced);
        replica.kill();
        replica.follow(&master);
        master.wait_for("replication", "state=online");
        let folder = Folder::new("sentinels");
        let sentinels = (0..3).map(|_| {
            let port = free_port();
            let file = folder.path(&port.to_string());
            let settings = format!(
                "port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {} 2\n\
                 sentinel down-after-milliseconds main 2000\nsentinel failover-timeout main 6000\n",
                master.port
            );
            std::fs::write(&file, settings).unwrap();
            Server::sentinel(port, Path::new(&file))
        });
        let sentinels: Vec<_> = sentinels.collect();
        for sentinel in &sentinels {
            sentinel.wait_for("sentinel", "slaves=1,sentinels=3");
        }
        Self { sentinels, data: [master, replica], folder }
    }

    pub(crate) fn url(&self, options: &str) -> String {
        let hosts: Vec<_> =
            self.sentinels.iter().map(|one| format!("127.0.0.1:{}", one.port)).collect();
        format!("redis://{}?sentinel=main&{options}", hosts.join(","))
    }

    /// Kills the master with SIGKILL, and waits until the sentinels name the other one.
    pub(crate) fn kill_master(&mut self) {
        self.data[0].kill();
        self.data.reverse();
        let new = format!("address=127.0.0.1:{}", self.data[0].port);
        for sentinel in &self.sentinels {
            sentinel.wait_for("sentinel", &new);
        }
    }

    /// The killed master comes back as a replica of the new one.
    pub(crate) fn bring_back(&mut self) {
        let [master, killed] = &mut self.data;
        killed.follow(master);
        master.wait_for("replication", "state=online");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(port: u16, arguments: &[String]) -> Child {
    Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""])
        .args(["--dir", &std::env::temp_dir().display().to_string()])
        .args(arguments)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is installed")
}

pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 23_600 + (std::process::id() % 6) as u16 * 100;
    (0..100)
        .map(|_| base + NEXT.fetch_add(1, Relaxed) % 100)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

pub(crate) fn build(url: &str, member: &str) -> Result<Coordinator> {
    Registry::new().with(tooz_redis::DRIVER)?.builder(url, member)?.build()
}

pub(crate) async fn start(url: &str, member: &str) -> Result<Coordinator> {
    let coordinator = build(url, member)?;
    coordinator.start().await?;
    Ok(coordinator)
}

/// A session of the driver, with no engine around it: nothing renews it but its caller.
pub(crate) async fn session(url: &str, member: &str) -> Result<Arc<dyn Session>> {
    let url: CoordinatorUrl = url.parse()?;
    (tooz_redis::DRIVER.open)(&url, Options::of(&url))?.connect(&member.into()).await
}

/// A coordinator that nothing renews but its caller.
pub(crate) async fn by_hand(url: &str, member: &str) -> Result<Coordinator> {
    let registry = Registry::new().with(tooz_redis::DRIVER)?;
    let coordinator = registry.builder(url, member)?.heartbeat(Heartbeat::Manual).build()?;
    coordinator.start().await?;
    Ok(coordinator)
}
