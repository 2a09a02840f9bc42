//! MySQL and MariaDB: statements in the text protocol, as the driver sends them.

use std::fmt::Write as _;

use anyhow::{Context as _, ensure};
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlRow, MySqlSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Row as _};
use tooz::{CoordinatorUrl, async_trait};

use super::Raw;
use super::place::{option, own_name, server};

pub(super) struct MySql {
    connection: MySqlConnection,
    lock: String,
    unlock: String,
    is_locked: bool,
    members: String,
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
            members: format!("SELECT id,capabilities FROM `{namespace}_member` WHERE group_id="),
        })
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
        let rows = self.ask(sql.clone()).await?;
        let done: i64 = rows.first().context("no row")?.try_get_unchecked(0)?;
        ensure!(done == 1, "the lock is not as it should be");
        self.is_locked = !self.is_locked;
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
