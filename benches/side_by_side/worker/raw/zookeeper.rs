//! ZooKeeper: a look at a node, the creation and the deletion of an ephemeral one, and the children
//! of a group's node with their data.

use std::time::Duration;

use anyhow::Context as _;
use tooz::{CoordinatorUrl, async_trait};
use zookeeper_client::{Acls, Client, CreateMode};

use super::Raw;
use super::place::{option, own_name, server};

pub(super) struct ZooKeeper {
    client: Client,
    node: String,
    is_there: bool,
    base: String,
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
        Ok(Self { client, node: format!("/{}", own_name()), is_there: false, base })
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
