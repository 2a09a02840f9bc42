//! Between a coordinator and its server: silences, losses, delays.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Ends with its runtime.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// How many connections there have been.
    connections: AtomicU64,
    /// Connections with a lower number no longer carry anything, and stay open.
    silent_below: AtomicU64,
    /// Whether what the server says gets lost.
    losing: AtomicBool,
    /// What the server says from now on, and how it goes on, for ever.
    flood: OnceLock<(&'static str, String)>,
    /// How many bytes of that were taken.
    flooded: AtomicU64,
    /// How long answers take, in milliseconds.
    delay: AtomicU64,
    /// Rises when all connections are to be cut.
    cuts: watch::Sender<u64>,
}

impl Proxy {
    /// A proxy of the server at that port of this host.
    pub(crate) async fn of(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let state = shared.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = state.connections.fetch_add(1, SeqCst);
                tokio::spawn(pass(client, server, number, state.clone()));
            }
        });
        Self { port, shared }
    }

    pub(crate) fn url(&self, options: &str) -> String {
        format!("redis://127.0.0.1:{}?{options}", self.port)
    }

    /// Established connections no longer carry anything; the next ones are served.
    pub(crate) fn silence_established(&self) {
        self.shared.silent_below.store(self.shared.connections.load(SeqCst), SeqCst);
    }

    /// Nobody hears of anybody any longer.
    pub(crate) fn silence_all(&self) {
        self.shared.silent_below.store(u64::MAX, SeqCst);
    }

    /// From now on, what the server says gets lost; or no longer, after all connections were cut.
    pub(crate) fn lose(&self, losing: bool) {
        self.shared.losing.store(losing, SeqCst);
        if !losing {
            self.shared.cuts.send_modify(|cuts| *cuts += 1);
        }
    }

    /// From now on, whoever asks something gets these words, and then these for ever.
    pub(crate) fn flood(&self, begin: &'static str, then: String) {
        self.shared.flood.set((begin, then)).unwrap();
    }

    /// How many bytes of the flood were taken.
    pub(crate) fn flooded(&self) -> u64 {
        self.shared.flooded.load(SeqCst)
    }

    /// From now on, answers take that long.
    pub(crate) fn delay(&self, delay: Duration) {
        self.shared.delay.store(delay.as_millis() as u64, SeqCst);
    }
}

async fn pass(client: TcpStream, server: u16, number: u64, shared: Arc<Shared>) {
    let is_silent = || number < shared.silent_below.load(SeqCst);
    let mut cuts = shared.cuts.subscribe();
    cuts.mark_unchanged();
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else {
        if is_silent() {
            std::future::pending::<()>().await;
        }
        return;
    };
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let ((mut requests, mut client), (mut answers, mut server)) =
        (client.into_split(), server.into_split());
    let up = async {
        let mut piece = vec![0; 1 << 16];
        while let Ok(size @ 1..) = requests.read(&mut piece).await {
            if shared.flood.get().is_some() {
                return;
            }
            if !is_silent() && server.write_all(&piece[..size]).await.is_err() {
                return;
            }
        }
    };
    let down = async {
        let mut piece = vec![0; 1 << 16];
        while let Ok(size @ 1..) = answers.read(&mut piece).await {
            tokio::time::sleep(Duration::from_millis(shared.delay.load(SeqCst))).await;
            let lost = is_silent() || shared.losing.load(SeqCst);
            if !lost && client.write_all(&piece[..size]).await.is_err() {
                return;
            }
        }
        if is_silent() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
        _ = cuts.changed() => {}
    }
    let Some((begin, then)) = shared.flood.get() else { return };
    let mut words = begin.as_bytes().to_vec();
    while let Ok(size @ 1..) = client.write(&words).await {
        shared.flooded.fetch_add(size as u64, SeqCst);
        words.drain(..size);
        if words.len() < 1 << 16 {
            words.extend(then.repeat(1 + (1 << 16) / then.len()).bytes());
        }
    }
}
