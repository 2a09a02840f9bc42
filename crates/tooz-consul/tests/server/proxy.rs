//! A proxy that counts requests, and can lose an answer.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Ends with its runtime.
#[derive(Clone)]
pub(crate) struct Proxy(Arc<Shared>);

struct Shared {
    port: u16,
    upstream: String,
    requests: Mutex<Vec<String>>,
    lose: AtomicBool,
    /// How often all connections were silenced.
    silenced: watch::Sender<usize>,
    /// How many renewals are yet to be swallowed.
    swallow: AtomicUsize,
    lost: AtomicUsize,
    open: AtomicUsize,
    most: AtomicUsize,
}

impl Proxy {
    /// A proxy of the server at `HOST:PORT`.
    pub(crate) async fn of(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shared = Shared {
            port: listener.local_addr().unwrap().port(),
            upstream: upstream.to_owned(),
            requests: Mutex::default(),
            lose: AtomicBool::new(false),
            silenced: watch::Sender::new(0),
            swallow: AtomicUsize::new(0),
            lost: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        };
        let proxy = Self(Arc::new(shared));
        let accepting = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let proxy = accepting.clone();
                tokio::spawn(async move {
                    let open = proxy.0.open.fetch_add(1, SeqCst) + 1;
                    proxy.0.most.fetch_max(open, SeqCst);
                    proxy.pass(client).await;
                    proxy.0.open.fetch_sub(1, SeqCst);
                });
            }
        });
        proxy
    }

    pub(crate) fn url(&self) -> String {
        format!("consul://127.0.0.1:{}", self.0.port)
    }

    /// The next answer to something that changes keys comes from the server, and is lost.
    pub(crate) fn lose_next(&self) {
        self.0.lose.store(true, SeqCst);
    }

    /// From now on nothing passes on the connections that there are, and nobody is told.
    pub(crate) fn silence(&self) {
        self.0.silenced.send_modify(|times| *times += 1);
    }

    /// Nothing passes any more on connections that one of the next so many renewals comes by.
    pub(crate) fn swallow(&self, renewals: usize) {
        self.0.swallow.store(renewals, SeqCst);
    }

    /// How many renewals are yet to be swallowed.
    pub(crate) fn to_swallow(&self) -> usize {
        self.0.swallow.load(SeqCst)
    }

    /// How many answers were lost.
    pub(crate) fn lost(&self) -> usize {
        self.0.lost.load(SeqCst)
    }

    /// How many connections were open at once, at the most.
    pub(crate) fn most_open(&self) -> usize {
        self.0.most.load(SeqCst)
    }

    /// The requests so far but for blocking queries, renewals, and looks at which sessions live, which
    /// come in their own time.
    pub(crate) fn take_requests(&self) -> Vec<String> {
        let mut requests = std::mem::take(&mut *self.0.requests.lock().unwrap());
        let own_time = ["index=", "/renew/", "/check/pass/", "/session/info/", "/session/node/"];
        requests.retain(|request| !own_time.iter().any(|part| request.contains(part)));
        requests
    }

    async fn pass(&self, mut client: TcpStream) {
        let Ok(mut server) = TcpStream::connect(&self.0.upstream).await else { return };
        let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
        let mut losing = false;
        let mut silenced = self.0.silenced.subscribe();
        silenced.mark_unchanged();
        loop {
            tokio::select! {
                _ = silenced.changed() => return std::future::pending().await,
                read = client.read(&mut up) => {
                    let Ok(read @ 1..) = read else { return };
                    let text = String::from_utf8_lossy(&up[..read]);
                    for line in text.lines().filter(|line| line.ends_with(" HTTP/1.1")) {
                        let changes = line.starts_with("PUT /v1/txn ") || line.contains("cas=");
                        losing |= changes && self.0.lose.swap(false, SeqCst);
                        let one_less = |left: usize| left.checked_sub(1);
                        if line.contains("/renew/")
                            && self.0.swallow.fetch_update(SeqCst, SeqCst, one_less).is_ok()
                        {
                            return std::future::pending().await;
                        }
                        self.0.requests.lock().unwrap().push(line.to_owned());
                    }
                    if server.write_all(&up[..read]).await.is_err() { return }
                }
                read = server.read(&mut down) => {
                    let Ok(read @ 1..) = read else { return };
                    if losing {
                        self.0.lost.fetch_add(1, SeqCst);
                        return;
                    }
                    if client.write_all(&down[..read]).await.is_err() { return }
                }
            }
        }
    }
}
