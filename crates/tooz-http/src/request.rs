use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde::Serialize;
use tooz_core::{Error, ErrorKind, Result, Secret};

use crate::settings::secret_value;

/// All but what RFC 3986 calls unreserved.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A part of a path or a query, percent-encoded: whatever its bytes are, it stays one part.
pub fn encode(part: &[u8]) -> impl fmt::Display + '_ {
    percent_encode(part, RESERVED)
}

/// A request, to any endpoint or to a certain one.
#[derive(Clone)]
pub struct Request {
    pub(crate) method: Method,
    target: String,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: Bytes,
    pub(crate) limit: Option<Duration>,
    pub(crate) repeatable: bool,
    pub(crate) endpoint: Option<usize>,
}

impl Request {
    /// A `GET` of a path, which is encoded already and begins with a slash. It is repeatable.
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path.into()).repeatable()
    }

    /// A `PUT`.
    pub fn put(path: impl Into<String>) -> Self {
        Self::new(Method::PUT, path.into())
    }

    /// A `POST`.
    pub fn post(path: impl Into<String>) -> Self {
        Self::new(Method::POST, path.into())
    }

    /// A `DELETE`.
    pub fn delete(path: impl Into<String>) -> Self {
        Self::new(Method::DELETE, path.into())
    }

    fn new(method: Method, target: String) -> Self {
        Self {
            method,
            target,
            headers: Vec::new(),
            body: Bytes::new(),
            limit: None,
            repeatable: false,
            endpoint: None,
        }
    }

    /// Adds an option to the query; an empty value means a mere flag.
    #[must_use]
    pub fn query(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.target.push(if self.target.contains('?') { '&' } else { '?' });
        let value = value.to_string();
        self.target.push_str(&encode(name.as_bytes()).to_string());
        if !value.is_empty() {
            self.target.push('=');
            self.target.push_str(&encode(value.as_bytes()).to_string());
        }
        self
    }

    /// Adds a header whose value is never shown.
    pub fn header(mut self, name: &'static str, value: &Secret) -> Result<Self> {
        self.headers.push((HeaderName::from_static(name), secret_value(name, value.expose())?));
        Ok(self)
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets the body to a value in JSON.
    pub fn json(self, value: &impl Serialize) -> Result<Self> {
        let body = serde_json::to_vec(value).map_err(|e| {
            Error::new(ErrorKind::Internal, "a request cannot be written as JSON").caused_by(e)
        })?;
        Ok(self.typed("application/json").body(body))
    }

    /// Sets the body to a form.
    #[must_use]
    pub fn form(self, fields: &[(&str, &str)]) -> Self {
        let pair = |(name, value): &(&str, &str)| {
            format!("{}={}", encode(name.as_bytes()), encode(value.as_bytes()))
        };
        let body = fields.iter().map(pair).collect::<Vec<_>>().join("&");
        self.typed("application/x-www-form-urlencoded").body(body)
    }

    fn typed(mut self, content: &'static str) -> Self {
        let content = HeaderValue::from_static(content);
        self.headers.push((hyper::header::CONTENT_TYPE, content));
        self
    }

    /// How long an attempt may take, instead of the client's own limit. For
    /// [`Http::open`](crate::Http::open) it ends with the head of the response.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Carrying it out twice does no harm, so that it may be sent to the next endpoint even if it
    /// is unknown what became of it at this one.
    #[must_use]
    pub fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }

    /// Sends it to this endpoint alone: its index in the settings, or
    /// [`Response::endpoint`](crate::Response::endpoint).
    #[must_use]
    pub fn at(mut self, endpoint: usize) -> Self {
        self.endpoint = Some(endpoint);
        self
    }

    /// How long the body is, in bytes.
    pub fn length(&self) -> usize {
        self.body.len()
    }

    /// Path and query.
    pub fn target(&self) -> &str {
        &self.target
    }
}

/// Neither headers nor body: both may hold secrets.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_and_forms_are_encoded() {
        let request = Request::get(format!("/v1/kv/{}", encode(b"a/b \xff")))
            .query("recurse", "")
            .query("index", 7)
            .query("dc", "a&b");
        assert_eq!(request.target(), "/v1/kv/a%2Fb%20%FF?recurse&index=7&dc=a%26b");
        let request = Request::put("/v2/keys/x").form(&[("value", "a=b&c"), ("ttl", "5")]);
        assert_eq!(request.body, "value=a%3Db%26c&ttl=5");
    }
}
