//! `rslock`: one manager for a client, which is also what acquires.

use std::time::Duration;

use anyhow::bail;
use rslock::{LockGuard, LockManager};

use crate::url::{rewritten, scheme};

/// How long a lock lives without being released. Nothing extends it meanwhile.
const TTL: Duration = Duration::from_secs(60);

pub(crate) struct Client(LockManager);

pub(crate) struct Lock {
    manager: LockManager,
    name: String,
}

pub(crate) struct Held(LockGuard);

impl Client {
    pub(crate) async fn open(url: &str) -> anyhow::Result<Self> {
        if scheme(url) != "redis" {
            bail!("rslock has nothing for {}", scheme(url));
        }
        let manager = LockManager::new(vec![rewritten(url, "redis", &[])]);
        // The manager connects with its first request. That it can't be reached only shows later.
        manager.query_redis_for_key_value(b"tooz-bench").await?;
        Ok(Self(manager))
    }

    pub(crate) fn lock(&self, name: &str) -> Lock {
        Lock { manager: self.0.clone(), name: name.to_owned() }
    }
}

impl Lock {
    /// The crate waits without a limit, also where it can't connect.
    pub(crate) async fn acquire(&self, limit: Duration) -> anyhow::Result<Option<Held>> {
        let acquisition = self.manager.acquire(&*self.name, TTL);
        match tokio::time::timeout(limit, acquisition).await {
            Ok(guard) => Ok(Some(Held(guard?))),
            Err(_) => Ok(None),
        }
    }
}

impl Held {
    /// It is not told whether the lock was still held, nor whether the server heard of it.
    pub(crate) async fn release(self) -> anyhow::Result<()> {
        self.0.release().await;
        Ok(())
    }
}
