//! Servers for one test.

#![allow(dead_code, reason = "each test program uses a part")]

pub(crate) mod proxy;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tooz_core::{Coordinator, Registry, Result, Secret};
use tooz_http::{Endpoint, Http, Request, Response, Settings, Tls};

/// The server of that setup, if tests with real servers were asked for, as for the conformance kit.
pub(crate) fn asked_for(setup: &str) -> Option<String> {
    let variable = format!("TOOZ_TEST_URL_{setup}");
    let url = std::env::var(&variable).ok();
    if url.is_none() {
        eprintln!("not asked for: {variable} is not set");
    }
    url
}

/// A URL of a namespace of its own.
pub(crate) fn fresh(url: &str, options: &str) -> String {
    let separator = if url.contains('?') { '&' } else { '?' };
    let name = tooz_core::OperationId::random();
    format!("{url}{separator}namespace={name}&{options}")
}

pub(crate) fn build(url: &str, member: &str) -> Result<Coordinator> {
    Registry::new().with(tooz_consul::DRIVER)?.builder(url, member)?.build()
}

pub(crate) async fn start(url: &str, member: &str) -> Result<Coordinator> {
    let coordinator = build(url, member)?;
    coordinator.start().await?;
    Ok(coordinator)
}

/// Three servers. They are killed when it is dropped.
pub(crate) struct Cluster {
    folder: PathBuf,
    nodes: Vec<Node>,
}

struct Node {
    http: u16,
    process: Child,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let ports: Vec<[u16; 3]> =
            (0..3).map(|_| [free_port(), free_port(), free_port()]).collect();
        let folder = std::env::temp_dir().join(format!("tooz-consul-{}", ports[0][0]));
        std::fs::create_dir_all(&folder).unwrap();
        let join: Vec<_> = ports.iter().map(|p| format!("\"127.0.0.1:{}\"", p[2])).collect();
        let node = |(index, &[http, rpc, gossip]): (usize, &[u16; 3])| {
            let config = folder.join(format!("{index}.json"));
            let text = format!(
                r#"{{"bind_addr": "127.0.0.1", "client_addr": "127.0.0.1", "server": true,
                "bootstrap_expect": 3, "node_name": "node-{index}", "data_dir": "{data}",
                "retry_join": [{join}], "retry_interval": "1s", "disable_update_check": true,
                "session_ttl_min": "1s", "log_level": "WARN",
                "performance": {{"raft_multiplier": 1, "rpc_hold_timeout": "2s"}},
                "ports": {{"http": {http}, "server": {rpc}, "serf_lan": {gossip}, "serf_wan": -1,
                           "dns": -1, "grpc": -1, "https": -1}}}}"#,
                join = join.join(", "),
                data = folder.join(format!("data-{index}")).display(),
            );
            std::fs::write(&config, text).unwrap();
            let log = std::fs::File::create(folder.join(format!("{index}.log"))).unwrap();
            let process = Command::new(program())
                .args(["agent", "-config-file"])
                .arg(&config)
                .stdout(Stdio::from(log))
                .spawn()
                .expect("consul is installed");
            Node { http, process }
        };
        let nodes = ports.iter().enumerate().map(node).collect();
        let cluster = Self { folder, nodes };
        for index in 0..3 {
            cluster.serves(index).await;
        }
        cluster
    }

    /// Waits until a server takes writes.
    pub(crate) async fn serves(&self, index: usize) {
        let http = client(self.nodes[index].http);
        let begin = Instant::now();
        loop {
            match http.send(&Request::put("/v1/kv/ready")).await {
                Ok(response) if response.is_success() => return,
                _ => assert!(begin.elapsed() < Duration::from_secs(40), "the servers do not start"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The URL of all servers, or of some.
    pub(crate) fn url(&self, nodes: &[usize]) -> String {
        let hosts: Vec<_> =
            nodes.iter().map(|n| format!("127.0.0.1:{}", self.nodes[*n].http)).collect();
        format!("consul://{}", hosts.join(","))
    }

    /// Which server leads.
    pub(crate) async fn leader(&self) -> usize {
        let answer = client(self.nodes[0].http).send(&Request::get("/v1/status/leader")).await;
        let address: String = answer.unwrap().json().unwrap();
        let name = |index: &usize| {
            let path = self.folder.join(format!("{index}.json"));
            std::fs::read_to_string(path)
                .unwrap()
                .contains(&format!("\"server\": {},", address.rsplit(':').next().unwrap()))
        };
        (0..3).find(name).expect("one of the three leads")
    }

    pub(crate) fn kill(&mut self, index: usize) {
        self.nodes[index].process.kill().unwrap();
        self.nodes[index].process.wait().unwrap();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            let _ = node.process.kill();
            let _ = node.process.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

pub(crate) fn client(port: u16) -> Http {
    Http::new(Settings::new(vec![Endpoint::new("127.0.0.1", port)])).unwrap()
}

/// The setup with TLS and tokens.
pub(crate) struct Acl {
    url: String,
    http: Http,
}

/// A token of that setup.
pub(crate) struct Token {
    pub(crate) secret: String,
    accessor: String,
}

impl Acl {
    pub(crate) fn of(url: &str) -> Self {
        let option = |name| option(url, name);
        let file = |name| std::fs::read(option(name)).unwrap();
        let parsed: tooz_core::CoordinatorUrl = url.parse().unwrap();
        let host = &parsed.hosts()[0];
        let tls = Tls {
            authorities: Some(file("ca_cert")),
            identity: Some((file("client_cert"), file("client_key"))),
            server_name: None,
        };
        let endpoint = Endpoint::new(host.name.clone(), host.port.unwrap());
        let http = Http::new(Settings::new(vec![endpoint]).tls(tls)).unwrap();
        Self { url: url.to_owned(), http }
    }

    /// The URL with another value of an option, or none.
    pub(crate) fn url(&self, options: &[(&str, &str)]) -> String {
        let (base, own) = self.url.split_once('?').unwrap();
        let kept = own.split('&').filter(|o| !options.iter().any(|(n, _)| o.starts_with(n)));
        let kept: Vec<_> = kept.map(str::to_owned).collect();
        let new = options.iter().map(|(_, option)| (*option).to_owned());
        format!("{base}?{}", kept.into_iter().chain(new).collect::<Vec<_>>().join("&"))
    }

    pub(crate) async fn make_token(&self) -> Token {
        let body = serde_json::json!({ "Policies": [{ "Name": "tooz" }] });
        let request = Request::put("/v1/acl/token").json(&body).unwrap();
        let made: serde_json::Value = self.send(request).await.json().unwrap();
        let text = |name: &str| made[name].as_str().unwrap().to_owned();
        Token { secret: text("SecretID"), accessor: text("AccessorID") }
    }

    pub(crate) async fn delete_token(&self, token: &Token) {
        self.send(Request::delete(format!("/v1/acl/token/{}", token.accessor))).await;
    }

    async fn send(&self, request: Request) -> Response {
        // Of who may do everything.
        let master = Secret::new("11111111-2222-3333-4444-555555555555");
        let request = request.header("x-consul-token", &master).unwrap();
        self.http.send(&request).await.unwrap().success().unwrap()
    }
}

/// The value of an option in a URL.
pub(crate) fn option<'u>(url: &'u str, name: &str) -> &'u str {
    let (_, options) = url.split_once('?').unwrap();
    let value = options.split('&').find_map(|o| o.strip_prefix(name)?.strip_prefix('='));
    value.expect("the URL has the option")
}

/// A folder of a test's own, removed when it is dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        let name = format!("tooz-consul-{}", tooz_core::OperationId::random());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder).unwrap();
        Self(folder)
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What `cargo xtask` has fetched, or what is installed.
fn program() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let fetched = root.join("target/debian/consul-bullseye/usr/bin/consul");
    if fetched.is_file() { fetched } else { "consul".into() }
}

fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 24_200 + (std::process::id() % 4) as u16 * 100;
    (0..100)
        .map(|_| base + NEXT.fetch_add(1, Relaxed) % 100)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}
