//! A server that answers every request over gRPC with one message without end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The types of frames of HTTP/2.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;

/// Ends with its runtime.
pub(crate) struct Endless {
    pub(crate) port: u16,
    /// How many bytes of messages it has sent.
    pub(crate) sent: Arc<AtomicUsize>,
}

impl Endless {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let sent = Arc::new(AtomicUsize::new(0));
        let count = sent.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let count = count.clone();
                tokio::spawn(async move { drop(serve(client, &count).await) });
            }
        });
        Self { port, sent }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn number(bytes: &[u8]) -> usize {
    u32::from_be_bytes(bytes.try_into().unwrap()) as usize
}

async fn serve(mut client: TcpStream, sent: &AtomicUsize) -> std::io::Result<()> {
    let mut preface = [0; 24];
    client.read_exact(&mut preface).await?;
    client.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    // How much the client lets us send: on the connection, and on the last stream.
    let (mut connection, mut initial, mut window) = (65_535, 65_535, 0);
    let mut stream = 0;
    loop {
        let mut head = [0; 9];
        client.read_exact(&mut head).await?;
        let mut payload = vec![0; number(&[0, head[0], head[1], head[2]])];
        client.read_exact(&mut payload).await?;
        let (kind, flags, id) =
            (head[3], head[4], u32::from_be_bytes(head[5..].try_into().unwrap()));
        match kind {
            SETTINGS if flags == 0 => {
                // The fourth setting is the window of a new stream.
                let window = payload.chunks(6).find(|setting| setting[..2] == [0, 4]);
                initial = window.map_or(initial, |setting| number(&setting[2..]));
                client.write_all(&frame(SETTINGS, 1, 0, &[])).await?;
            }
            PING if flags == 0 => client.write_all(&frame(PING, 1, 0, &payload)).await?,
            WINDOW_UPDATE if id == 0 => connection += number(&payload),
            WINDOW_UPDATE if id == stream => window += number(&payload),
            HEADERS => {
                (stream, window) = (id, initial);
                // `:status: 200` and `content-type: application/grpc`.
                let answer = [&[0x88, 0x5f, 16], &b"application/grpc"[..]].concat();
                client.write_all(&frame(HEADERS, 4, id, &answer)).await?;
                // A message of 4 GiB, uncompressed.
                client.write_all(&frame(DATA, 0, id, &[0, 255, 255, 255, 255])).await?;
                (connection, window) = (connection - 5, window - 5);
            }
            _ => {}
        }
        while stream != 0 && connection.min(window) > 0 {
            let size = connection.min(window).min(16_384);
            client.write_all(&frame(DATA, 0, stream, &vec![0; size])).await?;
            (connection, window) = (connection - size, window - size);
            sent.fetch_add(size, Ordering::Relaxed);
        }
    }
}
