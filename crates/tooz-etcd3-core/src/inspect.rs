//! A look at a namespace from the server's side, for tests and for a person in trouble.

use std::sync::Arc;

use tooz_core::{MemberId, Result};

use crate::client::Client;
use crate::config::Config;
use crate::connection::Connector;
use crate::keys::Keys;
use crate::txn::{KeyValue, Range, Txn};

/// A separate connection to what the coordinators of a URL use.
#[derive(Debug)]
pub struct Inspector {
    keys: Keys,
    client: Client,
}

impl Inspector {
    /// Connects when it is asked something, which needs a Tokio runtime.
    pub fn new(config: Config, connector: Arc<dyn Connector>) -> Self {
        let keys = config.keys.clone();
        Self { keys, client: Client::new(Arc::new(config), connector) }
    }

    /// What coordinators have in the namespace besides groups: sessions, members, locks held and
    /// waited for.
    ///
    /// # Errors
    /// If the server cannot be asked.
    pub async fn residue(&self) -> Result<Vec<String>> {
        let found = self.read(self.keys.all()).await?;
        let left = found.iter().filter(|found| self.keys.group_of(&found.key).is_none());
        Ok(left.map(|left| left.key.escape_ascii().to_string()).collect())
    }

    /// Ends the sessions of a member, and what depends on them, as if they had expired; returns how
    /// many there were.
    ///
    /// # Errors
    /// If the server cannot be asked.
    pub async fn expire_sessions(&self, member: &MemberId) -> Result<usize> {
        let leases = self.sessions(member).await?;
        for lease in &leases {
            self.client.revoke(*lease).await?;
        }
        Ok(leases.len())
    }

    /// The numbers of the leases of a member's sessions.
    ///
    /// # Errors
    /// If the server cannot be asked.
    pub async fn sessions(&self, member: &MemberId) -> Result<Vec<i64>> {
        let found = self.read(self.keys.sessions()).await?;
        let of_member = found.iter().filter(|session| session.value == member.as_bytes());
        Ok(of_member.map(|session| session.lease).collect())
    }

    /// Deletes the namespace with everything in it.
    ///
    /// # Errors
    /// If the server cannot be asked.
    pub async fn wipe(&self) -> Result<()> {
        self.client.txn(&Txn::of(vec![self.keys.all().delete()])).await.map(drop)
    }

    async fn read(&self, range: Range) -> Result<Vec<KeyValue>> {
        let [found] = self.client.txn(&Txn::of(vec![range.get()])).await?.value.ranges();
        Ok(found)
    }
}
