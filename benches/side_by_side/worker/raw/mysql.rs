//! MySQL and MariaDB: statements in the text protocol, as the driver sends them.

use std::fmt::Write as _;

use anyhow::{Context as _, ensure};
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlRow, MySqlSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Row as _};
use tooz::CoordinatorUrl;
use tooz::driver::async_trait;

use super::Raw;
use super::place::{option, own_name, server};

pub(super) struct MySql {
    connection: MySqlConnection,
    lock: String,
    unlock: String,
    is_locked: bool,
    members: String,
    /// The name of what two processes have by turns: the server's own lock, for which it keeps a
    /// queue.
    shared: String,
}

impl MySql {
    pub(super) async fn open(url: &CoordinatorUrl) -> anyhow::Result<Self> {
        let (host, port) = server(url, 3306);
        let mut options = MySqlConnectOptions::new()
            .host(&host)
            .port(port)
            .database(url.path().trim_start_matches('/'))
            // The driver's default: in TLS, if the server has it.
            .ssl_mode(MySqlSslMode::Preferred)
            .pipes_as_concat(false)
            .no_engine_substitution(false)
            .timezone(None)
            .set_names(false)
            .disable_statement_logging();
        if let Some(user) = url.user() {
            options = options.username(user);
        }
        if let Some(password) = url.password() {
            options = options.password(password.expose());
        }
        let (name, namespace) = (own_name(), option(url, "namespace").unwrap_or("tooz"));
        Ok(Self {
            connection: options.connect().await?,
            lock: format!("SELECT CAST(GET_LOCK('{name}',0) AS SIGNED)"),
            unlock: format!("SELECT CAST(RELEASE_LOCK('{name}') AS SIGNED)"),
            is_locked: false,
            shared: String::new(),
            members: format!("SELECT id,capabilities FROM `{namespace}_member` WHERE group_id="),
        })
    }

    /// Whether the statement answers 1.
    async fn succeeds(&mut self, sql: String) -> anyhow::Result<bool> {
        let rows = self.ask(sql).await?;
        let done: i64 = rows.first().context("no row")?.try_get_unchecked(0)?;
        Ok(done == 1)
    }

    async fn ask(&mut self, sql: String) -> anyhow::Result<Vec<MySqlRow>> {
        Ok(sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut self.connection).await?)
    }
}

#[async_trait]
impl Raw for MySql {
    async fn read(&mut self) -> anyhow::Result<()> {
        self.ask("SELECT 1".to_owned()).await?;
        Ok(())
    }

    /// The lock and its release by turns.
    async fn write(&mut self) -> anyhow::Result<()> {
        let sql = if self.is_locked { &self.unlock } else { &self.lock };
        ensure!(self.succeeds(sql.clone()).await?, "the lock is not as it should be");
        self.is_locked = !self.is_locked;
        Ok(())
    }

    async fn meet(&mut self, name: &str) -> anyhow::Result<Option<bool>> {
        name.clone_into(&mut self.shared);
        self.succeeds(format!("SELECT CAST(GET_LOCK('{name}',0) AS SIGNED)")).await.map(Some)
    }

    async fn pass(&mut self) -> anyhow::Result<()> {
        let sql = format!("SELECT CAST(RELEASE_LOCK('{}') AS SIGNED)", self.shared);
        ensure!(self.succeeds(sql).await?, "the lock was not held");
        Ok(())
    }

    /// The answer is the push, and the lock is had with it.
    async fn turn(&mut self) -> anyhow::Result<()> {
        let sql = format!("SELECT CAST(GET_LOCK('{}',60) AS SIGNED)", self.shared);
        ensure!(self.succeeds(sql).await?, "the lock did not come");
        Ok(())
    }

    async fn read_group(&mut self, group: &str) -> anyhow::Result<usize> {
        let mut sql = format!("{}X'", self.members);
        for byte in group.bytes() {
            write!(sql, "{byte:02x}")?;
        }
        sql.push('\'');
        let mut bytes = 0;
        for row in self.ask(sql).await? {
            let (id, capabilities): (&[u8], &[u8]) =
                (row.try_get_unchecked(0)?, row.try_get_unchecked(1)?);
            bytes += id.len() + capabilities.len();
        }
        Ok(bytes)
    }
}
