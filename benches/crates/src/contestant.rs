//! What is done for each request.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::task::JoinSet;

use crate::client::{Client, Crate, Held, Lock};
use crate::clock::{hold_for, now, wait_for};
use crate::protocol::{Answer, Ask, nanos};

/// How long an acquisition may take that has nobody to wait for.
const FREE: Duration = Duration::from_secs(5);

/// How many acquisitions of different locks are under way at once, as in a service that starts.
const AT_ONCE: usize = 100;

const NOT_OPEN: &str = "not open";

/// A client and what the requests so far left.
pub(crate) struct Contestant {
    which: Crate,
    client: Option<Client>,
    held: Vec<Held>,
}

impl Contestant {
    pub(crate) fn new(which: Crate) -> Self {
        Self { which, client: None, held: Vec::new() }
    }

    pub(crate) async fn answer(&mut self, ask: Ask) -> anyhow::Result<Answer> {
        if !self.which.is_built() {
            return Ok(Answer::unsupported(&format!("built without {}", self.which.name())));
        }
        match ask {
            Ask::Open { url, .. } => self.open(&url).await,
            Ask::Close => self.close().await,
            Ask::Cycles { name, count } => self.cycles(&name, count).await,
            Ask::Contend { name, from, millis, hold_micros } => {
                let until = from + millis * 1_000_000;
                self.contend(&name, from, until, Duration::from_micros(hold_micros)).await
            }
            Ask::Hold { prefix, count } => self.hold(&prefix, count).await,
            Ask::LetGo => self.let_go().await,
            Ask::Memory => Ok(Answer { bytes: Some(resident()?), ..Answer::default() }),
            _ => Ok(Answer::unsupported(&format!("{} has locks only", self.which.name()))),
        }
    }

    fn client(&self) -> anyhow::Result<&Client> {
        self.client.as_ref().context(NOT_OPEN)
    }

    async fn open(&mut self, url: &str) -> anyhow::Result<Answer> {
        let began = Instant::now();
        let client = self.which.open(url).await?;
        let answer = Answer::took(began.elapsed());
        self.client = Some(client);
        Ok(answer)
    }

    async fn close(&mut self) -> anyhow::Result<Answer> {
        self.let_go().await?;
        if let Some(client) = self.client.take() {
            client.close().await?;
        }
        Ok(Answer::default())
    }

    async fn cycles(&self, name: &str, count: usize) -> anyhow::Result<Answer> {
        let lock = self.client()?.lock(name);
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let began = Instant::now();
            acquire(&lock).await?.release().await?;
            times.push(nanos(began.elapsed()));
        }
        Ok(Answer { times, ..Answer::default() })
    }

    async fn contend(
        &self,
        name: &str,
        from: u64,
        until: u64,
        hold: Duration,
    ) -> anyhow::Result<Answer> {
        let lock = self.client()?.lock(name);
        let mut turns = Vec::new();
        wait_for(from).await;
        loop {
            let asked = now();
            let left = Duration::from_nanos(until.saturating_sub(asked));
            if left.is_zero() {
                break;
            }
            let Some(held) = lock.acquire(left).await? else {
                break;
            };
            let had = now();
            hold_for(hold);
            turns.push([asked, had, now()]);
            held.release().await?;
        }
        Ok(Answer { turns, ..Answer::default() })
    }

    async fn hold(&mut self, prefix: &str, count: usize) -> anyhow::Result<Answer> {
        let client = self.client.as_ref().context(NOT_OPEN)?;
        if let Some(most) = client.most_held().filter(|most| self.held.len() + count > *most) {
            let name = self.which.name();
            return Ok(Answer::unsupported(&format!(
                "{name} keeps a connection for each lock and has {most}"
            )));
        }
        let began = Instant::now();
        for first in (0..count).step_by(AT_ONCE) {
            let mut acquisitions = JoinSet::new();
            for number in first..count.min(first + AT_ONCE) {
                let lock = client.lock(&format!("{prefix}-{number}"));
                acquisitions.spawn(async move { acquire(&lock).await });
            }
            while let Some(held) = acquisitions.join_next().await {
                self.held.push(held??);
            }
        }
        Ok(Answer::took(began.elapsed()))
    }

    async fn let_go(&mut self) -> anyhow::Result<Answer> {
        let began = Instant::now();
        let mut releases: JoinSet<_> = self.held.drain(..).map(Held::release).collect();
        while let Some(released) = releases.join_next().await {
            released??;
        }
        Ok(Answer::took(began.elapsed()))
    }
}

async fn acquire(lock: &Lock) -> anyhow::Result<Held> {
    lock.acquire(FREE).await?.with_context(|| format!("not acquired within {FREE:?}"))
}

/// The resident memory of this process, in bytes.
fn resident() -> anyhow::Result<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = pages.split(' ').nth(1).context("statm is short")?.parse()?;
    Ok(pages * u64::try_from(rustix::param::page_size())?)
}
