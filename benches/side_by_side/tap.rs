//! A proxy that counts the requests that pass it, for servers that do not tell at once.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::Context as _;

/// How to tell requests apart.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// A request has one line with the version.
    Http,
    /// A type and a length; what is executed counts, not what prepares it.
    PostgreSql,
    /// A length and a number, which is zero at the start of a request.
    MySql,
    /// An array of texts, each behind its length.
    Redis,
}

/// It runs until the process ends.
pub(crate) struct Tap {
    pub(crate) address: String,
    requests: Arc<AtomicU64>,
}

impl Tap {
    pub(crate) fn start(server: &str, kind: Kind) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("no port")?;
        let address = listener.local_addr()?.to_string();
        let requests = Arc::new(AtomicU64::new(0));
        let (count, server) = (Arc::clone(&requests), server.to_owned());
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(&server) else { continue };
                // A connection that fails here fails for its client, which tells.
                drop(pair(client, server, kind, Arc::clone(&count)));
            }
        });
        Ok(Self { address, requests })
    }

    pub(crate) fn count(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

fn pair(
    client: TcpStream,
    server: TcpStream,
    kind: Kind,
    requests: Arc<AtomicU64>,
) -> std::io::Result<()> {
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
    }
    let (from, to) = (client.try_clone()?, server.try_clone()?);
    let mut parser = Parser { kind, buffer: Vec::new(), greeted: false };
    small(move || {
        pass(from, to, |bytes| {
            requests.fetch_add(parser.feed(bytes), Ordering::Relaxed);
        });
    })?;
    small(move || pass(server, client, |_| ()))
}

/// A thread of which there may be thousands.
fn small(work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    thread::Builder::new().stack_size(128 * 1024).spawn(work).map(drop)
}

fn pass(mut from: TcpStream, mut to: TcpStream, mut see: impl FnMut(&[u8])) {
    let mut chunk = [0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut chunk) {
        see(&chunk[..read]);
        if to.write_all(&chunk[..read]).is_err() {
            break;
        }
    }
    // The other side sees the end, and its thread ends too.
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// What one client has sent, as far as it is not counted yet.
struct Parser {
    kind: Kind,
    buffer: Vec<u8>,
    /// Whether the first message, which has no type, is past.
    greeted: bool,
}

impl Parser {
    /// How many requests begin in these bytes.
    fn feed(&mut self, bytes: &[u8]) -> u64 {
        self.buffer.extend_from_slice(bytes);
        let mut requests = 0;
        while let Some((length, is_request)) = self.message() {
            self.buffer.drain(..length);
            requests += u64::from(is_request);
        }
        requests
    }

    /// The length of the first request; `None` while it is not all there. What a server's script
    /// calls is not seen here, as the server's own count has it.
    fn redis(&self) -> Option<usize> {
        // The number of a line, and where the next one begins.
        let number = |place: usize| {
            let rest = self.buffer.get(place..)?;
            let end = rest.windows(2).position(|window| window == b"\r\n")?;
            let number = std::str::from_utf8(rest.get(1..end)?).ok()?.parse::<usize>().ok()?;
            Some((number, place + end + 2))
        };
        let (texts, mut place) = number(0)?;
        for _ in 0..texts {
            let (length, text) = number(place)?;
            place = text + length + 2;
        }
        (place <= self.buffer.len()).then_some(place)
    }

    /// The length of the message that the buffer starts with, and whether it is a request; `None`
    /// while it is not all there.
    fn message(&mut self) -> Option<(usize, bool)> {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |n, &byte| n << 8 | usize::from(byte));
        let (length, is_request) = match self.kind {
            Kind::Http => {
                const VERSION: &[u8] = b" HTTP/1.1\r\n";
                let begins = |window: &[u8]| window == VERSION;
                match self.buffer.windows(VERSION.len()).position(begins) {
                    Some(place) => (place + VERSION.len(), true),
                    // What may be the beginning of it stays.
                    None => (self.buffer.len().saturating_sub(VERSION.len()), false),
                }
            }
            Kind::Redis => (self.redis()?, true),
            Kind::PostgreSql if !self.greeted => (number(self.buffer.get(..4)?), false),
            Kind::PostgreSql => {
                let length = 1 + number(self.buffer.get(1..5)?);
                (length, matches!(self.buffer[0], b'Q' | b'E'))
            }
            Kind::MySql => {
                let head = self.buffer.get(..4)?;
                let length =
                    usize::from(head[0]) | usize::from(head[1]) << 8 | usize::from(head[2]) << 16;
                (4 + length, head[3] == 0)
            }
        };
        if length == 0 || length > self.buffer.len() {
            return None;
        }
        // Eight bytes ask whether there is TLS; the greeting follows.
        self.greeted |= length != 8;
        Some((length, is_request))
    }
}
