//! `etcd-client`: etcd's own lock service, under one lease for each client.

use std::time::Duration;

use anyhow::{Context as _, bail};
use etcd_client::{LeaseKeepAliveStream, LeaseKeeper, LockOptions};
use tokio::task::JoinHandle;

use crate::url::{location, scheme};

/// The client's lease, in seconds, as in the crate's example.
const LEASE: i64 = 60;

/// How often it is kept alive.
const RENEWAL: Duration = Duration::from_secs(20);

pub(crate) struct Client {
    client: etcd_client::Client,
    lease: i64,
    renewals: JoinHandle<anyhow::Result<()>>,
}

pub(crate) struct Lock {
    client: etcd_client::Client,
    lease: i64,
    name: String,
}

pub(crate) struct Held {
    client: etcd_client::Client,
    key: Vec<u8>,
}

impl Client {
    pub(crate) async fn open(url: &str) -> anyhow::Result<Self> {
        if scheme(url) != "etcd3" {
            bail!("etcd-client has nothing for {}", scheme(url));
        }
        let mut client = etcd_client::Client::connect([location(url)], None).await?;
        let lease = client.lease_grant(LEASE, None).await?.id();
        let (keeper, stream) = client.lease_keep_alive(lease).await?;
        Ok(Self { client, lease, renewals: tokio::spawn(keep_alive(keeper, stream)) })
    }

    pub(crate) fn lock(&self, name: &str) -> Lock {
        let client = self.client.clone();
        Lock { client, lease: self.lease, name: name.to_owned() }
    }

    pub(crate) async fn close(mut self) -> anyhow::Result<()> {
        self.renewals.abort();
        self.client.lease_revoke(self.lease).await?;
        Ok(())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.renewals.abort();
    }
}

/// The crate has a stream for it but no timer.
async fn keep_alive(
    mut keeper: LeaseKeeper,
    mut stream: LeaseKeepAliveStream,
) -> anyhow::Result<()> {
    loop {
        keeper.keep_alive().await?;
        stream.message().await?.context("the stream of renewals ended")?;
        tokio::time::sleep(RENEWAL).await;
    }
}

impl Lock {
    pub(crate) async fn acquire(&self, limit: Duration) -> anyhow::Result<Option<Held>> {
        let mut client = self.client.clone();
        let options = LockOptions::new().with_lease(self.lease);
        let request = client.lock(&*self.name, Some(options));
        let Ok(answer) = tokio::time::timeout(limit, request).await else {
            return Ok(None);
        };
        let key = answer?.key().to_vec();
        Ok(Some(Held { client, key }))
    }
}

impl Held {
    pub(crate) async fn release(mut self) -> anyhow::Result<()> {
        self.client.unlock(self.key).await?;
        Ok(())
    }
}
