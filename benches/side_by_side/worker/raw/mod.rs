//! The contestant that is a bare client: the round trips of which a driver's calls are made.
//!
//! Each backend has the client that our driver has, of the same version, on a connection of the
//! same kind, and nothing above it: no engine, no session, no limit of time, no second attempt.
//! What it measures is what no driver on that client can fall below.

mod consul;
mod etcd;
mod etcd3;
mod etcd3_http;
mod file;
mod http;
mod ipc;
mod memcached;
mod mysql;
mod place;
mod postgresql;
mod redis;
mod zookeeper;

use std::pin::Pin;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tokio::runtime::{Builder, Handle};
use tooz::CoordinatorUrl;
use tooz::driver::async_trait;
use tooz_benches::protocol::{Answer, Ask};

use super::clock;

/// A connection. Each call is awaited before the next.
#[async_trait]
trait Raw: Send {
    /// One round trip that reads a little.
    async fn read(&mut self) -> anyhow::Result<()>;

    /// One round trip that writes as an acquisition would.
    async fn write(&mut self) -> anyhow::Result<()>;

    /// Reads what the driver keeps of a group's members, in the fewest round trips; how many bytes
    /// their ids and capabilities have, with what the driver keeps beside them in the same place.
    /// The group's name has letters, digits and hyphens only.
    async fn read_group(&mut self, group: &str) -> anyhow::Result<usize>;

    /// Makes ready to have something by turns with another process, which does the same under this
    /// name; whether this one begins. `None` if the backend tells nobody anything, or nobody wrote
    /// it.
    async fn meet(&mut self, _name: &str) -> anyhow::Result<Option<bool>> {
        Ok(None)
    }

    /// Tells the other that it is its turn: one request.
    async fn pass(&mut self) -> anyhow::Result<()> {
        bail!("it met nobody")
    }

    /// Waits until the other tells, and writes once.
    async fn turn(&mut self) -> anyhow::Result<()> {
        bail!("it met nobody")
    }

    /// Removes what would stay. All else ends with the connection, or in its time.
    async fn close(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Opens the connection that a driver of the URL's scheme would.
async fn open(url: &str) -> anyhow::Result<Box<dyn Raw>> {
    let url: CoordinatorUrl = url.parse()?;
    Ok(match url.scheme() {
        "redis" => Box::new(redis::Redis::open(&url).await?),
        "zookeeper" => Box::new(zookeeper::ZooKeeper::open(&url).await?),
        "memcached" => Box::new(memcached::Memcached::open(&url).await?),
        "etcd3" => Box::new(etcd3::Etcd3::open(&url).await?),
        "etcd3+http" => Box::new(etcd3_http::Etcd3Http::open(&url).await?),
        "etcd" => Box::new(etcd::Etcd::open(&url).await?),
        "consul" => Box::new(consul::Consul::open(&url).await?),
        "postgresql" => Box::new(postgresql::PostgreSql::open(&url).await?),
        "mysql" => Box::new(mysql::MySql::open(&url).await?),
        "file" => Box::new(file::Files::open(&url)?),
        "ipc" => Box::new(ipc::Ipc::open(&url)?),
        other => bail!("there is no bare client for {other}"),
    })
}

/// A bare client, connected once it is asked to.
#[derive(Default)]
pub(super) struct Client {
    raw: Option<Box<dyn Raw>>,
    /// Where its connection lives, if not with the caller.
    thread: Option<Handle>,
}

/// One of the calls of a connection.
type Call =
    for<'a> fn(&'a mut dyn Raw) -> Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send + 'a>>;

impl Client {
    /// One whose connection lives on a thread of its own, as ours do, and is called from others:
    /// what that alone costs.
    pub(super) fn threaded() -> anyhow::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let thread = Some(runtime.handle().clone());
        std::thread::Builder::new()
            .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
        Ok(Self { raw: None, thread })
    }

    /// Does what is asked, within the task of the caller.
    pub(super) async fn answer(&mut self, ask: Ask) -> anyhow::Result<Answer> {
        match ask {
            Ask::Open { url, .. } => {
                let began = Instant::now();
                self.raw = Some(match &self.thread {
                    None => open(&url).await?,
                    Some(thread) => thread.spawn(async move { open(&url).await }).await??,
                });
                Ok(Answer::took(began.elapsed()))
            }
            Ask::Close => {
                if self.raw.is_some() {
                    self.call(|raw| raw.close()).await?;
                }
                self.raw = None;
                Ok(Answer::default())
            }
            Ask::Reads { count } => Ok(timed!(count, self.call(|raw| raw.read()).await?)),
            Ask::Writes { count } => Ok(timed!(count, self.call(|raw| raw.write()).await?)),
            Ask::ReadGroup { group, count } => self.read_group(&group, count).await,
            Ask::Contend { name, from, millis, hold_micros } => {
                let hold = Duration::from_micros(hold_micros);
                self.by_turns(&name, from, from + millis * 1_000_000, hold).await
            }
            Ask::Memory => Ok(Answer { bytes: Some(super::resident()?), ..Answer::default() }),
            _ => Ok(Answer::unsupported("a bare client has round trips only")),
        }
    }

    /// Makes a call where the connection lives.
    async fn call(&mut self, call: Call) -> anyhow::Result<()> {
        let Some(thread) = self.thread.clone() else { return call(self.raw()?).await };
        let mut raw = self.raw.take().context("not open")?;
        let work = async move {
            let done = call(&mut *raw).await;
            (raw, done)
        };
        let (raw, done) = thread.spawn(work).await?;
        self.raw = Some(raw);
        done
    }

    fn raw(&mut self) -> anyhow::Result<&mut dyn Raw> {
        let raw = self.raw.as_mut().context("not open")?;
        Ok(raw.as_mut())
    }

    /// What a hand-off cannot fall below: a request of the one, of which the backend tells the
    /// other, and a request of that one.
    async fn by_turns(
        &mut self,
        name: &str,
        from: u64,
        until: u64,
        hold: Duration,
    ) -> anyhow::Result<Answer> {
        let raw = self.raw()?;
        let Some(mut is_ours) = raw.meet(name).await? else {
            return Ok(Answer::unsupported("there is no bare hand-off"));
        };
        clock::wait_for(from).await;
        let mut turns = Vec::new();
        loop {
            let asked = clock::now();
            let left = Duration::from_nanos(until.saturating_sub(asked));
            if left.is_zero() {
                return Ok(Answer { turns, ..Answer::default() });
            }
            if !is_ours {
                match tokio::time::timeout(left, raw.turn()).await {
                    Ok(turn) => turn?,
                    Err(_) => return Ok(Answer { turns, ..Answer::default() }),
                }
            }
            let had = clock::now();
            clock::hold_for(hold);
            turns.push([asked, had, clock::now()]);
            raw.pass().await?;
            is_ours = false;
        }
    }

    /// The answer has the bytes of the last time too.
    async fn read_group(&mut self, group: &str, count: usize) -> anyhow::Result<Answer> {
        let raw = self.raw()?;
        let mut bytes = 0;
        let answer = timed!(count, {
            bytes = raw.read_group(group).await?;
            ensure!(bytes > 0, "nothing is where the members of {group} should be");
        });
        Ok(Answer { bytes: Some(bytes.try_into()?), ..answer })
    }
}
