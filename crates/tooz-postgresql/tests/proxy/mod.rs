//! A TCP proxy that counts round trips and loses answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Runs as long as the test's runtime.
pub(crate) struct Proxy {
    port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// How often a client spoke after the server had.
    trips: AtomicUsize,
    losing: AtomicBool,
}

impl Proxy {
    pub(crate) async fn start(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State::default());
        let proxy = Self { port, state: state.clone() };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
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

    pub(crate) fn trips(&self) -> usize {
        self.state.trips.load(SeqCst)
    }
}

async fn forward(mut client: TcpStream, mut server: TcpStream, state: Arc<State>) {
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
    let (mut servers_turn, mut lost) = (false, false);
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let Ok(read @ 1..) = read else { return };
                if !std::mem::replace(&mut servers_turn, true) {
                    state.trips.fetch_add(1, SeqCst);
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
