//! A proxy that can lose answers, can go silent, and counts connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Ends with its runtime.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    losing: watch::Sender<bool>,
    silence: watch::Sender<()>,
    connections: Arc<AtomicUsize>,
}

impl Proxy {
    /// A proxy of the server at that port of this host.
    pub(crate) async fn of(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let losing = watch::Sender::new(false);
        let silence = watch::Sender::new(());
        let (changes, silenced) = (losing.subscribe(), silence.clone());
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let (changes, mut silenced) = (changes.clone(), silenced.subscribe());
                tokio::spawn(async move {
                    // Kept open, so that nobody is told of an end.
                    let (mut client, mut server) = connect(client, server).await;
                    let deaf = tokio::select! {
                        () = pass(&mut client, &mut server, changes) => false,
                        _ = silenced.changed() => true,
                    };
                    if deaf {
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        Self { port, losing, silence, connections }
    }

    /// How many there have been.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// From now on, what the servers say gets lost; or no longer, after all connections were cut.
    pub(crate) fn lose(&self, losing: bool) {
        self.losing.send_replace(losing);
    }

    /// Nothing passes the connections that there are any more, and nobody is told. New ones work.
    pub(crate) fn silence(&self) {
        self.silence.send_replace(());
    }
}

async fn connect(client: TcpStream, server: u16) -> (TcpStream, TcpStream) {
    let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    (client, server)
}

async fn pass(client: &mut TcpStream, server: &mut TcpStream, mut losing: watch::Receiver<bool>) {
    let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
    losing.mark_unchanged();
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let Ok(read @ 1..) = read else { return };
                if server.write_all(&up[..read]).await.is_err() { return }
            }
            read = server.read(&mut down) => {
                let Ok(read @ 1..) = read else { return };
                let lost = *losing.borrow();
                if !lost && client.write_all(&down[..read]).await.is_err() { return }
            }
            _ = losing.changed() => if !*losing.borrow() { return },
        }
    }
}
