//! Private servers for one test, and a way to them that can be troubled.

#![allow(dead_code, reason = "each test program uses a part")]

pub(crate) mod journal;
pub(crate) mod proxy;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tooz_core::{Coordinator, Registry, Result};

/// Whether tests with real servers were asked for, by `TOOZ_TEST_URL_ZOOKEEPER` as for the
/// conformance kit. They start their own with Debian's jars.
pub(crate) fn asked_for() -> bool {
    let asked = std::env::var_os("TOOZ_TEST_URL_ZOOKEEPER").is_some();
    if !asked {
        eprintln!("not asked for: TOOZ_TEST_URL_ZOOKEEPER is not set");
    }
    asked
}

const JARS: &str = "/usr/share/java";

const JVM: [&str; 12] = [
    "-Xms32m",
    "-Xmx192m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:CICompilerCount=1",
    "-XX:-UsePerfData",
    "-Xshare:auto",
    "-Djava.net.preferIPv4Stack=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dzookeeper.forceSync=no",
    "-Dzookeeper.admin.enableServer=false",
    "-Dzookeeper.4lw.commands.whitelist=*",
];

/// Killed when dropped.
pub(crate) struct Server {
    pub(crate) port: u16,
    process: Child,
    folder: TempDir,
    jvm: Vec<String>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::launch(free_port(), "", &[], None).ready()
    }

    /// `settings` may name files in the folder, which `prepare` fills.
    pub(crate) fn start_with(settings: impl FnOnce(&TempDir) -> String, jvm: &[String]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(&folder);
        Self::launch_in(folder, free_port(), &settings, jvm, None).ready()
    }

    fn launch(port: u16, settings: &str, jvm: &[String], number: Option<usize>) -> Self {
        Self::launch_in(tempfile::tempdir().unwrap(), port, settings, jvm, number)
    }

    fn launch_in(
        folder: TempDir,
        port: u16,
        settings: &str,
        jvm: &[String],
        number: Option<usize>,
    ) -> Self {
        let data = folder.path().join("data");
        std::fs::create_dir_all(&data).unwrap();
        if let Some(number) = number {
            std::fs::write(data.join("myid"), number.to_string()).unwrap();
        }
        let text = format!(
            "tickTime=200\nminSessionTimeout=400\nmaxSessionTimeout=600000\ndataDir={}\n\
             clientPortAddress=127.0.0.1\nclientPort={port}\nmaxClientCnxns=0\n\
             preAllocSize=1024\n{settings}\n",
            data.display()
        );
        std::fs::write(folder.path().join("zoo.cfg"), text).unwrap();
        let process = spawn(&folder, jvm);
        Self { port, process, folder, jvm: jvm.to_vec() }
    }

    fn ready(self) -> Self {
        self.wait_ready();
        self
    }

    pub(crate) fn url(&self, options: &str) -> String {
        format!("zookeeper://127.0.0.1:{}?{options}", self.port)
    }

    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Sets the counters of all queues, while it is down, to what they were after this many
    /// contenders.
    pub(crate) fn set_counters(&self, to: i32) {
        let mut set = 0;
        for path in self.journals() {
            let mut bytes = std::fs::read(&path).unwrap();
            set += journal::set_counters(&mut bytes, "__lock__", to);
            std::fs::write(&path, bytes).unwrap();
        }
        assert!(set > 0, "no contender in the server's journal");
    }

    /// Whether a text is in its journal.
    pub(crate) fn has_written(&self, text: &str) -> bool {
        let has = |path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).contains(text);
        self.journals().into_iter().any(has)
    }

    fn journals(&self) -> Vec<std::path::PathBuf> {
        let files = std::fs::read_dir(self.folder.path().join("data/version-2")).unwrap();
        let files = files.map(|file| file.unwrap().path());
        files.filter(|path| path.file_stem().is_some_and(|name| name == "log")).collect()
    }

    /// Starts it again on its port and its data.
    pub(crate) fn restart(&mut self) {
        self.process = spawn(&self.folder, &self.jvm);
    }

    pub(crate) fn wait_ready(&self) {
        wait_for("a server that serves", || self.ask("srvr").contains("Mode: "));
    }

    pub(crate) fn leads(&self) -> bool {
        self.ask("srvr").contains("Mode: leader")
    }

    /// A four-letter word's answer, or nothing.
    pub(crate) fn ask(&self, word: &str) -> String {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(word.as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().unwrap_or_default()
    }
}

/// What the server counts under a name.
pub(crate) fn number(server: &Server, name: &str) -> u64 {
    let answer = server.ask("mntr");
    let line = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('\t'));
    line.unwrap_or_else(|| panic!("{name} in {answer}")).trim().parse().unwrap()
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Three servers.
pub(crate) fn ensemble() -> Vec<Server> {
    let ports: Vec<[u16; 3]> = (0..3).map(|_| [free_port(), free_port(), free_port()]).collect();
    let mut settings = "initLimit=50\nsyncLimit=10\nquorumListenOnAllIPs=false\n\
                        standaloneEnabled=false\n"
        .to_owned();
    for (id, [_, quorum, election]) in (1..).zip(&ports) {
        settings += &format!("server.{id}=127.0.0.1:{quorum}:{election}\n");
    }
    let servers: Vec<_> = (1..)
        .zip(&ports)
        .map(|(id, [port, ..])| Server::launch(*port, &settings, &[], Some(id)))
        .collect();
    servers.iter().for_each(Server::wait_ready);
    servers
}

pub(crate) fn wait_for(what: &str, happened: impl Fn() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn spawn(folder: &TempDir, jvm: &[String]) -> Child {
    let log =
        std::fs::File::options().create(true).append(true).open(folder.path().join("log")).unwrap();
    Command::new("java")
        .args(JVM)
        .args(jvm)
        .args(["-cp", &class_path()])
        .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
        .arg(folder.path().join("zoo.cfg"))
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .expect("java is installed")
}

/// The server's jar names most of its libraries itself; but one with all of Netty is empty.
fn class_path() -> String {
    let mut jars = vec!["slf4j-api.jar".to_owned(), "slf4j-simple.jar".to_owned()];
    for entry in std::fs::read_dir(JARS).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let versioned = name.contains("Final");
        if name.starts_with("netty-") && name != "netty-all.jar" && !versioned {
            jars.push(name);
        }
    }
    jars.push("zookeeper.jar".to_owned());
    jars.iter().map(|jar| format!("{JARS}/{jar}")).collect::<Vec<_>>().join(":")
}

pub(crate) fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 20_000 + (std::process::id() % 14) as u16 * 100;
    (0..100)
        .map(|_| base + NEXT.fetch_add(1, Relaxed) % 100)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

pub(crate) fn build(url: &str, member: &str) -> Result<Coordinator> {
    Registry::new().with(tooz_zookeeper::DRIVER)?.builder(url, member)?.build()
}

pub(crate) async fn start(url: &str, member: &str) -> Result<Coordinator> {
    let coordinator = build(url, member)?;
    coordinator.start().await?;
    Ok(coordinator)
}
