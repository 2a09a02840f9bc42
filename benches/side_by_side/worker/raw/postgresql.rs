//! PostgreSQL: statements of one round trip each, prepared and carried out at once as the driver
//! has it.

use anyhow::{Context as _, ensure};
use tokio::net::TcpStream;
use tokio_postgres::config::SslMode;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Config, NoTls, Row};
use tooz::CoordinatorUrl;
use tooz::driver::async_trait;

use super::Raw;
use super::place::{option, server};

pub(super) struct PostgreSql {
    client: Client,
    lock: String,
    unlock: String,
    is_locked: bool,
    members: String,
    /// What two processes have by turns: the server's own lock, for which it keeps a queue.
    shared: String,
}

impl PostgreSql {
    pub(super) async fn open(url: &CoordinatorUrl) -> anyhow::Result<Self> {
        let mut config = Config::new();
        config.ssl_mode(SslMode::Disable);
        if let Some(user) = option(url, "user").or(url.user()) {
            config.user(user);
        }
        let password = url.password().map(|password| password.expose());
        if let Some(password) = option(url, "password").or(password) {
            config.password(password);
        }
        let path = url.path().strip_prefix('/').filter(|path| !path.is_empty());
        if let Some(database) = option(url, "dbname").or(path) {
            config.dbname(database);
        }
        let stream = TcpStream::connect(server(url, 5432)).await?;
        stream.set_nodelay(true)?;
        let (client, connection) = config.connect_raw(stream, NoTls).await?;
        // When it breaks, the next statement says so.
        tokio::spawn(connection);
        // The driver would use it, and the figures would not be those of the same kind.
        let ssl: String = one(client.query_typed("SHOW ssl", &[]).await?)?.try_get(0)?;
        ensure!(ssl == "off", "the server has TLS, which this client has not");
        let key = i64::from(std::process::id()) + (0x746f_6f7a << 32);
        let schema = option(url, "schema").unwrap_or("tooz").replace('"', "\"\"");
        Ok(Self {
            client,
            lock: format!("SELECT pg_try_advisory_lock('{key}'::bigint)"),
            unlock: format!("SELECT pg_advisory_unlock('{key}'::bigint)"),
            is_locked: false,
            shared: String::new(),
            members: format!(
                "SELECT id, capabilities FROM \"{schema}\".tooz_member WHERE group_id = $1"
            ),
        })
    }
}

fn one(mut rows: Vec<Row>) -> anyhow::Result<Row> {
    rows.pop().context("no row")
}

#[async_trait]
impl Raw for PostgreSql {
    async fn read(&mut self) -> anyhow::Result<()> {
        one(self.client.query_typed("SELECT 1", &[]).await?)?;
        Ok(())
    }

    /// The lock and its release by turns.
    async fn write(&mut self) -> anyhow::Result<()> {
        let sql = if self.is_locked { &self.unlock } else { &self.lock };
        let done: bool = one(self.client.query_typed(sql, &[]).await?)?.try_get(0)?;
        ensure!(done, "the lock is not as it should be");
        self.is_locked = !self.is_locked;
        Ok(())
    }

    async fn meet(&mut self, name: &str) -> anyhow::Result<Option<bool>> {
        self.shared = format!("hashtextextended('{name}', 0)");
        let sql = format!("SELECT pg_try_advisory_lock({})", self.shared);
        Ok(Some(one(self.client.query_typed(&sql, &[]).await?)?.try_get(0)?))
    }

    async fn pass(&mut self) -> anyhow::Result<()> {
        let sql = format!("SELECT pg_advisory_unlock({})", self.shared);
        one(self.client.query_typed(&sql, &[]).await?)?;
        Ok(())
    }

    /// The answer is the push, and the lock is had with it.
    async fn turn(&mut self) -> anyhow::Result<()> {
        let sql = format!("SELECT pg_advisory_lock({})", self.shared);
        one(self.client.query_typed(&sql, &[]).await?)?;
        Ok(())
    }

    async fn read_group(&mut self, group: &str) -> anyhow::Result<usize> {
        let group = group.as_bytes();
        let rows = self.client.query_typed(&self.members, &[(&group, Type::BYTEA)]).await?;
        let mut bytes = 0;
        for row in &rows {
            let (id, capabilities): (&[u8], &[u8]) = (row.try_get(0)?, row.try_get(1)?);
            bytes += id.len() + capabilities.len();
        }
        Ok(bytes)
    }
}
