//! What stands between a coordinator and its backend, and harms what passes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tooz_core::{CoordinatorUrl, Error, ErrorKind, Result};

/// A proxy before each host of a URL. It ends with its runtime.
pub(crate) struct Proxy {
    url: String,
    shared: Arc<Shared>,
}

struct Shared {
    harm: watch::Sender<Harm>,
    /// Counts the connections, so that those of before a harm are told from those after it.
    connections: AtomicU64,
}

/// What happens to connections. Each number is that of the first connection that is spared.
#[derive(Clone, Copy, Default)]
struct Harm {
    reset_below: u64,
    half_reset_below: u64,
    silent_below: u64,
    /// New connections come to nothing either.
    frozen: bool,
    /// Answers come to nothing, and neither does the end of a connection reach the client.
    deaf: bool,
    /// How long each answer is on its way.
    delay: Duration,
}

/// What becomes of one connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Reset,
    HalfReset,
    Silence,
}

impl Proxy {
    /// A proxy for each host of `url`.
    pub(crate) async fn before(url: &str) -> Result<Self> {
        let parsed: CoordinatorUrl = url.parse()?;
        let shared =
            Arc::new(Shared { harm: watch::Sender::default(), connections: AtomicU64::new(0) });
        let mut hosts = Vec::new();
        for host in parsed.hosts() {
            let port =
                host.port.ok_or_else(|| Error::invalid("a host of the setup has no port"))?;
            let listener = TcpListener::bind("127.0.0.1:0").await.map_err(unbound)?;
            let own = listener.local_addr().map_err(unbound)?;
            // By the same name, for certificates.
            let name = if host.name.contains(':') { "127.0.0.1" } else { &host.name };
            hosts.push(format!("{name}:{}", own.port()));
            tokio::spawn(shared.clone().accept(listener, (host.name.clone(), port)));
        }
        if hosts.is_empty() {
            return Err(Error::invalid("the setup has no host that a proxy could stand before"));
        }
        Ok(Self { url: with_hosts(url, &hosts.join(",")), shared })
    }

    /// The URL, by way of the proxy.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Resets the connections on both sides; new ones work.
    pub(crate) fn reset(&self) {
        let next = self.next();
        self.shared.harm.send_modify(|harm| harm.reset_below = next);
    }

    /// Resets the connections on the backend's side alone, and says nothing more on the other; new
    /// ones work. So does a middlebox that has forgotten a connection.
    pub(crate) fn reset_half(&self) {
        let next = self.next();
        self.shared.harm.send_modify(|harm| harm.half_reset_below = next);
    }

    /// Lets nothing pass on the connections that there are; new ones work.
    pub(crate) fn silence(&self) {
        let next = self.next();
        self.shared.harm.send_modify(|harm| harm.silent_below = next);
    }

    /// Lets nothing pass, on new connections either, until [`thaw`](Self::thaw). The connections
    /// of before stay silent after it.
    pub(crate) fn freeze(&self) {
        let next = self.next();
        self.shared.harm.send_modify(|harm| (harm.silent_below, harm.frozen) = (next, true));
    }

    pub(crate) fn thaw(&self) {
        let next = self.next();
        self.shared.harm.send_modify(|harm| {
            (harm.silent_below, harm.frozen, harm.deaf) = (next, false, false);
        });
    }

    /// Lets requests pass and nothing else: the client hears neither an answer nor an end, until
    /// [`thaw`](Self::thaw). The connections of before stay silent after it.
    pub(crate) fn deafen(&self) {
        self.shared.harm.send_modify(|harm| harm.deaf = true);
    }

    /// Keeps each piece of an answer back for so long.
    pub(crate) fn delay(&self, delay: Duration) {
        self.shared.harm.send_modify(|harm| harm.delay = delay);
    }

    fn next(&self) -> u64 {
        self.shared.connections.load(Relaxed)
    }
}

impl Shared {
    async fn accept(self: Arc<Self>, listener: TcpListener, server: (String, u16)) {
        while let Ok((client, _)) = listener.accept().await {
            let number = self.connections.fetch_add(1, Relaxed);
            tokio::spawn(self.clone().connection(client, server.clone(), number));
        }
    }

    async fn connection(
        self: Arc<Self>,
        mut client: TcpStream,
        (host, port): (String, u16),
        number: u64,
    ) {
        let mut harm = self.harm.subscribe();
        let opened = tokio::select! {
            biased;
            fate = fated(&mut harm, number) => Err(fate),
            opened = TcpStream::connect((host, port)) => Ok(opened),
        };
        let fate = match opened {
            Err(fate) => fate,
            Ok(Err(_)) => {
                hearing(&mut harm).await;
                return reset(client);
            }
            Ok(Ok(mut server)) => {
                // Failing that, answers wait for one another.
                drop((client.set_nodelay(true), server.set_nodelay(true)));
                let (mut from_client, to_client) = client.split();
                let (mut from_server, mut to_server) = server.split();
                let fate = tokio::select! {
                    biased;
                    fate = fated(&mut harm, number) => fate,
                    // Either side's end is that of both: no protocol here closes half-way.
                    _ = copy(&mut from_client, &mut to_server) => return hearing(&mut harm).await,
                    () = self.answers(&mut from_server, to_client) => {
                        return hearing(&mut harm).await;
                    }
                };
                if fate == Fate::Silence {
                    reset_told(&mut harm, number).await;
                }
                reset(server);
                fate
            }
        };
        if fate == Fate::HalfReset || fate == Fate::Silence {
            reset_told(&mut harm, number).await;
        }
        reset(client);
    }

    /// Passes answers on, each after the delay of its time.
    async fn answers(&self, server: &mut ReadHalf<'_>, mut client: WriteHalf<'_>) {
        let mut piece = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = server.read(&mut piece).await {
            let Harm { delay, deaf, .. } = *self.harm.borrow();
            if deaf {
                continue;
            }
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            if client.write_all(&piece[..length]).await.is_err() {
                return;
            }
        }
    }
}

/// Waits until harm comes to a connection.
async fn fated(harm: &mut watch::Receiver<Harm>, number: u64) -> Fate {
    let of = |harm: &Harm| {
        if number < harm.reset_below {
            Some(Fate::Reset)
        } else if number < harm.half_reset_below {
            Some(Fate::HalfReset)
        } else if number < harm.silent_below || harm.frozen {
            Some(Fate::Silence)
        } else {
            None
        }
    };
    match harm.wait_for(|harm| of(harm).is_some()).await {
        Ok(harm) => of(&harm).unwrap_or(Fate::Silence),
        // The test is over.
        Err(_) => Fate::Reset,
    }
}

/// Waits until a silent connection is reset, or the test is over.
async fn reset_told(harm: &mut watch::Receiver<Harm>, number: u64) {
    drop(harm.wait_for(|harm| number < harm.reset_below).await);
}

/// Waits until the client hears again, or the test is over.
async fn hearing(harm: &mut watch::Receiver<Harm>) {
    drop(harm.wait_for(|harm| !harm.deaf).await);
}

/// Ends a connection by a reset rather than an orderly end.
fn reset(stream: TcpStream) {
    // Failing that, it ends in order.
    drop(stream.set_zero_linger());
}

fn unbound(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Internal, "the proxy has no port").caused_by(error)
}

/// The URL with other hosts. As text, since a parsed one shows no password.
fn with_hosts(url: &str, hosts: &str) -> String {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find(['/', '?', '#']).map_or(url.len(), |at| start + at);
    let login = url[start..end].rfind('@').map_or(start, |at| start + at + 1);
    format!("{}{hosts}{}", &url[..login], &url[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_replaced_and_nothing_else() {
        for (url, expected) in [
            ("redis://h:1?db=2", "redis://x:9?db=2"),
            ("mysql://u:p%2F@h:1,i:2/db?a=b@c", "mysql://u:p%2F@x:9/db?a=b@c"),
            ("etcd3://[::1]:2379", "etcd3://x:9"),
        ] {
            assert_eq!(with_hosts(url, "x:9"), expected);
        }
    }
}
