//! A look at a database from the server's side, for tests and for a person in trouble.
//!
//! Other users' connections are seen with the privilege `PROCESS`, and ended with
//! `CONNECTION_ADMIN` or `SUPER`.

use std::sync::Arc;
use std::time::Duration;

use tooz_core::{CoordinatorUrl, MemberId, Options, Result};

use crate::config::Config;
use crate::connection::{Connection, bytes, unsigned_in};
use crate::{deployment, keys, schema};

/// A separate connection to what the coordinators of a URL use.
#[derive(Debug)]
pub struct Inspector {
    config: Arc<Config>,
    connection: Connection,
}

impl Inspector {
    /// Connects. It needs a Tokio runtime.
    ///
    /// # Errors
    /// Same errors as [`Coordinator::start`](tooz_core::Coordinator::start).
    pub async fn connect(url: &str) -> Result<Self> {
        let url: CoordinatorUrl = url.parse()?;
        let mut config = Config::read(&url, Options::of(&url))?;
        // Nothing renews it.
        config.timeout = Duration::from_secs(3_600);
        config.response_timeout = Duration::from_secs(60);
        let config = Arc::new(config);
        let (connection, _) = deployment::open(&config).await?;
        Ok(Self { config, connection })
    }

    /// Creates the tables if they do not exist.
    ///
    /// # Errors
    /// If the server does not answer or refuses.
    pub async fn prepare(&self) -> Result<()> {
        schema::ensure(&self.connection, &self.config).await.map(drop)
    }

    /// Runs statements and returns the first column of their rows.
    ///
    /// # Errors
    /// If the server does not answer or refuses.
    pub async fn ask(&self, sql: &str) -> Result<Vec<String>> {
        let rows = self.connection.ask(sql.to_owned()).await?;
        let text = |row| bytes(row, 0).map(|text| String::from_utf8_lossy(&text).into_owned());
        Ok(rows.iter().filter_map(text).collect())
    }

    /// The connections to the database other than this, whoever made them, and living members.
    /// Every lock, granted or waited for, is a connection's.
    ///
    /// # Errors
    /// If the server does not answer or refuses.
    pub async fn residue(&self) -> Result<Vec<String>> {
        let member = self.config.keys.table("member");
        let sql = format!(
            "SELECT CONCAT('connection ',ID,' ',COMMAND,' ',COALESCE(INFO,'')) \
             FROM information_schema.PROCESSLIST WHERE DB={database} AND ID<>CONNECTION_ID();\
             SELECT CONCAT('member ',HEX(id)) FROM {member} WHERE {lives};\
             SELECT CONCAT('broken ',HEX(operation)) FROM {broken}",
            database = keys::literal(self.config.database.as_bytes()),
            lives = keys::lives("s", "session", "connection"),
            broken = self.config.keys.table("broken"),
        );
        self.ask(&sql).await
    }

    /// Ends the sessions of a member, and says how many there were.
    ///
    /// # Errors
    /// If the server does not answer or refuses.
    pub async fn end_sessions(&self, member: &MemberId) -> Result<usize> {
        let sql = format!(
            "SELECT connection FROM {} WHERE member_id={} AND {}",
            self.config.keys.table("session"),
            keys::literal(member.as_bytes()),
            keys::lives("s", "id", "connection"),
        );
        let rows = self.connection.ask(sql).await?;
        let connections: Vec<_> = rows.iter().filter_map(|row| unsigned_in(row, 0)).collect();
        for connection in &connections {
            self.connection.ask(format!("KILL {connection}")).await?;
        }
        Ok(connections.len())
    }

    /// The number of connections to the database other than this.
    ///
    /// # Errors
    /// If the server does not answer or refuses.
    pub async fn connections(&self) -> Result<usize> {
        let database = keys::literal(self.config.database.as_bytes());
        let sql = format!(
            "SELECT ID FROM information_schema.PROCESSLIST WHERE DB={database} \
             AND ID<>CONNECTION_ID()"
        );
        Ok(self.connection.ask(sql).await?.len())
    }

    /// Creates a database beside that of the URL.
    ///
    /// # Errors
    /// If the server does not answer or refuses, or if the name has other characters than
    /// letters, digits and `_`.
    pub async fn create_database(&self, name: &str) -> Result<()> {
        self.on_database("CREATE", name).await
    }

    /// Removes a database.
    ///
    /// # Errors
    /// Same errors as [`create_database`](Self::create_database).
    pub async fn drop_database(&self, name: &str) -> Result<()> {
        self.on_database("DROP", name).await
    }

    async fn on_database(&self, verb: &str, name: &str) -> Result<()> {
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        {
            return Err(tooz_core::Error::invalid("a database's name has letters, digits and _"));
        }
        self.connection.ask(format!("{verb} DATABASE `{name}`")).await?;
        Ok(())
    }
}
