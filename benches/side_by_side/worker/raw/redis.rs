//! Redis: GET, SET with a time to live, and HGETALL, on a multiplexed connection.

use ::redis::aio::MultiplexedConnection;
use ::redis::io::tcp::TcpSettings;
use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, IntoConnectionInfo as _, ProtocolVersion,
    PushInfo, PushKind, RedisConnectionInfo, Value, cmd,
};
use anyhow::{Context as _, bail};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tooz::CoordinatorUrl;
use tooz::driver::async_trait;

use super::Raw;
use super::place::{option, own_name, server};

pub(super) struct Redis {
    connection: MultiplexedConnection,
    pushes: UnboundedReceiver<PushInfo>,
    /// Tells the other, of the channel on which it listens.
    publish: Cmd,
    get: Cmd,
    set: Cmd,
    namespace: String,
}

impl Redis {
    pub(super) async fn open(url: &CoordinatorUrl) -> anyhow::Result<Self> {
        let db = option(url, "db").map(str::parse).transpose().context("db is no number")?;
        let mut login = RedisConnectionInfo::default()
            .set_db(db.unwrap_or(0))
            .set_protocol(ProtocolVersion::RESP3);
        if let Some(user) = url.user() {
            login = login.set_username(user);
        }
        if let Some(password) = url.password() {
            login = login.set_password(password.expose());
        }
        let (host, port) = server(url, 6379);
        let info = ConnectionAddr::Tcp(host, port)
            .into_connection_info()?
            .set_redis_settings(login)
            .set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let (sender, pushes) = unbounded_channel();
        let settings =
            AsyncConnectionConfig::new().set_response_timeout(None).set_push_sender(sender);
        let client = Client::open(info)?;
        let connection = client.get_multiplexed_async_connection_with_config(&settings).await?;
        let (mut get, mut set) = (cmd("GET"), cmd("SET"));
        get.arg(own_name());
        // Without NX, which would write only once.
        set.arg(own_name()).arg("1").arg("PX").arg(30_000);
        let namespace = option(url, "namespace").unwrap_or("_tooz").to_owned();
        Ok(Self { connection, pushes, publish: cmd("PUBLISH"), get, set, namespace })
    }
}

#[async_trait]
impl Raw for Redis {
    async fn read(&mut self) -> anyhow::Result<()> {
        self.get.query_async::<Value>(&mut self.connection).await?;
        Ok(())
    }

    async fn write(&mut self) -> anyhow::Result<()> {
        self.set.exec_async(&mut self.connection).await?;
        Ok(())
    }

    async fn meet(&mut self, name: &str) -> anyhow::Result<Option<bool>> {
        self.connection.subscribe(name).await?;
        self.publish = cmd("PUBLISH");
        self.publish.arg(name).arg(own_name());
        let mut first = cmd("SET");
        first.arg(name).arg("1").arg("NX").arg("PX").arg(60_000);
        let is_first: Option<String> = first.query_async(&mut self.connection).await?;
        Ok(Some(is_first.is_some()))
    }

    async fn pass(&mut self) -> anyhow::Result<()> {
        Ok(self.publish.exec_async(&mut self.connection).await?)
    }

    async fn turn(&mut self) -> anyhow::Result<()> {
        while let Some(push) = self.pushes.recv().await {
            if push.kind == PushKind::Message
                && push.data.last() != Some(&Value::BulkString(own_name().into()))
            {
                return self.write().await;
            }
        }
        bail!("the connection has ended")
    }

    /// The hash of the group, where Python has it too.
    async fn read_group(&mut self, group: &str) -> anyhow::Result<usize> {
        let mut all = cmd("HGETALL");
        all.arg(format!("{}_group:{group}", self.namespace));
        let members: Vec<(Vec<u8>, Vec<u8>)> = all.query_async(&mut self.connection).await?;
        Ok(members.iter().map(|(id, capabilities)| id.len() + capabilities.len()).sum())
    }
}
