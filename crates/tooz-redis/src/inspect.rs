//! A look at a namespace from the server's side, for tests and for a person in trouble.
//!
//! Each call searches all keys of the database.

use redis::FromRedisValue;
use tooz_core::{CoordinatorUrl, MemberId, Options, Result};

use crate::config::Config;
use crate::connection::{self, Connection};
use crate::errors::translate;

/// A separate connection to what the coordinators of a URL use.
pub struct Inspector {
    namespace: Vec<u8>,
    connection: Connection,
}

impl Inspector {
    /// Connects. It needs a Tokio runtime.
    ///
    /// # Errors
    /// Same errors as [`Coordinator::start`](tooz_core::Coordinator::start).
    pub async fn connect(url: &str) -> Result<Self> {
        let url: CoordinatorUrl = url.parse()?;
        let config = Config::read(&url, Options::of(&url))?;
        let namespace = config.keys.any().to_vec();
        let connection = connection::open(&config, &[], None).await?.connection;
        Ok(Self { namespace, connection })
    }

    /// What coordinators have in the namespace besides groups: sessions, members, locks held and
    /// waited for.
    ///
    /// # Errors
    /// If the server cannot be asked.
    pub async fn residue(&self) -> Result<Vec<String>> {
        self.ask(include_str!("scripts/residue.lua"), b"").await
    }

    /// Ends the sessions of a member, and what depends on them, as if they had expired; returns how
    /// many there were.
    ///
    /// # Errors
    /// If the server cannot be asked.
    pub async fn expire_sessions(&self, member: &MemberId) -> Result<u32> {
        self.ask(include_str!("scripts/expire.lua"), member.as_bytes()).await
    }

    /// Deletes the namespace with everything in it.
    ///
    /// # Errors
    /// If the server cannot be asked.
    pub async fn wipe(&self) -> Result<()> {
        self.ask::<u32>(include_str!("scripts/wipe.lua"), b"").await.map(drop)
    }

    async fn ask<T: FromRedisValue>(&self, script: &str, member: &[u8]) -> Result<T> {
        let mut connection = self.connection.clone();
        let mut ask = redis::cmd("EVAL");
        ask.arg(script).arg(0).arg(&self.namespace).arg(member);
        ask.query_async(&mut *connection).await.map_err(translate)
    }
}

impl std::fmt::Debug for Inspector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inspector").finish_non_exhaustive()
    }
}
