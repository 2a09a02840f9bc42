//! A contestant's process: reads requests, does them on the runtime that was asked for, answers.

/// Does the same so many times, one after the other; the answer with the time of each. No function,
/// for the compiler cannot see that the future of one with such a closure may change its thread.
macro_rules! timed {
    ($count:expr, $work:expr) => {{
        let mut times = Vec::with_capacity($count);
        for _ in 0..$count {
            let began = std::time::Instant::now();
            $work;
            times.push(tooz_benches::protocol::nanos(began.elapsed()));
        }
        tooz_benches::protocol::Answer { times, ..Default::default() }
    }};
}

mod clock;
mod ours;
mod raw;
mod zookeeper_client;

use std::io::{BufRead as _, Write as _};

use anyhow::{Context as _, bail};
use tokio::runtime::{Builder, Runtime};
use tooz_benches::protocol::{Answer, Ask};

pub(crate) use clock::now;

/// What a process contends with.
enum Contestant {
    Ours(Box<ours::Ours>),
    Raw(raw::Client),
    ZooKeeperClient(zookeeper_client::Client),
}

impl Contestant {
    fn named(name: &str) -> anyhow::Result<Self> {
        Ok(match name {
            "tooz" => Self::Ours(Box::default()),
            "raw" => Self::Raw(raw::Client::default()),
            "threaded raw" => Self::Raw(raw::Client::threaded()?),
            "zookeeper-client" => Self::ZooKeeperClient(zookeeper_client::Client::default()),
            other => bail!("no contestant is called {other}"),
        })
    }

    async fn answer(&mut self, ask: Ask) -> anyhow::Result<Answer> {
        match self {
            Self::Ours(ours) => ours.answer(ask).await,
            Self::Raw(raw) => raw.answer(ask).await,
            Self::ZooKeeperClient(client) => client.answer(ask).await,
        }
    }
}

/// The ways to call from a Tokio runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    /// The main task of a multi-thread runtime.
    MultiThread,
    /// A task that such a runtime runs on one of its threads.
    Spawned,
    CurrentThread,
}

impl Caller {
    fn named(name: &str) -> anyhow::Result<Self> {
        Ok(match name {
            "multi-thread" => Self::MultiThread,
            "spawned" => Self::Spawned,
            "current-thread" => Self::CurrentThread,
            other => bail!("nothing calls as {other}"),
        })
    }
}

/// Serves until the input ends.
pub(crate) fn serve(name: &str, caller: &str) -> anyhow::Result<()> {
    let caller = Caller::named(caller)?;
    let runtime = match caller {
        Caller::CurrentThread => Builder::new_current_thread().enable_all().build()?,
        Caller::MultiThread | Caller::Spawned => Runtime::new()?,
    };
    let mut contestant = Contestant::named(name)?;
    for line in std::io::stdin().lock().lines() {
        let ask = serde_json::from_str(&line?).context("no request")?;
        let work = async move {
            let answer = contestant.answer(ask).await;
            (contestant, answer)
        };
        let (back, answer) = match caller {
            Caller::Spawned => runtime.block_on(runtime.spawn(work)).context("it panicked")?,
            _ => runtime.block_on(work),
        };
        contestant = back;
        let answer = answer
            .unwrap_or_else(|e| Answer { error: Some(format!("{e:#}")), ..Answer::default() });
        let mut output = std::io::stdout().lock();
        writeln!(output, "{}", serde_json::to_string(&answer)?)?;
        output.flush()?;
    }
    Ok(())
}

/// The resident memory of this process, in bytes.
fn resident() -> anyhow::Result<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = pages.split(' ').nth(1).context("statm is short")?.parse()?;
    Ok(pages * 4096)
}
