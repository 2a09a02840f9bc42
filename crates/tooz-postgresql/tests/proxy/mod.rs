//! A TCP proxy that counts round trips, loses answers, falls silent and cuts.

#![allow(dead_code, reason = "each test program uses a part")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Runs as long as the test's runtime.
pub(crate) struct Proxy {
    port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    fault: watch::Sender<Fault>,
    /// Which trip is held up.
    slow: AtomicUsize,
    connections: AtomicUsize,
    /// How often a client spoke after the server had.
    trips: AtomicUsize,
    losing: AtomicBool,
}

/// What befalls the connections with a number below this.
#[derive(Clone, Copy, Default)]
struct Fault {
    below: usize,
    kind: Kind,
}

#[derive(Clone, Copy, Default)]
enum Kind {
    /// Nothing is forwarded any more, and nobody hears of it.
    #[default]
    Silence,
    /// The server's side ends, and the client does not hear of it.
    ServerGone,
    /// The client's side is reset, and the server does not hear of it.
    ClientReset,
}

/// How long the slow trip takes.
pub(crate) const SLOW: Duration = Duration::from_millis(1_500);

impl Proxy {
    /// On a thread of its own, which goes on while the test's is busy.
    pub(crate) fn on_a_thread(server: u16) -> Self {
        let (give, take) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                give.send(Self::start(server).await).unwrap();
                std::future::pending::<()>().await;
            });
        });
        take.recv().unwrap()
    }

    pub(crate) async fn start(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State::default());
        let proxy = Self { port, state: state.clone() };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // A server that is down is one that hangs up.
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { continue };
                tokio::spawn(forward(client, server, state.clone()));
            }
        });
        proxy
    }

    /// The URL of the server, by way of the proxy.
    pub(crate) fn url(&self, url: &str) -> String {
        let port = super::server::port_of(url).to_string();
        url.replace(&port, &self.port.to_string())
    }

    /// The next request reaches the server, and its connection breaks before the answer.
    pub(crate) fn lose_answers(&self) {
        self.state.losing.store(true, SeqCst);
    }

    /// Connections that stand fall silent; new ones are served.
    pub(crate) fn silence_old(&self) {
        self.fail(self.state.connections.load(SeqCst), Kind::Silence);
    }

    /// All connections are silent, new ones too.
    pub(crate) fn silence(&self) {
        self.fail(usize::MAX, Kind::Silence);
    }

    /// The server sees all connections end, and the clients hear nothing, nor do new ones.
    pub(crate) fn cut_the_server(&self) {
        self.fail(usize::MAX, Kind::ServerGone);
    }

    /// Resets the clients' side of all connections that stand.
    pub(crate) fn reset_clients(&self) {
        self.fail(self.state.connections.load(SeqCst), Kind::ClientReset);
    }

    fn fail(&self, below: usize, kind: Kind) {
        self.state.fault.send_replace(Fault { below, kind });
    }

    /// The request after so many more takes [`SLOW`].
    pub(crate) fn slow_after(&self, trips: usize) {
        self.state.slow.store(self.trips() + trips + 1, SeqCst);
    }

    pub(crate) fn trips(&self) -> usize {
        self.state.trips.load(SeqCst)
    }
}

async fn forward(mut client: TcpStream, mut server: TcpStream, state: Arc<State>) {
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
    let (mut servers_turn, mut lost) = (false, false);
    let number = state.connections.fetch_add(1, SeqCst);
    let mut faults = state.fault.subscribe();
    loop {
        tokio::select! {
            biased;
            Ok(kind) = fails(&mut faults, number) => {
                match kind {
                    Kind::Silence => {}
                    Kind::ServerGone => drop(server),
                    Kind::ClientReset => {
                        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
                        drop(client);
                    }
                }
                return std::future::pending().await;
            }
            read = client.read(&mut up) => {
                let Ok(read @ 1..) = read else { return };
                if !std::mem::replace(&mut servers_turn, true) {
                    let trip = state.trips.fetch_add(1, SeqCst) + 1;
                    if trip == state.slow.load(SeqCst) {
                        tokio::time::sleep(SLOW).await;
                    }
                }
                lost |= state.losing.swap(false, SeqCst);
                if server.write_all(&up[..read]).await.is_err() { return }
                if lost {
                    // The server has it. What it answers is for nobody.
                    let _ = tokio::time::timeout(Duration::from_secs(5), server.read(&mut down)).await;
                    return;
                }
            }
            read = server.read(&mut down) => {
                let Ok(read @ 1..) = read else { return };
                servers_turn = false;
                if client.write_all(&down[..read]).await.is_err() { return }
            }
        }
    }
}

/// Waits until something befalls the connection of that number.
async fn fails(
    faults: &mut watch::Receiver<Fault>,
    number: usize,
) -> Result<Kind, watch::error::RecvError> {
    faults.wait_for(|fault| number < fault.below).await.map(|fault| fault.kind)
}
