//! etcd v3 over gRPC: the range and the put of a key, with the few fields of the messages that
//! these need.

use anyhow::Context as _;
use prost::Message;
use tonic::Streaming;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::tokio_stream::{StreamExt as _, once, pending};
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;
use tooz::CoordinatorUrl;
use tooz::driver::async_trait;

use super::Raw;
use super::place::{option, own_name, server};

/// How long the lease of what is written lives, in seconds: longer than any run.
pub(super) const TTL: i64 = 600;

#[derive(Clone, PartialEq, Message)]
struct RangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    range_end: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
    #[prost(int64, tag = "3")]
    lease: i64,
    #[prost(bool, tag = "4")]
    prev_kv: bool,
}

#[derive(Clone, PartialEq, Message)]
struct PutResponse {
    #[prost(message, optional, tag = "2")]
    prev_kv: Option<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct WatchRequest {
    #[prost(message, optional, tag = "1")]
    create: Option<WatchCreateRequest>,
}

#[derive(Clone, PartialEq, Message)]
struct WatchCreateRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct WatchResponse {
    #[prost(message, repeated, tag = "11")]
    events: Vec<Event>,
}

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(message, optional, tag = "2")]
    kv: Option<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct LeaseGrantRequest {
    #[prost(int64, tag = "1")]
    ttl: i64,
}

#[derive(Clone, PartialEq, Message)]
struct LeaseGrantResponse {
    #[prost(int64, tag = "2")]
    id: i64,
}

pub(super) struct Etcd3 {
    grpc: Grpc<Channel>,
    key: Vec<u8>,
    lease: i64,
    namespace: String,
    /// What two processes tell each other by: who had it last.
    met_at: Vec<u8>,
    watch: Option<Streaming<WatchResponse>>,
}

impl Etcd3 {
    pub(super) async fn open(url: &CoordinatorUrl) -> anyhow::Result<Self> {
        let (host, port) = server(url, 2379);
        let address = Endpoint::from_shared(format!("http://{host}:{port}"))?.tcp_nodelay(true);
        // A group may be larger than the library's own limit.
        let grpc = Grpc::new(address.connect().await?).max_decoding_message_size(usize::MAX);
        let namespace = option(url, "namespace").unwrap_or_default().to_owned();
        let (key, met_at) = (own_name().into_bytes(), Vec::new());
        let mut this = Self { grpc, key, lease: 0, namespace, met_at, watch: None };
        let grant = LeaseGrantRequest { ttl: TTL };
        let granted: LeaseGrantResponse =
            this.call("/etcdserverpb.Lease/LeaseGrant", grant).await?;
        this.lease = granted.id;
        Ok(this)
    }

    async fn call<Q, R>(&mut self, path: &'static str, request: Q) -> anyhow::Result<R>
    where
        Q: Message + Send + Sync + 'static,
        R: Message + Default + Send + Sync + 'static,
    {
        self.grpc.ready().await.context("the connection has ended")?;
        let path = PathAndQuery::from_static(path);
        let codec = ProstCodec::<Q, R>::default();
        Ok(self.grpc.unary(tonic::Request::new(request), path, codec).await?.into_inner())
    }

    async fn put(
        &mut self,
        key: Vec<u8>,
        value: Vec<u8>,
        prev_kv: bool,
    ) -> anyhow::Result<PutResponse> {
        let request = PutRequest { key, value, lease: self.lease, prev_kv };
        self.call("/etcdserverpb.KV/Put", request).await
    }

    /// The newest, as most of the servers know it.
    async fn range(&mut self, key: Vec<u8>, range_end: Vec<u8>) -> anyhow::Result<Vec<KeyValue>> {
        let request = RangeRequest { key, range_end };
        let response: RangeResponse = self.call("/etcdserverpb.KV/Range", request).await?;
        Ok(response.kvs)
    }
}

/// The end of the range of all keys that begin so. The prefix ends with a slash.
pub(super) fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// Where the keys of a group's members begin.
pub(super) fn members(namespace: &str, group: &str) -> String {
    format!("{namespace}tooz/groups/{group}/")
}

#[async_trait]
impl Raw for Etcd3 {
    async fn read(&mut self) -> anyhow::Result<()> {
        self.range(self.key.clone(), Vec::new()).await?;
        Ok(())
    }

    async fn write(&mut self) -> anyhow::Result<()> {
        self.put(self.key.clone(), b"1".into(), false).await.map(drop)
    }

    async fn meet(&mut self, name: &str) -> anyhow::Result<Option<bool>> {
        self.met_at = name.as_bytes().to_vec();
        let create = Some(WatchCreateRequest { key: self.met_at.clone() });
        // It ends with its requests, of which there are no more than one.
        let requests = once(WatchRequest { create }).chain(pending());
        self.grpc.ready().await.context("the connection has ended")?;
        let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
        let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
        let watch = self.grpc.streaming(tonic::Request::new(requests), path, codec).await?;
        self.watch = Some(watch.into_inner());
        Ok(Some(self.put(self.met_at.clone(), Vec::new(), true).await?.prev_kv.is_none()))
    }

    async fn pass(&mut self) -> anyhow::Result<()> {
        self.put(self.met_at.clone(), own_name().into_bytes(), false).await.map(drop)
    }

    async fn turn(&mut self) -> anyhow::Result<()> {
        let watch = self.watch.as_mut().context("it met nobody")?;
        loop {
            let response = watch.message().await?.context("the watch has ended")?;
            let is_others =
                |kv: &KeyValue| !kv.value.is_empty() && kv.value != own_name().as_bytes();
            if response.events.iter().filter_map(|event| event.kv.as_ref()).any(is_others) {
                return self.write().await;
            }
        }
    }

    async fn read_group(&mut self, group: &str) -> anyhow::Result<usize> {
        let prefix = members(&self.namespace, group);
        let found = self.range(prefix.clone().into_bytes(), end_of(&prefix)).await?;
        Ok(found.iter().map(|kv| kv.key.len() - prefix.len() + kv.value.len()).sum())
    }
}
