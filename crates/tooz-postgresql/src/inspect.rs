//! A look at a schema from the server's side, for tests and for a person in trouble.

use std::time::Duration;

use tokio_postgres::types::Type;
use tooz_core::{CoordinatorUrl, Error, ErrorKind, MemberId, Moment, Options, Result};

use crate::config::Config;
use crate::connection::{Connection, Parameter};
use crate::errors::get;
use crate::keys::{Keys, quoted};

/// A separate connection to what the coordinators of a URL use. Its role must see the sessions of
/// theirs: the same role does, and a member of `pg_monitor`.
#[derive(Debug)]
pub struct Inspector {
    connection: Connection,
    keys: Keys,
}

impl Inspector {
    /// Connects. It needs a Tokio runtime.
    ///
    /// # Errors
    /// Same errors as [`Coordinator::start`](tooz_core::Coordinator::start).
    pub async fn connect(url: &str) -> Result<Self> {
        let url: CoordinatorUrl = url.parse()?;
        let config = Config::read(&url, Options::of(&url))?;
        let (connection, _) = Connection::open(&config, "tooz-inspector", None).await?;
        Ok(Self { connection, keys: config.keys })
    }

    /// What coordinators have in the schema beside groups: sessions with their advisory locks and
    /// prepared statements, members, leaders, delays.
    ///
    /// # Errors
    /// If the server cannot be asked.
    pub async fn residue(&self) -> Result<Vec<String>> {
        // A session that just ends has no state.
        let sessions = "SELECT application_name || ' ' || pid || ' ' || \
                        coalesce(state, 'ending') || ' holds ' || \
                        (SELECT count(*) FROM pg_locks l WHERE l.pid = a.pid \
                        AND locktype = 'advisory') FROM pg_stat_activity a \
                        WHERE starts_with(application_name, $1)";
        let prefix = format!("tooz:{}:", self.keys.schema());
        let mut residue = self.texts(sessions, &[(&prefix, Type::TEXT)]).await?;
        let exists = "SELECT to_regclass($1) IS NOT NULL";
        let schema = quoted(self.keys.schema());
        let member = format!("{schema}.tooz_member");
        if get(&self.connection.one(exists, &[(&member, Type::TEXT)]).await?, 0)? {
            let members = format!("SELECT 'member ' || encode(id, 'escape') FROM {member}");
            residue.extend(self.texts(&members, &[]).await?);
            let leaders = format!(
                "SELECT 'leader ' || encode(member_id, 'escape') FROM {schema}.tooz_leader"
            );
            residue.extend(self.texts(&leaders, &[]).await?);
        }
        let hold = format!("{schema}.tooz_hold");
        if get(&self.connection.one(exists, &[(&hold, Type::TEXT)]).await?, 0)? {
            let holds = format!("SELECT 'hold ' || token FROM {hold}");
            residue.extend(self.texts(&holds, &[]).await?);
        }
        Ok(residue)
    }

    /// How many connections a member has.
    ///
    /// # Errors
    /// If the server cannot be asked.
    pub async fn connections(&self, member: &MemberId) -> Result<i64> {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1";
        let name = self.keys.application(member);
        get(&self.connection.one(sql, &[(&name, Type::TEXT)]).await?, 0)
    }

    /// Ends the sessions of a member, and waits until the server has forgotten them; how many there
    /// were.
    ///
    /// # Errors
    /// When the server cannot be asked, or the role may not end them.
    pub async fn end_sessions(&self, member: &MemberId) -> Result<usize> {
        let sql = "SELECT pid::text, pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE application_name = $1";
        let name = self.keys.application(member);
        let parameters: [Parameter<'_>; 1] = [(&name, Type::TEXT)];
        let ended: Vec<String> = self.texts(sql, &parameters).await?;
        let alive = "SELECT pid::text FROM pg_stat_activity WHERE application_name = $1";
        let end = Moment::now() + Duration::from_secs(5);
        while self.texts(alive, &parameters).await?.iter().any(|pid| ended.contains(pid)) {
            if end.has_passed() {
                return Err(Error::new(ErrorKind::TimedOut, "a session does not end"));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(ended.len())
    }

    /// Deletes the schema with everything in it.
    ///
    /// # Errors
    /// If the server cannot be asked.
    pub async fn wipe(&self) -> Result<()> {
        let sql = format!("DROP SCHEMA IF EXISTS {} CASCADE", quoted(self.keys.schema()));
        self.connection.ask(&sql, &[]).await.map(drop)
    }

    async fn texts(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<String>> {
        self.connection.ask(sql, parameters).await?.iter().map(|row| get(row, 0)).collect()
    }
}
