//! A private server for one test.

#![allow(dead_code, reason = "each test program uses a part")]

pub(crate) mod proxy;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tooz_core::{Coordinator, Registry, Result};

/// Whether tests with real servers were asked for, by `TOOZ_TEST_URL_MEMCACHED` as for the
/// conformance kit. They start their own with `memcached`.
pub(crate) fn asked_for() -> bool {
    let asked = std::env::var_os("TOOZ_TEST_URL_MEMCACHED").is_some();
    if !asked {
        eprintln!("not asked for: TOOZ_TEST_URL_MEMCACHED is not set");
    }
    asked
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
        let server = Self { port, process, arguments };
        server.wait_ready();
        server
    }

    pub(crate) fn url(&self, options: &str) -> String {
        format!("memcached://127.0.0.1:{}?{options}", self.port)
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

    pub(crate) fn signal(&self, signal: &str) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    /// What the server answers to commands, as another kind of client would send them.
    pub(crate) fn say(&self, commands: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(commands).unwrap();
        stream.write_all(b"\r\nquit\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    }

    /// Stores an item.
    pub(crate) fn set(&self, key: &str, flags: u32, seconds: u32, value: &[u8]) {
        let mut command = format!("set {key} {flags} {seconds} {}\r\n", value.len()).into_bytes();
        command.extend(value);
        assert!(self.say(&command).starts_with(b"STORED"));
    }

    /// The flags and the value of an item.
    pub(crate) fn get(&self, key: &str) -> Option<(u32, Vec<u8>)> {
        let answer = self.say(format!("get {key}").as_bytes());
        let head = answer.split(|byte| *byte == b'\n').next().unwrap();
        let words: Vec<_> = std::str::from_utf8(head).unwrap().split_whitespace().collect();
        let [_, _, flags, size] = words[..] else { return None };
        let (begin, size): (_, usize) = (head.len() + 1, size.parse().unwrap());
        Some((flags.parse().unwrap(), answer[begin..begin + size].to_vec()))
    }

    fn wait_ready(&self) {
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(start.elapsed() < Duration::from_secs(10), "the server does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(port: u16, arguments: &[String]) -> Child {
    Command::new("memcached")
        // It refuses to run as root; as anybody else, the option is of no effect.
        .args(["-u", "nobody"])
        .args(["-l", "127.0.0.1", "-p", &port.to_string(), "-U", "0", "-t", "2"])
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("memcached is installed")
}

fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 27_900 + (std::process::id() % 6) as u16 * 100;
    (0..100)
        .map(|_| base + NEXT.fetch_add(1, Relaxed) % 100)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

pub(crate) fn build(url: &str, member: &str) -> Result<Coordinator> {
    Registry::new().with(tooz_memcached::DRIVER)?.builder(url, member)?.build()
}

pub(crate) async fn start(url: &str, member: &str) -> Result<Coordinator> {
    let coordinator = build(url, member)?;
    coordinator.start().await?;
    Ok(coordinator)
}
