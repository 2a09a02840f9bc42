//! A proxy between a coordinator and its server, for the faults of a network.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What becomes of the connections that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// A reset to both sides.
    Reset,
    /// A reset to the server, and silence to the client.
    Deaf,
    /// Silence to both sides.
    Silence,
}

/// It ends, and all connections with it, when it is dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    fault: watch::Sender<Fault>,
}

impl Proxy {
    /// In front of a server, `host:port`.
    pub(crate) async fn new(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (fault, faults) = watch::channel(Fault::None);
        let server = server.to_owned();
        tokio::spawn(async move {
            let mut ended = faults.clone();
            loop {
                let client = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap().0,
                    // The sender is gone with the proxy.
                    () = async { while ended.changed().await.is_ok() {} } => return,
                };
                let (server, mut faults) = (server.clone(), faults.clone());
                faults.mark_unchanged();
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(&server).await else { return };
                    serve(client, server, faults).await;
                });
            }
        });
        Self { address, fault }
    }

    /// Where it is, as in a URL.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Does this to the connections that are there. New ones are served.
    pub(crate) fn inflict(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }
}

async fn serve(mut client: TcpStream, mut server: TcpStream, mut faults: watch::Receiver<Fault>) {
    for stream in [&client, &server] {
        stream.set_nodelay(true).unwrap();
    }
    let fault = tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => return,
        changed = faults.changed() => match changed {
            Ok(()) => *faults.borrow(),
            Err(_) => return,
        },
    };
    if fault == Fault::Silence {
        while faults.changed().await.is_ok() {}
    } else if fault != Fault::None {
        server.set_zero_linger().unwrap();
        drop(server);
    }
    match fault {
        Fault::None | Fault::Silence => {}
        Fault::Reset => client.set_zero_linger().unwrap(),
        Fault::Deaf => while faults.changed().await.is_ok() {},
    }
}
