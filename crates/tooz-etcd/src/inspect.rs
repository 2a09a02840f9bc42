//! A look at a namespace from the server's side, for tests and for a person in trouble.

use std::sync::Arc;

use tooz_core::{CoordinatorUrl, Error, MemberId, Options, Result};

use crate::client::{Client, Node};
use crate::config::Config;
use crate::keys::{is_marker, member_in, session_in};

/// The keys of what coordinators of a URL use. It needs a Tokio runtime.
#[derive(Debug)]
pub struct Inspector {
    client: Client,
    root: String,
}

impl Inspector {
    /// Reads the URL, which must have a namespace, and connects nothing.
    ///
    /// # Errors
    /// When the URL is not acceptable.
    pub fn new(url: &str) -> Result<Self> {
        let url: CoordinatorUrl = url.parse()?;
        let config = Config::read(&url, Options::of(&url))?;
        let root = config.keys.root().to_owned();
        if root.is_empty() {
            return Err(Error::invalid("without a namespace, the keys may belong to anybody"));
        }
        Ok(Self { client: Client::new(&Arc::new(config))?, root })
    }

    /// What coordinators have in the namespace besides groups: sessions, members, locks held and
    /// waited for.
    ///
    /// # Errors
    /// If the server cannot be asked.
    pub async fn residue(&self) -> Result<Vec<String>> {
        let keys = self.keys().await?;
        let left = keys.iter().filter(|node| !node.key.ends_with("/mark"));
        Ok(left.map(|node| format!("{} = {}", node.key, node.value)).collect())
    }

    /// Ends the sessions of a member, and what depends on them, as if they had expired; returns how
    /// many there were.
    ///
    /// # Errors
    /// If the server cannot be asked.
    pub async fn expire_sessions(&self, member: &MemberId) -> Result<usize> {
        let keys = self.keys().await?;
        let is_session = |node: &&Node| node.key.contains("/session/");
        let sessions: Vec<_> = keys
            .iter()
            .filter(is_session)
            .filter(|node| member_in(&node.value).as_ref() == Some(member))
            .filter_map(|node| session_in(&node.value).map(str::to_owned))
            .collect();
        // The sessions last, so that whoever learns of an end finds the locks free.
        let (first, last): (Vec<_>, Vec<_>) =
            keys.iter().partition(|node| !node.key.contains("/session/"));
        for node in first.into_iter().chain(last) {
            let (key, value) = (encoded(&node.key), &node.value);
            if sessions.iter().any(|session| value.contains(session) || key.contains(session)) {
                self.client.delete(&key, None).await?;
            }
        }
        let readers = self.keys().await?;
        let readers = readers.iter().any(|node| node.key.contains("/readers/"));
        for node in keys.iter().filter(|node| is_marker(&node.value) && !readers) {
            self.client.delete(&encoded(&node.key), None).await?;
        }
        Ok(sessions.len())
    }

    /// Deletes the namespace with everything in it.
    ///
    /// # Errors
    /// If the server cannot be asked.
    pub async fn wipe(&self) -> Result<()> {
        self.client.delete_tree(&self.root).await.map(drop)
    }

    async fn keys(&self) -> Result<Vec<Node>> {
        let mut keys = Vec::new();
        let mut rest: Vec<_> =
            self.client.tree(&self.root).await?.result.ok().map(|e| e.node).into_iter().collect();
        while let Some(node) = rest.pop() {
            if node.dir { rest.extend(node.nodes) } else { keys.push(node) }
        }
        Ok(keys)
    }
}

/// A key that the server names, as part of a URL.
fn encoded(key: &str) -> String {
    let part = |part: &str| tooz_http::encode(part.as_bytes()).to_string();
    key.split('/').map(part).collect::<Vec<_>>().join("/")
}
