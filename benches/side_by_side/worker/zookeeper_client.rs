//! The contestant that is the lock of the crate `zookeeper-client`, on which our driver stands.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use zookeeper_client::{Acls, CreateMode, LockOptions, LockPrefix, OwnedLockClient};

use super::clock;
use tooz_benches::protocol::{Answer, Ask};

/// The children of the nodes that are locks.
const CONTENDER: &str = "lock-";

/// A connection, once it is open.
#[derive(Default)]
pub(super) struct Client {
    client: Option<zookeeper_client::Client>,
    held: Vec<OwnedLockClient>,
}

impl Client {
    pub(super) async fn answer(&mut self, ask: Ask) -> anyhow::Result<Answer> {
        match ask {
            Ask::Open { url, .. } => {
                let servers = url.strip_prefix("zookeeper://").context("no ZooKeeper")?;
                let servers = servers.split(['/', '?']).next().unwrap_or(servers);
                let began = Instant::now();
                let client = zookeeper_client::Client::connect(servers).await?;
                self.client = Some(client);
                Ok(Answer::took(began.elapsed()))
            }
            Ask::Close => {
                *self = Self::default();
                Ok(Answer::default())
            }
            Ask::Cycles { name, count } => {
                // It tells of no release: that goes on in the background.
                Ok(timed!(count, drop(self.lock(&name).await?)))
            }
            Ask::Contend { name, from, millis, hold_micros } => {
                let hold = Duration::from_micros(hold_micros);
                self.contend(&name, from, from + millis * 1_000_000, hold).await
            }
            Ask::Hold { prefix, count } => {
                let began = Instant::now();
                for number in 0..count {
                    let lock = self.lock(&format!("{prefix}-{number}")).await?;
                    self.held.push(lock);
                }
                Ok(Answer::took(began.elapsed()))
            }
            Ask::LetGo => {
                self.held.clear();
                Ok(Answer::default())
            }
            Ask::Memory => Ok(Answer { bytes: Some(super::resident()?), ..Answer::default() }),
            _ => Ok(Answer::unsupported("it has locks only")),
        }
    }

    async fn lock(&self, name: &str) -> anyhow::Result<OwnedLockClient> {
        let client = self.client.as_ref().context("not open")?;
        let node = format!("/{name}");
        let options = LockOptions::new(Acls::anyone_all())
            .with_ancestor_options(CreateMode::Persistent.with_acls(Acls::anyone_all()))?;
        let prefix = LockPrefix::new_custom(format!("{node}/{CONTENDER}"), CONTENDER)?;
        Ok(client.lock(prefix, b"", options).await?.into_owned())
    }

    async fn contend(
        &self,
        name: &str,
        from: u64,
        until: u64,
        hold: Duration,
    ) -> anyhow::Result<Answer> {
        clock::wait_for(from).await;
        let mut turns = Vec::new();
        loop {
            let asked = clock::now();
            let left = Duration::from_nanos(until.saturating_sub(asked));
            let Ok(lock) = tokio::time::timeout(left, self.lock(name)).await else {
                return Ok(Answer { turns, ..Answer::default() });
            };
            let lock = lock?;
            let had = clock::now();
            clock::hold_for(hold);
            turns.push([asked, had, clock::now()]);
            drop(lock);
        }
    }
}
