//! etcd v3 over its JSON gateway: the range and the put of a key.

use std::borrow::Cow;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use tooz::CoordinatorUrl;
use tooz::driver::async_trait;

use super::Raw;
use super::etcd3::{TTL, end_of, members};
use super::http::{Http, JSON};
use super::place::{option, own_name};

pub(super) struct Etcd3Http {
    http: Http,
    range: String,
    put: String,
    get_body: Bytes,
    put_body: Bytes,
    namespace: String,
}

#[derive(Deserialize)]
struct Found<'a> {
    #[serde(borrow, default)]
    kvs: Vec<KeyValue<'a>>,
}

/// In base64. What is empty is left out.
#[derive(Deserialize)]
struct KeyValue<'a> {
    #[serde(borrow, default)]
    key: Cow<'a, str>,
    #[serde(borrow, default)]
    value: Cow<'a, str>,
}

impl Etcd3Http {
    pub(super) async fn open(url: &CoordinatorUrl) -> anyhow::Result<Self> {
        let mut http = Http::open(url, 2379).await?;
        let version = option(url, "api_version").unwrap_or("v3");
        let (grant, ttl) = (format!("/{version}/lease/grant"), TTL.to_string());
        let granted =
            http.send(Method::POST, &grant, JSON, json!({ "TTL": ttl }).to_string()).await?;
        let granted: Value = serde_json::from_slice(&granted)?;
        let lease = granted["ID"].as_str().context("no lease")?;
        let (key, value) = (STANDARD.encode(own_name()), STANDARD.encode("1"));
        let put = json!({ "key": key, "value": value, "lease": lease });
        Ok(Self {
            http,
            range: format!("/{version}/kv/range"),
            put: format!("/{version}/kv/put"),
            get_body: json!({ "key": key }).to_string().into(),
            put_body: put.to_string().into(),
            namespace: option(url, "namespace").unwrap_or_default().to_owned(),
        })
    }
}

#[async_trait]
impl Raw for Etcd3Http {
    async fn read(&mut self) -> anyhow::Result<()> {
        self.http.send(Method::POST, &self.range, JSON, self.get_body.clone()).await?;
        Ok(())
    }

    async fn write(&mut self) -> anyhow::Result<()> {
        self.http.send(Method::POST, &self.put, JSON, self.put_body.clone()).await?;
        Ok(())
    }

    async fn read_group(&mut self, group: &str) -> anyhow::Result<usize> {
        let prefix = members(&self.namespace, group);
        let range = json!({
            "key": STANDARD.encode(&prefix),
            "range_end": STANDARD.encode(end_of(&prefix)),
        });
        let body = self.http.send(Method::POST, &self.range, JSON, range.to_string()).await?;
        let found: Found<'_> = serde_json::from_slice(&body)?;
        let mut bytes = 0;
        for KeyValue { key, value } in &found.kvs {
            let (key, value) = (STANDARD.decode(&**key)?, STANDARD.decode(&**value)?);
            bytes += key.len() - prefix.len() + value.len();
        }
        Ok(bytes)
    }
}
