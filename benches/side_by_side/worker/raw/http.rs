//! HTTP on one connection that is kept.

use anyhow::ensure;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tooz::CoordinatorUrl;

use super::place::server;

pub(super) const JSON: &str = "application/json";
pub(super) const FORM: &str = "application/x-www-form-urlencoded";

pub(super) struct Http {
    requests: SendRequest<Full<Bytes>>,
    host: String,
}

impl Http {
    pub(super) async fn open(url: &CoordinatorUrl, port: u16) -> anyhow::Result<Self> {
        let (name, port) = server(url, port);
        let stream = TcpStream::connect((name.as_str(), port)).await?;
        stream.set_nodelay(true)?;
        let (requests, connection) = handshake(TokioIo::new(stream)).await?;
        // When it breaks, the next request says so.
        tokio::spawn(connection);
        Ok(Self { requests, host: format!("{name}:{port}") })
    }

    pub(super) async fn get(&mut self, target: &str) -> anyhow::Result<Bytes> {
        self.send(Method::GET, target, JSON, "").await
    }

    /// Sends a request, whose body may be empty; the whole body of the answer, which is one of
    /// success.
    pub(super) async fn send(
        &mut self,
        method: Method,
        target: &str,
        content: &'static str,
        body: impl Into<Bytes>,
    ) -> anyhow::Result<Bytes> {
        let body = body.into();
        let mut request = Request::builder().method(method).uri(target).header(HOST, &self.host);
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, content);
        }
        let request = request.body(Full::new(body))?;
        self.requests.ready().await?;
        let response = self.requests.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "{target}: {status}: {}", String::from_utf8_lossy(&body));
        Ok(body)
    }
}
