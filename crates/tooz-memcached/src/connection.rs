//! One connection: requests go out as they come, and answers come back in their order.
//!
//! The answers are read whether or not their callers still wait, so a dropped or late caller never leaves an
//! answer for the next one.

use std::io;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tooz_core::{Error, Outcome, Result};

use crate::config::{Config, Login, Protocol};
use crate::errors;
use crate::wire::{self, Expected, Reply, Request};

/// A connection that is ready for use. Clones are the same; it closes with the last.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    requests: mpsc::UnboundedSender<Batch>,
    meta: bool,
    down: CancellationToken,
}

/// Requests that are sent together.
#[derive(Debug)]
struct Batch {
    bytes: Vec<u8>,
    awaited: Awaited,
}

/// Answers that are to come.
#[derive(Debug)]
struct Awaited {
    expected: Vec<Expected>,
    reply: oneshot::Sender<Vec<Reply>>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects, logs in, and finds out about the protocol.
pub(crate) async fn open(config: &Config) -> Result<Connection> {
    let opened = tokio::time::timeout(config.connect_timeout, async {
        let mut stream = connect(config).await?;
        if let Some(login) = &config.login {
            log_in(&mut stream, login).await?;
        }
        let mut connection = start(stream);
        // Alone, because a server that wants a login first answers nothing that comes behind.
        let has_meta = has_meta(&connection).await?;
        connection.meta = has_meta && config.protocol != Protocol::Classic;
        if config.protocol == Protocol::Meta && !connection.meta {
            return Err(Error::invalid("the server is older than 1.6 and has no meta commands"));
        }
        Ok(connection)
    });
    let opened = opened.await.unwrap_or_else(|_| Err(errors::no_answer()));
    opened.map_err(|error| error.with("server", config.server()))
}

async fn connect(config: &Config) -> Result<Box<dyn Stream>> {
    let stream = TcpStream::connect((config.host.as_str(), config.port)).await;
    let stream = stream.map_err(errors::refused)?;
    stream.set_nodelay(true).map_err(errors::refused)?;
    #[cfg(feature = "tls")]
    if let Some(tls) = &config.tls {
        let secured = tls.connect(&config.host, stream).await?;
        return Ok(Box::new(secured.map_err(errors::refused)?));
    }
    Ok(Box::new(stream))
}

/// As a server with the option `-Y` has it: a `set` of any key.
async fn log_in(stream: &mut Box<dyn Stream>, login: &Login) -> Result<()> {
    let credentials = format!("{} {}", login.user, login.password.expose());
    let request = format!("set auth 0 0 {}\r\n{credentials}\r\n", credentials.len());
    stream.write_all(request.as_bytes()).await.map_err(errors::broken)?;
    // Nothing follows the answer, so no byte of anything else is in the buffer.
    let reply = wire::read(&mut BufReader::new(stream), Expected::Change).await;
    // A server without `-Y` just stores the item.
    reply.map_err(errors::broken)?.change().map(drop)
}

async fn has_meta(connection: &Connection) -> Result<bool> {
    match connection.call_each([Request::Meta]).await? {
        [Reply::Meta(meta)] => Ok(meta),
        [other] => Err(other.error().unwrap_or_else(Error::unexpected_answer)),
    }
}

fn start(stream: Box<dyn Stream>) -> Connection {
    let (reader, writer) = tokio::io::split(stream);
    let (requests, batches) = mpsc::unbounded_channel();
    let (sent, awaited) = mpsc::unbounded_channel();
    let down = CancellationToken::new();
    let (writing, reading) = (down.clone(), down.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = write_all(writer, batches, sent) => {}
            () = writing.cancelled() => {}
        }
        writing.cancel();
    });
    tokio::spawn(async move {
        tokio::select! {
            ended = read_all(BufReader::new(reader), awaited) => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "the connection ends");
                }
            }
            () = reading.cancelled() => {}
        }
        reading.cancel();
    });
    Connection { requests, meta: false, down }
}

async fn write_all(
    mut writer: impl AsyncWrite + Unpin,
    mut batches: mpsc::UnboundedReceiver<Batch>,
    sent: mpsc::UnboundedSender<Awaited>,
) {
    while let Some(Batch { bytes, awaited }) = batches.recv().await {
        // Before it is written, so that the reader of the answer knows of it.
        if sent.send(awaited).is_err() || writer.write_all(&bytes).await.is_err() {
            return;
        }
        // TLS may keep something back.
        if writer.flush().await.is_err() {
            return;
        }
    }
}

async fn read_all(
    mut reader: BufReader<impl AsyncRead + Unpin>,
    mut sent: mpsc::UnboundedReceiver<Awaited>,
) -> io::Result<()> {
    loop {
        let awaited = tokio::select! {
            biased;
            awaited = sent.recv() => awaited,
            // A server that goes away is noticed with nothing asked.
            bytes = reader.fill_buf() => match bytes?.is_empty() {
                true => return Err(io::ErrorKind::UnexpectedEof.into()),
                false => sent.try_recv().ok(),
            },
        };
        let Some(Awaited { expected, reply }) = awaited else {
            // Nobody asks any longer, or nobody asked for what came.
            return Ok(());
        };
        let mut replies = Vec::with_capacity(expected.len());
        for expected in expected {
            replies.push(wire::read(&mut reader, expected).await?);
        }
        // The caller may have gone.
        let _ = reply.send(replies);
    }
}

impl Connection {
    /// Sends all in one piece; the answers, one for each. There is no time limit.
    pub(crate) async fn call(&self, requests: &[Request]) -> Result<Vec<Reply>> {
        let mut bytes = Vec::new();
        for request in requests {
            request.write(self.meta, &mut bytes);
        }
        let expected = requests.iter().map(|request| request.expects(self.meta)).collect();
        let (reply, replies) = oneshot::channel();
        let batch = Batch { bytes, awaited: Awaited { expected, reply } };
        let broken = errors::ended;
        // What the writer never took was never sent.
        self.requests.send(batch).map_err(|_| broken())?;
        replies.await.map_err(|_| match requests.iter().all(Request::only_reads) {
            true => broken(),
            false => broken().outcome_is(Outcome::Unknown),
        })
    }

    /// The same, for a number of requests that is known.
    pub(crate) async fn call_each<const N: usize>(
        &self,
        requests: [Request; N],
    ) -> Result<[Reply; N]> {
        wire::each(self.call(&requests).await?)
    }

    /// Ends it, with all that is still asked on it.
    pub(crate) fn end(&self) {
        self.down.cancel();
    }

    /// Waits until it is broken.
    pub(crate) async fn down(&self) {
        self.down.cancelled().await;
    }
}
