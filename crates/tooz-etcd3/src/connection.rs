//! gRPC to one server: one connection for all calls and watches.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{StreamExt, once};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint as Address};
use tonic::{IntoRequest, Request, Streaming};
use tooz_core::kit::PemFiles;
use tooz_core::{Error, Result as CoreResult, async_trait};
use tooz_etcd3_core::{
    Attached, Config, Connector, Endpoint, Event, Events, Failure, Range, Transport, Txn, TxnReply,
};

use crate::convert;
use crate::errors::{from_connect, from_status};
use crate::proto::auth_client::AuthClient;
use crate::proto::kv_client::KvClient;
use crate::proto::lease_client::LeaseClient;
use crate::proto::watch_client::WatchClient;
use crate::proto::watch_request::RequestUnion;
use crate::proto::{self, WatchResponse};

/// How large an answer may be. The server has no limit that would fit: all members of a group with
/// their capabilities are one answer, so this is far above the library's 4 MiB.
const ANSWER: usize = 64 << 20;

/// How often a silent connection is probed. More often than every 5 s a server takes for an attack;
/// a server that hangs is noticed by the heartbeats before.
const PROBE: Duration = Duration::from_secs(10);

/// Connects to each server in the same way.
#[derive(Debug)]
pub(crate) struct Grpc {
    connect_timeout: Duration,
    response_timeout: Duration,
    tls: Option<PemFiles>,
}

impl Grpc {
    /// Fails if a certificate or key, or a host's name, cannot be used.
    pub(crate) fn new(config: &Config) -> CoreResult<Self> {
        let grpc = Self {
            connect_timeout: config.connect_timeout,
            response_timeout: config.response_timeout,
            tls: config.tls.clone(),
        };
        for endpoint in &config.endpoints {
            grpc.address(endpoint)?;
        }
        Ok(grpc)
    }

    fn address(&self, endpoint: &Endpoint) -> CoreResult<Address> {
        let unusable = |cause| {
            Error::invalid("a host, a certificate or a key cannot be used")
                .with("server", endpoint.authority())
                .caused_by(cause)
        };
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let address = Address::from_shared(format!("{scheme}://{}", endpoint.authority()))
            .map_err(unusable)?
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .tcp_keepalive(Some(PROBE))
            .http2_keep_alive_interval(PROBE)
            .keep_alive_timeout(self.response_timeout)
            .keep_alive_while_idle(true);
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return address.tls_config(tls_config(tls)?).map_err(unusable);
        }
        Ok(address)
    }
}

#[cfg(feature = "tls")]
fn tls_config(files: &PemFiles) -> CoreResult<tonic::transport::ClientTlsConfig> {
    use tonic::transport::{Certificate, ClientTlsConfig, Identity};
    tooz_core::ensure_crypto_provider();
    let config = match &files.authorities {
        Some(file) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(file.read()?)),
        None => ClientTlsConfig::new().with_native_roots(),
    };
    Ok(match &files.identity {
        Some((certificate, key)) => {
            config.identity(Identity::from_pem(certificate.read()?, key.read()?))
        }
        None => config,
    })
}

#[async_trait]
impl Connector for Grpc {
    async fn connect(&self, endpoint: &Endpoint) -> Result<Arc<dyn Transport>, Failure> {
        // The files may be in the middle of being replaced.
        let address = self.address(endpoint).map_err(from_connect)?;
        let channel = address.connect().await.map_err(from_connect)?;
        Ok(Arc::new(Connection { channel }))
    }
}

#[derive(Debug)]
struct Connection {
    channel: Channel,
}

/// A request on behalf of the user whose token it is.
fn signed<T>(token: Option<&str>, request: impl IntoRequest<T>) -> Result<Request<T>, Failure> {
    let mut request = request.into_request();
    if let Some(token) = token {
        let mut value: MetadataValue<Ascii> =
            token.parse().map_err(|_| Failure::unexpected_answer())?;
        value.set_sensitive(true);
        request.metadata_mut().insert("token", value);
    }
    Ok(request)
}

impl Connection {
    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(ANSWER)
    }

    fn leases(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel.clone()).max_decoding_message_size(ANSWER)
    }
}

#[async_trait]
impl Transport for Connection {
    async fn authenticate(&self, user: &str, password: &str) -> Result<String, Failure> {
        let (name, password) = (user.to_owned(), password.to_owned());
        let request = proto::AuthenticateRequest { name, password };
        let reply = AuthClient::new(self.channel.clone()).authenticate(request).await;
        Ok(reply.map_err(from_status)?.into_inner().token)
    }

    async fn txn(&self, token: Option<&str>, txn: &Txn) -> Result<TxnReply, Failure> {
        let request = signed(token, convert::txn(txn))?;
        let reply = self.kv().txn(request).await.map_err(from_status)?;
        convert::txn_reply(reply.into_inner())
    }

    async fn grant(&self, token: Option<&str>, &(id, ttl): &(i64, u64)) -> Result<(), Failure> {
        let ttl = i64::try_from(ttl).unwrap_or(i64::MAX);
        let request = signed(token, proto::LeaseGrantRequest { ttl, id })?;
        self.leases().lease_grant(request).await.map_err(from_status).map(drop)
    }

    async fn keep_alive(&self, token: Option<&str>, &id: &i64) -> Result<u64, Failure> {
        // The stream is for one renewal: the session asks when the next is due.
        let request = signed(token, once(proto::LeaseKeepAliveRequest { id }))?;
        let replies = self.leases().lease_keep_alive(request).await.map_err(from_status)?;
        let reply = replies.into_inner().message().await.map_err(from_status)?;
        let ttl = reply.ok_or_else(Failure::unexpected_answer)?.ttl;
        Ok(u64::try_from(ttl).unwrap_or(0))
    }

    async fn revoke(&self, token: Option<&str>, &id: &i64) -> Result<(), Failure> {
        let request = signed(token, proto::LeaseRevokeRequest { id })?;
        self.leases().lease_revoke(request).await.map_err(from_status).map(drop)
    }

    async fn attached(&self, token: Option<&str>, &id: &i64) -> Result<Attached, Failure> {
        let request = signed(token, proto::LeaseTimeToLiveRequest { id, keys: true })?;
        let reply = self.leases().lease_time_to_live(request).await.map_err(from_status)?;
        let reply = reply.into_inner();
        // Below zero for one that is gone; zero for less than a second of life.
        Ok((reply.ttl >= 0).then_some(reply.keys))
    }

    async fn watch(&self, token: Option<&str>, range: &Range) -> Result<Box<dyn Events>, Failure> {
        let Range { key, end } = range.clone();
        let create = proto::WatchCreateRequest { key, range_end: end };
        let create =
            proto::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        // No further requests follow, but their stream ends with the watch.
        let (requests, more) = mpsc::channel(1);
        let request = signed(token, once(create).chain(ReceiverStream::new(more)))?;
        let mut client = WatchClient::new(self.channel.clone());
        client = client.max_decoding_message_size(ANSWER);
        let responses = client.watch(request).await.map_err(from_status)?.into_inner();
        let mut watch = Watch { responses, _requests: requests };
        // The first response says that it is watched now.
        let created = watch.response().await?;
        if created.created { Ok(Box::new(watch)) } else { Err(Failure::unexpected_answer()) }
    }
}

struct Watch {
    responses: Streaming<WatchResponse>,
    /// Keeps the stream of requests open. The server keeps watching, and sends what nobody reads,
    /// until both streams have ended.
    _requests: mpsc::Sender<proto::WatchRequest>,
}

impl Watch {
    async fn response(&mut self) -> Result<WatchResponse, Failure> {
        let response = self.responses.message().await.map_err(from_status)?;
        let response = response.ok_or_else(|| Failure::broken("the watch ended"))?;
        match response.canceled {
            true => {
                let (at, reason) = (response.compact_revision, response.cancel_reason);
                Err(Failure::watch_cancelled(at, reason))
            }
            false => Ok(response),
        }
    }
}

#[async_trait]
impl Events for Watch {
    async fn next(&mut self) -> Result<Vec<Event>, Failure> {
        let response = self.response().await?;
        Ok(response.events.into_iter().filter_map(convert::event).collect())
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}
