//! A look at a namespace from the server's side, for tests and for a person in trouble.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tooz_core::{CoordinatorUrl, Error, ErrorKind, MemberId, Options, Result};
use zookeeper_client::{Client, Error as Cause};

use crate::config::Config;
use crate::connection;
use crate::errors::translate;

/// A separate connection to what the coordinators of a URL use.
pub struct Inspector {
    config: Config,
    client: Client,
}

impl Inspector {
    /// Connects. It needs a Tokio runtime.
    ///
    /// # Errors
    /// The same as those of [`Coordinator::start`](tooz_core::Coordinator::start).
    pub async fn connect(url: &str) -> Result<Self> {
        let url: CoordinatorUrl = url.parse()?;
        let mut config = Config::read(&url, Options::of(&url))?;
        // It stands by for as long as the coordinators work.
        config.timeout = config.timeout.max(Duration::from_secs(30));
        let client = connection::open(&config).await?;
        Ok(Self { config, client })
    }

    /// What coordinators have in the namespace besides groups: sessions, members, locks held and
    /// waited for, each as the path of its node and what is in it.
    ///
    /// # Errors
    /// If the server cannot be asked.
    pub async fn residue(&self) -> Result<Vec<String>> {
        let nodes = self.walk().await?;
        let ephemeral = nodes.into_iter().filter(|node| node.owner != 0);
        Ok(ephemeral.map(|node| format!("{} ({})", node.path, node.data.escape_ascii())).collect())
    }

    /// Ends the sessions of a member, and what depends on them, as if they had expired; returns how
    /// many there were. It speaks to the first server without TLS.
    ///
    /// # Errors
    /// If the server cannot be asked.
    pub async fn expire_sessions(&self, member: &MemberId) -> Result<usize> {
        let sessions = self.config.keys.sessions();
        let nodes = self.walk().await?;
        let theirs = nodes.iter().filter(|node| {
            node.path.starts_with(&sessions) && node.owner != 0 && node.data == member.as_bytes()
        });
        let mut ended = 0;
        for node in theirs {
            ended += 1;
            // The session's owner may come between and take it back.
            while self.client.check_stat(&node.path).await.map_err(translate)?.is_some() {
                self.end_session(node.owner).await?;
                self.client.sync(&node.path).await.map_err(translate)?;
            }
        }
        Ok(ended)
    }

    /// Ends a session by its number, which is all that it takes: its password follows from it.
    ///
    /// # Errors
    /// If the server cannot be asked.
    pub async fn end_session(&self, session: i64) -> Result<()> {
        let talk = async {
            let (host, port) = &self.config.servers[0];
            let mut stream = TcpStream::connect((host.as_str(), *port)).await?;
            let mut hello = Vec::new();
            hello.extend(0_i32.to_be_bytes()); // The protocol's version.
            hello.extend(0_i64.to_be_bytes()); // The last change that we have seen.
            hello.extend(10_000_i32.to_be_bytes());
            hello.extend(session.to_be_bytes());
            hello.extend(16_i32.to_be_bytes());
            hello.extend(password(session));
            hello.push(0);
            let mut goodbye = 1_i32.to_be_bytes().to_vec();
            goodbye.extend((-11_i32).to_be_bytes());
            // Both at once: the session's owner must not come between.
            let framed = [hello, goodbye].map(|message| {
                let length = i32::try_from(message.len()).unwrap_or(i32::MAX);
                [&length.to_be_bytes(), &message[..]].concat()
            });
            stream.write_all(&framed.concat()).await?;
            // The server closes the connection when it is done, unless the session was taken back.
            let mut rest = Vec::new();
            let mut answers = stream.take(4_096);
            let goodbye = answers.read_to_end(&mut rest);
            drop(tokio::time::timeout(Duration::from_millis(500), goodbye).await);
            Ok(())
        };
        talk.await.map_err(|error: std::io::Error| {
            Error::new(ErrorKind::Connection, "the session could not be ended").caused_by(error)
        })
    }

    /// Deletes the namespace with everything in it.
    ///
    /// # Errors
    /// If the server cannot be asked.
    pub async fn wipe(&self) -> Result<()> {
        for node in self.walk().await?.iter().rev() {
            match self.client.delete(&node.path, None).await {
                // What is still being written to is left.
                Ok(()) | Err(Cause::NoNode | Cause::NotEmpty) => {}
                Err(cause) => return Err(translate(cause)),
            }
        }
        Ok(())
    }

    /// Every node of the namespace, parents first.
    async fn walk(&self) -> Result<Vec<Node>> {
        let base = self.config.keys.base();
        self.client.sync(base).await.map_err(translate)?;
        let (mut nodes, mut next) = (Vec::new(), 0);
        let mut paths = vec![base.to_owned()];
        while let Some(path) = paths.get(next).cloned() {
            next += 1;
            let (data, children) = (self.client.get_data(&path), self.client.list_children(&path));
            match (data.await, children.await) {
                (Ok((data, stat)), Ok(children)) => {
                    paths.extend(children.iter().map(|child| format!("{path}/{child}")));
                    nodes.push(Node { path, data, owner: stat.ephemeral_owner });
                }
                // It is gone meanwhile.
                (Err(Cause::NoNode), _) | (_, Err(Cause::NoNode)) => {}
                (Err(cause), _) | (_, Err(cause)) => return Err(translate(cause)),
            }
        }
        Ok(nodes)
    }
}

struct Node {
    path: String,
    data: Vec<u8>,
    /// The session that it ends with; 0 for none.
    owner: i64,
}

/// What the server takes for the password of a session: pseudo-random bytes that follow from the
/// session's number and a constant, as Java's `Random` makes them.
fn password(session: i64) -> [u8; 16] {
    const SECRET: u64 = 0xB341_5C00;
    const FACTOR: u64 = 0x5_DEEC_E66D;
    const MASK: u64 = (1 << 48) - 1;
    let mut state = (session.cast_unsigned() ^ SECRET ^ FACTOR) & MASK;
    let mut password = [0; 16];
    for bytes in password.chunks_mut(4) {
        state = (state.wrapping_mul(FACTOR).wrapping_add(0xB)) & MASK;
        let number = (state >> 16).to_le_bytes();
        bytes.copy_from_slice(&number[..4]);
    }
    password
}

impl std::fmt::Debug for Inspector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inspector").finish_non_exhaustive()
    }
}
