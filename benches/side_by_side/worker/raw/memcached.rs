//! Memcached: `mg` and `set`, line by line on a socket.

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tooz::CoordinatorUrl;
use tooz::driver::async_trait;

use super::Raw;
use super::place::{option, own_name, server};

pub(super) struct Memcached {
    stream: BufReader<TcpStream>,
    get: String,
    set: String,
    namespace: String,
}

impl Memcached {
    pub(super) async fn open(url: &CoordinatorUrl) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(server(url, 11211)).await?;
        stream.set_nodelay(true)?;
        let name = own_name();
        Ok(Self {
            stream: BufReader::new(stream),
            get: format!("mg {name} v\r\n"),
            // As the driver writes: flags for raw bytes, and a time to live.
            set: format!("set {name} 1 30 1\r\n1\r\n"),
            namespace: option(url, "namespace").unwrap_or_default().to_owned(),
        })
    }
}

/// Sends a request; the first line of the answer.
async fn ask(stream: &mut BufReader<TcpStream>, request: &str) -> anyhow::Result<String> {
    stream.get_mut().write_all(request.as_bytes()).await?;
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    ensure!(line.ends_with('\n'), "the connection has ended");
    line.truncate(line.trim_end().len());
    Ok(line)
}

/// The value of an item; `None` if there is none.
async fn get(stream: &mut BufReader<TcpStream>, request: &str) -> anyhow::Result<Option<Vec<u8>>> {
    let line = ask(stream, request).await?;
    if line == "EN" {
        return Ok(None);
    }
    let length = line.strip_prefix("VA ").with_context(|| format!("the server says {line}"))?;
    let length: usize = length.trim().parse().context("no length")?;
    // The end of the line belongs to it.
    let mut value = vec![0; length + 2];
    stream.read_exact(&mut value).await?;
    value.truncate(length);
    Ok(Some(value))
}

#[async_trait]
impl Raw for Memcached {
    async fn read(&mut self) -> anyhow::Result<()> {
        get(&mut self.stream, &self.get).await?;
        Ok(())
    }

    async fn write(&mut self) -> anyhow::Result<()> {
        let line = ask(&mut self.stream, &self.set).await?;
        ensure!(line == "STORED", "the server says {line}");
        Ok(())
    }

    /// The item of the group. Whether its members live, which the driver asks in a second round
    /// trip, is not in it.
    async fn read_group(&mut self, group: &str) -> anyhow::Result<usize> {
        let request = format!("mg {}_TOOZ_GROUP_{group} v\r\n", self.namespace);
        Ok(get(&mut self.stream, &request).await?.map_or(0, |value| value.len()))
    }
}
