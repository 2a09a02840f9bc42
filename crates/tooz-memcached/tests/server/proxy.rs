//! Between a coordinator and its server: counts what is sent, loses answers, breaks connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

pub(crate) struct Proxy {
    pub(crate) port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// How many pieces were sent to the server: each round trip is one.
    sent: AtomicU64,
    /// The answer to the first piece that contains these bytes is lost, with the connection.
    lose: std::sync::Mutex<Option<Vec<u8>>>,
    connections: std::sync::Mutex<CancellationToken>,
    /// How many connections there have been.
    count: AtomicU64,
    /// Connections with a lower number no longer carry anything, and stay open.
    silent_below: AtomicU64,
}

impl Proxy {
    pub(crate) async fn start(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let state = shared.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = state.count.fetch_add(1, SeqCst);
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { continue };
                client.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                let (state, cut) = (state.clone(), state.connections.lock().unwrap().clone());
                tokio::spawn(async move {
                    let ((from, to), (answers, requests)) =
                        (client.into_split(), server.into_split());
                    let losing = AtomicBool::new(false);
                    tokio::select! {
                        () = forward(from, requests, &losing, (&state, number)) => {}
                        () = back(answers, to, &losing, (&state, number)) => {}
                        () = cut.cancelled() => {}
                    }
                });
            }
        });
        Self { port, shared }
    }

    pub(crate) fn url(&self, options: &str) -> String {
        format!("memcached://127.0.0.1:{}?{options}", self.port)
    }

    pub(crate) fn sent(&self) -> u64 {
        self.shared.sent.load(SeqCst)
    }

    /// The next piece that contains `bytes` reaches the server, and its answer nobody.
    pub(crate) fn lose_answer_to(&self, bytes: &str) {
        *self.shared.lose.lock().unwrap() = Some(bytes.into());
    }

    /// Whether the answer was lost that was to be lost.
    pub(crate) fn has_lost(&self) -> bool {
        self.shared.lose.lock().unwrap().is_none()
    }

    /// Established connections no longer carry anything; the next ones are served.
    pub(crate) fn silence_established(&self) {
        self.shared.silent_below.store(self.shared.count.load(SeqCst), SeqCst);
    }

    /// Nobody hears of anybody any longer.
    pub(crate) fn silence_all(&self) {
        self.shared.silent_below.store(u64::MAX, SeqCst);
    }

    /// Breaks all connections.
    pub(crate) fn cut(&self) {
        std::mem::take(&mut *self.shared.connections.lock().unwrap()).cancel();
    }
}

impl Shared {
    fn is_silent(&self, number: u64) -> bool {
        number < self.silent_below.load(SeqCst)
    }
}

async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    losing: &AtomicBool,
    (state, number): (&Shared, u64),
) {
    let mut piece = vec![0; 1 << 20];
    while let Ok(size @ 1..) = from.read(&mut piece).await {
        state.sent.fetch_add(1, SeqCst);
        let piece = &piece[..size];
        let lost = {
            let mut lose = state.lose.lock().unwrap();
            let hit = |bytes: &Vec<u8>| piece.windows(bytes.len()).any(|window| window == bytes);
            let hit = lose.as_ref().is_some_and(hit);
            if hit {
                *lose = None;
            }
            losing.fetch_or(hit, SeqCst);
            hit
        };
        if state.is_silent(number) {
            continue;
        }
        if to.write_all(piece).await.is_err() {
            return;
        }
        if lost {
            // The answer, which shows that it was done, ends the connection.
            return std::future::pending().await;
        }
    }
}

async fn back(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    losing: &AtomicBool,
    (state, number): (&Shared, u64),
) {
    let mut piece = vec![0; 1 << 20];
    while let Ok(size @ 1..) = from.read(&mut piece).await {
        if state.is_silent(number) {
            continue;
        }
        if losing.load(SeqCst) || to.write_all(&piece[..size]).await.is_err() {
            return;
        }
    }
    if state.is_silent(number) {
        // Not even the end.
        std::future::pending::<()>().await;
    }
}
