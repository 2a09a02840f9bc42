//! Consul: GET and PUT of a key, and all keys that begin so.

use std::borrow::Cow;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use serde::Deserialize;
use tooz::CoordinatorUrl;
use tooz::driver::async_trait;

use super::Raw;
use super::http::{Http, JSON};
use super::place::{option, own_name};

pub(super) struct Consul {
    http: Http,
    get: String,
    put: String,
    /// Before the names of the groups.
    groups: String,
    /// What two processes tell each other by: who had it last.
    met_at: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry<'a> {
    #[serde(borrow)]
    key: Cow<'a, str>,
    /// In base64; `None` if it is empty.
    #[serde(borrow)]
    value: Option<Cow<'a, str>>,
    modify_index: u64,
}

impl Consul {
    pub(super) async fn open(url: &CoordinatorUrl) -> anyhow::Result<Self> {
        let put = format!("/v1/kv/{}", own_name());
        let namespace = option(url, "namespace").unwrap_or("tooz");
        let mut this = Self {
            http: Http::open(url, 8500).await?,
            get: format!("{put}?consistent"),
            put,
            groups: format!("{namespace}/groups/"),
            met_at: String::new(),
        };
        // So that there is something to read.
        this.write().await?;
        Ok(this)
    }
}

#[async_trait]
impl Raw for Consul {
    async fn read(&mut self) -> anyhow::Result<()> {
        self.http.get(&self.get).await?;
        Ok(())
    }

    async fn write(&mut self) -> anyhow::Result<()> {
        self.http.send(Method::PUT, &self.put, JSON, "1").await?;
        Ok(())
    }

    async fn meet(&mut self, name: &str) -> anyhow::Result<Option<bool>> {
        self.met_at = format!("/v1/kv/{name}");
        let first = format!("{}?cas=0", self.met_at);
        let made = self.http.send(Method::PUT, &first, JSON, "").await?;
        Ok(Some(made.starts_with(b"true")))
    }

    async fn pass(&mut self) -> anyhow::Result<()> {
        self.http.send(Method::PUT, &self.met_at, JSON, own_name()).await?;
        Ok(())
    }

    async fn turn(&mut self) -> anyhow::Result<()> {
        let body = self.http.get(&format!("{}?consistent", self.met_at)).await?;
        let entries: Vec<Entry<'_>> = serde_json::from_slice(&body)?;
        let Entry { value, modify_index, .. } = entries.first().context("nobody is here")?;
        // The other may have been faster than the long poll.
        if value.as_deref().is_none_or(|value| value == STANDARD.encode(own_name())) {
            self.http.get(&format!("{}?index={modify_index}&wait=60s", self.met_at)).await?;
        }
        self.write().await
    }

    async fn read_group(&mut self, group: &str) -> anyhow::Result<usize> {
        let prefix = format!("{}{group}/", self.groups);
        let body = self.http.get(&format!("/v1/kv/{prefix}?recurse&consistent")).await?;
        let entries: Vec<Entry<'_>> = serde_json::from_slice(&body)?;
        let mut bytes = 0;
        for Entry { key, value, .. } in &entries {
            let value = STANDARD.decode(value.as_deref().unwrap_or_default())?;
            bytes += key.len() - prefix.len() + value.len();
        }
        Ok(bytes)
    }

    async fn close(&mut self) -> anyhow::Result<()> {
        self.http.send(Method::DELETE, &self.put, JSON, "").await?;
        Ok(())
    }
}
