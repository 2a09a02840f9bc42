//! A look at a namespace from the servers' side, for tests and for a person in trouble.

use std::collections::HashMap;

use serde::Deserialize;
use tooz_core::{CoordinatorUrl, MemberId, Options, Result};
use tooz_http::Request;

use crate::client::{Client, SessionInfo};
use crate::config::Config;
use crate::keys::{Keys, path};
use crate::presence;

/// Asks the servers about what coordinators of a URL use.
#[derive(Debug)]
pub struct Inspector {
    client: Client,
    keys: Keys,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AgentCheck {
    #[serde(rename = "CheckID")]
    id: String,
    status: String,
}

impl Inspector {
    /// Reads the URL, and connects when something is asked, within a Tokio runtime.
    ///
    /// # Errors
    /// The same as the driver's, for a URL that it does not accept.
    pub fn new(url: &str) -> Result<Self> {
        let url: CoordinatorUrl = url.parse()?;
        let Config { access, keys, .. } = Config::read(&url, Options::of(&url))?;
        Ok(Self { client: Client::new(access)?, keys })
    }

    /// What coordinators have in the namespace beside groups: sessions, checks that are passed,
    /// members, locks held and waited for.
    ///
    /// # Errors
    /// When the servers cannot be asked.
    pub async fn residue(&self) -> Result<Vec<String>> {
        let sessions = self.sessions().await?;
        let mut residue: Vec<_> = sessions.iter().map(|s| format!("session {}", s.name)).collect();
        for check in self.checks().await? {
            residue.push(format!("check {check}"));
        }
        let [own, ours] = self.keys.all();
        let mut entries = self.client.tree(&own).await?;
        entries.extend(self.client.tree(&ours).await?);
        let groups = self.keys.groups();
        for entry in entries {
            let is_member = entry.key.starts_with(&groups) && !entry.key.ends_with('/');
            if is_member || entry.session.is_some() {
                residue.push(format!("key {}", entry.key));
            }
        }
        Ok(residue)
    }

    /// How many acquisitions are in the queues of the namespace.
    ///
    /// # Errors
    /// When the servers cannot be asked.
    pub async fn queued(&self) -> Result<usize> {
        let entries = self.client.tree(&self.keys.queues()).await?;
        Ok(entries.iter().filter(|entry| entry.session.is_some()).count())
    }

    /// The ids of a member's sessions.
    ///
    /// # Errors
    /// When the servers cannot be asked.
    pub async fn sessions_of(&self, member: &MemberId) -> Result<Vec<String>> {
        let name = self.keys.session_name(member)?;
        let sessions = self.sessions().await?;
        Ok(sessions.into_iter().filter(|s| s.name == name).map(|s| s.id).collect())
    }

    /// Ends the sessions of a member, with all that depends on them; how many there were.
    ///
    /// # Errors
    /// When the servers cannot be asked.
    pub async fn destroy_sessions(&self, member: &MemberId) -> Result<usize> {
        let sessions = self.sessions_of(member).await?;
        for session in &sessions {
            presence::destroy(&self.client, session).await?;
        }
        Ok(sessions.len())
    }

    /// Deletes the namespace with everything in it.
    ///
    /// # Errors
    /// When the servers cannot be asked.
    pub async fn wipe(&self) -> Result<()> {
        for session in self.sessions().await? {
            presence::destroy(&self.client, &session.id).await?;
        }
        for prefix in self.keys.all() {
            let request = Request::delete(path(&prefix)).query("recurse", "").repeatable();
            self.client.call(request, &[]).await?;
        }
        Ok(())
    }

    /// The sessions of the namespace.
    async fn sessions(&self) -> Result<Vec<SessionInfo>> {
        let response = self.client.call(Request::get("/v1/session/list"), &[]).await?;
        let mut sessions = response.json::<Vec<SessionInfo>>()?;
        let prefixes = self.keys.all();
        sessions.retain(|session| prefixes.iter().any(|p| session.name.starts_with(p)));
        Ok(sessions)
    }

    /// The checks of the namespace that are passed. The agent removes by itself what nobody passes.
    async fn checks(&self) -> Result<Vec<String>> {
        let response = self.client.call(Request::get("/v1/agent/checks"), &[]).await?;
        let checks = response.json::<HashMap<String, AgentCheck>>()?;
        let prefix = format!("{}-", self.keys.service_name());
        let ours = checks.into_values().filter(|c| c.id.starts_with(&prefix));
        Ok(ours.filter(|c| c.status == "passing").map(|c| c.id).collect())
    }
}
