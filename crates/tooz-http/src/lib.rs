//! The HTTP/1.1 client that the etcd and Consul drivers of `tooz` share.
//!
//! It is made for coordination, where the fate of a failed request matters most:
//!
//! - Several endpoints. The one that answered last is asked first, and the next one if a request
//!   surely never left. A request that may be repeated is sent to the next after any failure.
//! - Each attempt has a time limit, and each response says the [`Moment`](tooz_core::Moment)
//!   before its request was sent, which is what leases count from.
//! - Errors are [`tooz_core::Error`]s that say whether the request was not applied (refused, never
//!   sent) or may have been.
//! - After an attempt without an answer, new connections are made: the others may be dead too.
//! - A request in flight has its connection to itself: a long poll holds up nobody, and dropping
//!   it closes the connection.
//! - An answer, or a line of a streamed one, has at most [`LARGEST_ANSWER`] bytes.
//! - No password, token or key is in any `Debug`, error or trace.
//!
//! ```no_run
//! # async fn example() -> tooz_core::Result<()> {
//! use tooz_http::{Endpoint, Http, Request, Settings};
//!
//! let http = Http::new(Settings::new(vec![Endpoint::new("localhost", 8500)]))?;
//! let response = http.send(&Request::get("/v1/kv/inventory").query("consistent", "")).await?;
//! let index = response.header("x-consul-index");
//! # Ok(())
//! # }
//! ```

mod client;
mod error;
mod lines;
mod request;
mod response;
mod settings;
#[cfg(feature = "tls")]
mod tls;

pub use client::{Http, LARGEST_ANSWER};
pub use lines::Lines;
pub use request::{Request, encode};
pub use response::Response;
pub use settings::{Endpoint, Settings, Tls, TlsFiles};
