//! A look at what coordinators have left on the server, and the means to clean it up: for tests.

use std::time::Duration;

use tooz_core::{CoordinatorUrl, Error, ErrorKind, GroupId, MemberId, Options, Result};

use crate::config::Config;
use crate::connection::{self, Connection};
use crate::errors;
use crate::roster::Roster;
use crate::value::Value;
use crate::wire::{Change, How, Item, Reply, Request, Seconds};

/// A separate connection to the namespace of a URL.
#[derive(Debug)]
pub struct Inspector {
    config: Config,
    connection: Connection,
}

/// What a key is for.
enum Found {
    Session(String),
    Member(MemberId),
    Group(GroupId),
    Lock,
    Queue,
    /// What is meant to stay.
    Other,
}

impl Inspector {
    /// Connects. It needs a Tokio runtime.
    ///
    /// # Errors
    /// Same errors as [`Coordinator::start`](tooz_core::Coordinator::start).
    pub async fn connect(url: &str) -> Result<Self> {
        let url: CoordinatorUrl = url.parse()?;
        let config = Config::read(&url, Options::of(&url))?;
        let connection = connection::open(&config).await?;
        Ok(Self { config, connection })
    }

    /// What coordinators have in the namespace besides groups: sessions, members, locks held and
    /// waited for.
    ///
    /// # Errors
    /// If the server cannot be asked.
    pub async fn residue(&self) -> Result<Vec<String>> {
        let mut residue = Vec::new();
        for (key, item) in self.items().await? {
            let shown = key.escape_ascii();
            match self.found(&key) {
                Found::Session(id) => residue.push(format!("session {id}")),
                Found::Member(member) => residue.push(format!("sign of life of {member}")),
                Found::Lock => residue.push(format!("held: {shown}")),
                Found::Queue => residue.push(format!("waited for: {shown}")),
                Found::Group(group) => {
                    let roster = Roster::read(&item)?.unwrap_or_default();
                    residue.extend(roster.iter().map(|(id, _)| format!("member {id} of {group}")));
                }
                Found::Other => {}
            }
        }
        Ok(residue)
    }

    /// Ends the sessions of a member, and what depends on them, as if they had expired; returns how
    /// many there were.
    ///
    /// # Errors
    /// If the server cannot be asked.
    pub async fn expire_sessions(&self, member: &MemberId) -> Result<u32> {
        let items = self.items().await?;
        let mut sessions = Vec::new();
        for (key, item) in &items {
            match self.found(key) {
                Found::Session(id) if item.value == member.as_bytes() => {
                    sessions.push(id);
                    self.ask(Request::Delete(key.clone(), item.cas)).await?;
                }
                Found::Member(id) if id == *member => {
                    self.ask(Request::Delete(key.clone(), item.cas)).await?;
                }
                _ => {}
            }
        }
        for (key, item) in items {
            match self.found(&key) {
                Found::Lock => self.expire_lock(&key, &item, member, &sessions).await?,
                Found::Group(_) => self.expire_member(&key, member, &sessions).await?,
                _ => {}
            }
        }
        Ok(u32::try_from(sessions.len()).unwrap_or(u32::MAX))
    }

    /// Deletes the namespace with everything in it.
    ///
    /// # Errors
    /// If the server cannot be asked.
    pub async fn wipe(&self) -> Result<()> {
        for (key, item) in self.items().await? {
            self.ask(Request::Delete(key, item.cas)).await?;
        }
        Ok(())
    }

    // ---- Expiring.

    async fn expire_lock(
        &self,
        key: &[u8],
        item: &Item,
        member: &MemberId,
        sessions: &[String],
    ) -> Result<()> {
        let held = Value::read(&item.value);
        let goes = |session: &String| sessions.contains(session);
        let ours = match &held {
            // The value of a term is its member.
            Value::Foreign => item.value == member.as_bytes(),
            held => held.owners().iter().any(|owner| goes(&owner.session)),
        };
        if ours {
            let ttl = Seconds::at_least(self.config.lock_timeout);
            let request = held.without(|owner| goes(&owner.session), (key, item.cas), ttl);
            self.ask(request).await?;
        }
        Ok(())
    }

    async fn expire_member(
        &self,
        key: &[u8],
        member: &MemberId,
        sessions: &[String],
    ) -> Result<()> {
        loop {
            let Some(item) = self.ask(Request::get(key)).await?.item()? else { return Ok(()) };
            let mut roster = Roster::read(&item)?.unwrap_or_default();
            let session = roster.get(member).and_then(|entry| entry.session()).map(str::to_owned);
            if !session.is_some_and(|session| sessions.contains(&session)) {
                return Ok(());
            }
            roster.remove(member);
            let store = roster.store(key, How::Swap(item.cas))?;
            if self.ask(store).await?.change()? == Change::Done {
                return Ok(());
            }
        }
    }

    // ---- Looking.

    async fn ask(&self, request: Request) -> Result<Reply> {
        let answer = self.connection.call_each([request]);
        let answer = tokio::time::timeout(self.config.connect_timeout, answer).await;
        let [reply] = answer.unwrap_or_else(|_| Err(errors::no_answer()))?;
        Ok(reply)
    }

    /// Everything in the namespace that has not expired.
    async fn items(&self) -> Result<Vec<(Vec<u8>, Item)>> {
        let mut items = Vec::new();
        for key in self.keys().await? {
            if key.starts_with(self.config.keys.namespace())
                && let Some(item) = self.ask(Request::get(&key)).await?.item()?
            {
                items.push((key, item));
            }
        }
        Ok(items)
    }

    async fn keys(&self) -> Result<Vec<Vec<u8>>> {
        for _ in 0..500 {
            match self.ask(Request::Keys).await? {
                Reply::Keys(keys) => return Ok(keys),
                // One at a time may ask for all keys.
                Reply::Failed(text) if text.starts_with("BUSY") => {}
                reply => return Err(reply.error().unwrap_or_else(Error::unexpected_answer)),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err(Error::new(ErrorKind::TimedOut, "others keep asking for all keys"))
    }

    fn found(&self, key: &[u8]) -> Found {
        let name = key.strip_prefix(self.config.keys.namespace()).unwrap_or(key);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if let Some(id) = name.strip_prefix(b"_TOOZ:S:") {
            return Found::Session(text(id));
        }
        if name.starts_with(b"_TOOZ:Q:") || name.starts_with(b"_TOOZ:C:") {
            return Found::Queue;
        }
        if name.starts_with(b"__TOOZ_LOCK_") {
            return Found::Lock;
        }
        if let Some(member) = name.strip_prefix(b"_TOOZ_MEMBER_") {
            return Found::Member(member.into());
        }
        match name.strip_prefix(b"_TOOZ_GROUP_") {
            None | Some(b"LIST") => Found::Other,
            Some(group) => Found::Group(group.into()),
        }
    }
}
