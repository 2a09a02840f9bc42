//! A way to a server that can be slow, silent or cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Ends with the runtime of its test.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    way: Arc<watch::Sender<Way>>,
    connections: Arc<AtomicU64>,
}

/// What happens to what goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Open,
    /// This long in each direction.
    Slow(Duration),
    /// Nothing goes through, and nobody is told.
    Silent,
    /// The same for connections up to this number; later ones are served.
    SilentUpTo(u64),
    /// Cut once, at the next thing that the server says, which is lost; then open.
    LosingAReply,
}

impl Proxy {
    pub(crate) async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let way = Arc::new(watch::Sender::new(Way::Open));
        let connections = Arc::new(AtomicU64::new(0));
        let (ways, counter) = (way.clone(), connections.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (ways, number) = (ways.clone(), counter.fetch_add(1, SeqCst) + 1);
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else {
                        return;
                    };
                    client.set_nodelay(true).unwrap();
                    server.set_nodelay(true).unwrap();
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    tokio::select! {
                        () = pass(from_client, to_server, &ways, number, false) => {}
                        () = pass(from_server, to_client, &ways, number, true) => {}
                    }
                });
            }
        });
        Self { port, way, connections }
    }

    pub(crate) fn url(&self, options: &str) -> String {
        format!("zookeeper://127.0.0.1:{}?{options}", self.port)
    }

    pub(crate) fn set(&self, way: Way) {
        self.way.send_replace(way);
    }

    /// All connections that there are stay silent from now on.
    pub(crate) fn silence(&self) {
        self.set(Way::SilentUpTo(self.connections.load(SeqCst)));
    }

    /// Waits until the way is this one.
    pub(crate) async fn is(&self, way: Way) {
        self.way.subscribe().wait_for(|now| *now == way).await.unwrap();
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    ways: &Arc<watch::Sender<Way>>,
    number: u64,
    replies: bool,
) {
    // Read on while what came before is on its way.
    let (sender, mut delayed) = tokio::sync::mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let write = async {
        while let Some((when, bytes)) = delayed.recv().await {
            sleep_until(when).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    // Whether the way was cut, rather than one end closed.
    let read = async move {
        let mut chunk = vec![0; 65_536];
        loop {
            let Ok(count @ 1..) = from.read(&mut chunk).await else { return false };
            let mut way = ways.subscribe();
            let passes = |way: &Way| match way {
                Way::Silent => false,
                Way::SilentUpTo(last) => number > *last,
                _ => true,
            };
            if way.wait_for(passes).await.is_err() {
                return true;
            }
            let way = *ways.borrow();
            if way == Way::LosingAReply && replies {
                ways.send_replace(Way::Open);
                return true;
            }
            let delay = if let Way::Slow(delay) = way { delay } else { Duration::ZERO };
            let _ = sender.send((Instant::now() + delay, chunk[..count].to_vec()));
        }
    };
    let mut write = std::pin::pin!(write);
    let cut = tokio::select! {
        () = &mut write => true,
        cut = read => cut,
    };
    if !cut {
        // What one end said last reaches the other.
        write.await;
    }
}
