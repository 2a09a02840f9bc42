//! Private servers for one test, and `etcdctl`.

#![allow(dead_code, reason = "each test program uses a part")]

pub(crate) mod endless;
pub(crate) mod proxy;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tooz_core::{Builder, Coordinator, Registry, Result};

/// The schemes of both transports: most of what is tested here is to hold over each.
pub(crate) const SCHEMES: [&str; 2] = ["etcd3", "etcd3+http"];

/// Whether tests with real servers were asked for, by `TOOZ_TEST_URL_ETCD3` as for the conformance
/// kit. They start their own with `etcd`, and look at them with `etcdctl`.
pub(crate) fn asked_for() -> bool {
    let asked = std::env::var_os("TOOZ_TEST_URL_ETCD3").is_some();
    if !asked {
        eprintln!("not asked for: TOOZ_TEST_URL_ETCD3 is not set");
    }
    asked
}

/// One node, or several that are one cluster. Killed when dropped.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    _folder: TempDir,
}

pub(crate) struct Node {
    pub(crate) port: u16,
    /// Where it speaks of its health, without TLS.
    health: u16,
    process: Child,
    arguments: Vec<String>,
}

impl Cluster {
    pub(crate) fn start(size: usize) -> Self {
        Self::start_with(size, &[])
    }

    /// With more options than are needed.
    pub(crate) fn start_with(size: usize, options: &[&str]) -> Self {
        // Somebody else may take a port between our look and the server's start.
        for _ in 0..5 {
            if let Some(cluster) = Self::try_start(size, options) {
                return cluster;
            }
        }
        panic!("the servers do not start");
    }

    /// One node with users, whose tokens are JWT: each change of users or roles makes all of them
    /// old. A login costs what it does by default.
    pub(crate) fn with_jwt() -> Self {
        let keys = tempfile::tempdir().unwrap();
        let file = |name: &str| keys.path().join(name).display().to_string();
        let (key, public) = (file("key.pem"), file("public.pem"));
        openssl(&["genrsa", "-out", &key, "2048"]);
        openssl(&["rsa", "-in", &key, "-pubout", "-out", &public]);
        let tokens = format!("jwt,pub-key={public},priv-key={key},sign-method=RS256,ttl=10m");
        // The server reads the keys when it starts.
        let server = Self::start_with(1, &["--auth-token", &tokens]);
        server.ctl(&["user", "add", "root:secret"]);
        server.ctl(&["auth", "enable"]);
        server
    }

    fn try_start(size: usize, options: &[&str]) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let clients: Vec<_> = (0..size).map(|_| free_port()).collect();
        let peers: Vec<_> = (0..size).map(|_| free_port()).collect();
        let url = |port| format!("http://127.0.0.1:{port}");
        let cluster: Vec<_> =
            peers.iter().enumerate().map(|(n, peer)| format!("n{n}={}", url(*peer))).collect();
        let node = |n: usize| {
            let (client, peer) = (url(clients[n]), url(peers[n]));
            let data = folder.path().join(format!("n{n}")).display().to_string();
            let name = format!("n{n}");
            let arguments = [
                ["--name", &name],
                ["--data-dir", &data],
                ["--listen-client-urls", &client],
                ["--advertise-client-urls", &client],
                ["--listen-peer-urls", &peer],
                ["--initial-advertise-peer-urls", &peer],
                ["--initial-cluster", &cluster.join(",")],
                // Leases of one second are allowed.
                ["--heartbeat-interval", "50"],
                ["--election-timeout", "500"],
            ];
            let arguments = arguments.iter().flatten().chain(options);
            let arguments: Vec<_> = arguments.map(|a| (*a).to_owned()).collect();
            let port = clients[n];
            Node { port, health: port, process: spawn(&arguments), arguments }
        };
        let mut cluster = Self { nodes: (0..size).map(node).collect(), _folder: folder };
        cluster.wait_ready().then_some(cluster)
    }

    /// Whether all serve; not if one has ended.
    fn wait_ready(&mut self) -> bool {
        let start = Instant::now();
        for node in &mut self.nodes {
            while !node.is_healthy() {
                if node.process.try_wait().unwrap().is_some() {
                    return false;
                }
                assert!(start.elapsed() < Duration::from_secs(30), "the servers do not start");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        true
    }

    pub(crate) fn url(&self, scheme: &str, options: &str) -> String {
        let hosts: Vec<_> = self.nodes.iter().map(|n| format!("127.0.0.1:{}", n.port)).collect();
        format!("{scheme}://{}?{options}", hosts.join(","))
    }

    pub(crate) fn ctl(&self, arguments: &[&str]) -> String {
        self.nodes[0].ctl(arguments)
    }

    /// How many leases and keys there are.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let leases = self.ctl(&["lease", "list"]);
        let keys = self.ctl(&["get", "", "--prefix", "--keys-only"]);
        // The first line says how many there are.
        let count = |text: &str| text.lines().filter(|line| !line.is_empty()).count();
        (count(&leases) - 1, count(&keys))
    }

    /// The node that leads the others.
    pub(crate) fn leader(&self) -> usize {
        let begin = Instant::now();
        loop {
            let leads = |node: &Node| {
                let status = node.ctl(&["endpoint", "status"]);
                // ENDPOINT, ID, VERSION, DB SIZE, IS LEADER, ...
                status.split(", ").nth(4) == Some("true")
            };
            if let Some(leader) = self.nodes.iter().position(leads) {
                return leader;
            }
            assert!(begin.elapsed() < Duration::from_secs(20), "nobody leads");
        }
    }
}

impl Node {
    /// A node that demands a client's certificate, with the [`certificates`] of a folder.
    pub(crate) fn with_tls(folder: &Path) -> Self {
        certificates(folder);
        let (port, peer, health) = (free_port(), free_port(), free_port());
        let file = |name: &str| folder.join(name).display().to_string();
        let (client, peer) =
            (format!("https://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
        let arguments = [
            ["--data-dir", &file("data")],
            ["--listen-client-urls", &client],
            ["--advertise-client-urls", &client],
            ["--listen-peer-urls", &peer],
            ["--initial-advertise-peer-urls", &peer],
            ["--initial-cluster", &format!("default={peer}")],
            ["--listen-metrics-urls", &format!("http://127.0.0.1:{health}")],
            ["--trusted-ca-file", &file("ca.pem")],
            ["--cert-file", &file("server.pem")],
            ["--key-file", &file("server-key.pem")],
            ["--client-cert-auth", "--enable-v2"],
        ];
        let arguments: Vec<_> = arguments.iter().flatten().map(|a| (*a).to_owned()).collect();
        let mut node = Self { port, health, process: spawn(&arguments), arguments };
        node.wait_healthy();
        node
    }

    /// Runs `etcdctl`; what it prints.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> String {
        let output = Command::new("etcdctl")
            .args(["--endpoints", &format!("127.0.0.1:{}", self.port)])
            .args(arguments)
            .env("ETCDCTL_API", "3")
            .output()
            .expect("etcdctl is installed");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "etcdctl {arguments:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again on its port, with its data.
    pub(crate) fn restart(&mut self) {
        self.process = spawn(&self.arguments);
        self.wait_healthy();
    }

    fn wait_healthy(&mut self) {
        let start = Instant::now();
        while !self.is_healthy() {
            assert!(start.elapsed() < Duration::from_secs(30), "the server does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn signal(&self, signal: &str) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    /// A number of which the server gives account.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no {name}"))
    }

    fn is_healthy(&self) -> bool {
        self.get("/health").is_ok_and(|text| text.contains(r#""health":"true""#))
    }

    fn get(&self, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.health))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map(|_| text)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(arguments: &[String]) -> Child {
    Command::new("etcd")
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir(Path::new("/"))
        .spawn()
        .expect("etcd is installed")
}

/// Makes an authority, and from it a certificate for the server and one for clients, in the place of
/// those that there were.
pub(crate) fn certificates(folder: &Path) {
    let script = "
        set -e
        mkdir new; cd new
        new='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30'
        openssl req -x509 $new -keyout ca.key -out ca.pem -subj '/CN=tooz test authority' \\
            -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
        for name in server client; do
            openssl req $new -keyout $name-key.pem -out request.pem -subj /O=tooz
            printf '%s\\n' subjectAltName=DNS:localhost,IP:127.0.0.1 \\
                extendedKeyUsage=serverAuth,clientAuth basicConstraints=critical,CA:FALSE >extensions
            openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 \\
                -extfile extensions -out $name.pem
        done
        mv *.pem ..; cd ..; rm -r new";
    let output = Command::new("sh").args(["-c", script]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn openssl(arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).output().expect("openssl is installed");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments:?}: {error}");
}

/// Below the range of outgoing connections.
fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 22_000 + (std::process::id() % 8) as u16 * 100;
    (0..100)
        .map(|_| base + NEXT.fetch_add(1, Relaxed) % 100)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

pub(crate) fn builder(url: &str, member: &str) -> Result<Builder> {
    let registry = Registry::new().with(tooz_etcd3::DRIVER)?.with(tooz_etcd3_http::DRIVER)?;
    registry.with(tooz_etcd::DRIVER)?.builder(url, member)
}

pub(crate) fn build(url: &str, member: &str) -> Result<Coordinator> {
    builder(url, member)?.build()
}

pub(crate) async fn start(url: &str, member: &str) -> Result<Coordinator> {
    let coordinator = build(url, member)?;
    coordinator.start().await?;
    Ok(coordinator)
}
