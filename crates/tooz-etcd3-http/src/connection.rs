//! The JSON gateway of one server.

use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tooz_core::kit::{PemFile, PemFiles};
use tooz_core::{Result as CoreResult, Secret, async_trait};
use tooz_etcd3_core::{
    Attached, Config, Connector, Endpoint, Event, Events, Failure, Range, Transport, Txn, TxnReply,
};
use tooz_http::{Http, Lines, Request, Settings, Tls};

use crate::config::GatewayConfig;
use crate::errors::{StreamError, from_error, from_response};
use crate::json::{self, Bytes, JsonEvent, JsonTxnReply, Number};

/// The gateway of each server. Their order and failover are the shared part's, so each has a client
/// of its own; and a new one when it is connected again, since the old one's idle connections may
/// be dead too, and the certificates may be replaced.
#[derive(Debug)]
pub(crate) struct Gateway(GatewayConfig);

impl Gateway {
    /// Fails if a certificate or key cannot be used.
    pub(crate) fn new(config: &GatewayConfig) -> CoreResult<Self> {
        let shared = &config.shared;
        shared.endpoints.iter().try_for_each(|server| client(shared, server).map(drop))?;
        Ok(Self(config.clone()))
    }
}

fn client(config: &Config, endpoint: &Endpoint) -> CoreResult<Http> {
    let at = tooz_http::Endpoint::new(&endpoint.host, endpoint.port);
    let mut settings = Settings::new(vec![at])
        .connect_timeout(config.connect_timeout)
        .response_timeout(config.response_timeout);
    if let Some(tls) = &config.tls {
        settings = settings.tls(read_pem(tls).map_err(|error| error.on(config.backend))?);
    }
    Http::new(settings)
}

fn read_pem(files: &PemFiles) -> CoreResult<Tls> {
    let authorities = files.authorities.as_ref().map(PemFile::read).transpose()?;
    let identity = match &files.identity {
        Some((certificate, key)) => Some((certificate.read()?, key.read()?)),
        None => None,
    };
    Ok(Tls { authorities, identity, server_name: None })
}

#[async_trait]
impl Connector for Gateway {
    async fn connect(&self, endpoint: &Endpoint) -> Result<Arc<dyn Transport>, Failure> {
        let http = client(&self.0.shared, endpoint).map_err(from_error)?;
        let version = match &self.0.api_version {
            Some(version) => version.clone(),
            None => api_version(&http).await?,
        };
        Ok(Arc::new(Connection { http, path: format!("/{version}") }))
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Version {
    etcdserver: String,
}

/// The newest version of the gateway's paths that a server of this version has.
async fn api_version(http: &Http) -> Result<String, Failure> {
    let response = http.send(&Request::get("/version")).await.map_err(from_error)?;
    let version: Version = read(&response)?;
    let mut numbers = version.etcdserver.split('.').map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(3), Some(minor)) => Ok(path_of(minor).to_owned()),
        (Some(_), Some(_)) => Ok("v3".to_owned()),
        _ => Err(Failure::unexpected_answer()),
    }
}

fn path_of(minor: u32) -> &'static str {
    match minor {
        0..3 => "v3alpha",
        3 => "v3beta",
        _ => "v3",
    }
}

fn read<T: DeserializeOwned>(response: &tooz_http::Response) -> Result<T, Failure> {
    if !response.is_success() {
        return Err(from_response(response));
    }
    serde_json::from_slice(response.body()).map_err(|e| Failure::unexpected_answer().caused_by(e))
}

#[derive(Debug)]
struct Connection {
    http: Http,
    /// Before the path of each request.
    path: String,
}

impl Connection {
    fn request(&self, token: Option<&str>, path: &str, body: &Value) -> Result<Request, Failure> {
        let request = Request::post(format!("{}/{path}", self.path));
        let request = match token {
            Some(token) => request.header("authorization", &Secret::new(token)),
            None => Ok(request),
        };
        request.and_then(|request| request.json(body)).map_err(from_error)
    }

    async fn call<T: DeserializeOwned>(
        &self,
        token: Option<&str>,
        path: &str,
        body: &Value,
    ) -> Result<T, Failure> {
        let request = self.request(token, path, body)?;
        read(&self.http.send(&request).await.map_err(from_error)?)
    }
}

/// A line of a response that may have several.
#[derive(Deserialize)]
struct Line<T> {
    result: Option<T>,
    error: Option<StreamError>,
}

impl<T> Line<T> {
    fn result(self) -> Result<T, Failure> {
        match self {
            Self { error: Some(error), .. } => Err(error.into()),
            Self { result: Some(result), .. } => Ok(result),
            _ => Err(Failure::unexpected_answer()),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Token {
    token: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct LeaseStatus {
    #[serde(rename = "TTL")]
    ttl: Number,
    keys: Vec<Bytes>,
}

#[async_trait]
impl Transport for Connection {
    async fn authenticate(&self, user: &str, password: &str) -> Result<String, Failure> {
        let login = json!({ "name": user, "password": password });
        Ok(self.call::<Token>(None, "auth/authenticate", &login).await?.token)
    }

    async fn txn(&self, token: Option<&str>, txn: &Txn) -> Result<TxnReply, Failure> {
        self.call::<JsonTxnReply>(token, "kv/txn", &json::txn(txn)).await?.read()
    }

    async fn grant(&self, token: Option<&str>, (id, ttl): &(i64, u64)) -> Result<(), Failure> {
        let lease = json!({ "ID": id.to_string(), "TTL": ttl.to_string() });
        self.call::<Value>(token, "lease/grant", &lease).await.map(drop)
    }

    async fn keep_alive(&self, token: Option<&str>, lease: &i64) -> Result<u64, Failure> {
        let lease = json!({ "ID": lease.to_string() });
        let line: Line<LeaseStatus> = self.call(token, "lease/keepalive", &lease).await?;
        let status = line.result()?;
        // Left out when there is no such lease.
        Ok(u64::try_from(status.ttl.0).unwrap_or(0))
    }

    async fn revoke(&self, token: Option<&str>, lease: &i64) -> Result<(), Failure> {
        let lease = json!({ "ID": lease.to_string() });
        // Every version has this path; only newer ones have it without `kv`.
        self.call::<Value>(token, "kv/lease/revoke", &lease).await.map(drop)
    }

    async fn attached(&self, token: Option<&str>, lease: &i64) -> Result<Attached, Failure> {
        let lease = json!({ "ID": lease.to_string(), "keys": true });
        let status: LeaseStatus = self.call(token, "kv/lease/timetolive", &lease).await?;
        let keys = status.keys.into_iter().map(|key| key.0).collect();
        // Below zero for one that is gone; zero for less than a second of life.
        Ok((status.ttl.0 >= 0).then_some(keys))
    }

    async fn watch(&self, token: Option<&str>, range: &Range) -> Result<Box<dyn Events>, Failure> {
        let create = json!({ "create_request": json::range(range) });
        let request = self.request(token, "watch", &create)?;
        let lines = self.http.open(&request).await.map_err(from_error)?;
        let mut watch = Watch { lines };
        // The first line says that it is watched now.
        let created = watch.line().await?;
        if created.created { Ok(Box::new(watch)) } else { Err(Failure::unexpected_answer()) }
    }
}

/// A response of its own, and with it a connection.
#[derive(Debug)]
struct Watch {
    lines: Lines,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WatchLine {
    created: bool,
    canceled: bool,
    compact_revision: Number,
    cancel_reason: String,
    events: Vec<JsonEvent>,
}

impl Watch {
    async fn line(&mut self) -> Result<WatchLine, Failure> {
        let line = self.lines.next().await.map_err(from_error)?;
        let line = line.ok_or_else(|| Failure::broken("the watch ended"))?;
        let line: Line<WatchLine> =
            serde_json::from_slice(&line).map_err(|e| Failure::unexpected_answer().caused_by(e))?;
        let line = line.result()?;
        if !line.canceled {
            return Ok(line);
        }
        Err(Failure::watch_cancelled(line.compact_revision.0, line.cancel_reason))
    }
}

#[async_trait]
impl Events for Watch {
    async fn next(&mut self) -> Result<Vec<Event>, Failure> {
        Ok(self.line().await?.events.into_iter().map(Event::from).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_version_has_its_paths() {
        assert_eq!([2, 3, 4, 6].map(path_of), ["v3alpha", "v3beta", "v3", "v3"]);
    }
}
