//! ZooKeeper: a look at a node, the creation and the deletion of an ephemeral one, and the children
//! of a group's node with their data.

use std::time::Duration;

use anyhow::Context as _;
use tooz::CoordinatorUrl;
use tooz::driver::async_trait;
use zookeeper_client::{Acls, Client, CreateMode, Error};

use super::Raw;
use super::place::{option, own_name, server};

pub(super) struct ZooKeeper {
    client: Client,
    node: String,
    is_there: bool,
    base: String,
    /// What two processes tell each other by: who had it last.
    met_at: String,
}

impl ZooKeeper {
    pub(super) async fn open(url: &CoordinatorUrl) -> anyhow::Result<Self> {
        let (host, port) = server(url, 2181);
        let timeout: f64 =
            option(url, "timeout").unwrap_or("10").parse().context("timeout is no number")?;
        let client = Client::connector()
            .with_session_timeout(Duration::try_from_secs_f64(timeout)?)
            .with_fail_eagerly()
            .connect(&format!("{host}:{port}"))
            .await?;
        let namespace = option(url, "namespace").unwrap_or("tooz");
        let base = format!("{}/{namespace}", url.path().trim_end_matches('/'));
        let (node, met_at) = (format!("/{}", own_name()), String::new());
        Ok(Self { client, node, is_there: false, base, met_at })
    }
}

#[async_trait]
impl Raw for ZooKeeper {
    async fn read(&mut self) -> anyhow::Result<()> {
        self.client.check_stat(&self.node).await?;
        Ok(())
    }

    /// The creation and the deletion by turns: both are writes, which the server logs.
    async fn write(&mut self) -> anyhow::Result<()> {
        if self.is_there {
            self.client.delete(&self.node, None).await?;
        } else {
            let options = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
            self.client.create(&self.node, b"", &options).await?;
        }
        self.is_there = !self.is_there;
        Ok(())
    }

    async fn meet(&mut self, name: &str) -> anyhow::Result<Option<bool>> {
        self.met_at = format!("/{name}");
        let options = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
        match self.client.create(&self.met_at, b"", &options).await {
            Ok(_) => Ok(Some(true)),
            Err(Error::NodeExists) => Ok(Some(false)),
            Err(error) => Err(error.into()),
        }
    }

    async fn pass(&mut self) -> anyhow::Result<()> {
        self.client.set_data(&self.met_at, own_name().as_bytes(), None).await?;
        Ok(())
    }

    async fn turn(&mut self) -> anyhow::Result<()> {
        let (data, _, watcher) = self.client.get_and_watch_data(&self.met_at).await?;
        // The other may have been faster than the watch.
        if data.is_empty() || data == own_name().as_bytes() {
            watcher.changed().await;
        }
        self.write().await
    }

    /// Two round trips: the names, then the data of all of them.
    async fn read_group(&mut self, group: &str) -> anyhow::Result<usize> {
        let node = format!("{}/{group}", self.base);
        let mut names = self.client.list_children(&node).await?;
        names.retain(|name| name != "leader");
        let asked = names.iter().map(|name| self.client.get_data(&format!("{node}/{name}")));
        let asked: Vec<_> = asked.collect();
        let mut bytes = 0;
        for (name, data) in names.iter().zip(asked) {
            bytes += name.len() + data.await?.0.len();
        }
        Ok(bytes)
    }
}
