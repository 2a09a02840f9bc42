//! The conformance and fault kit of `tooz`: named cases that any driver, ours or not, must pass.
//!
//! A driver supplies a [`Fixture`] for each setup that it is tested in, and a capability matrix
//! with a row for each. A test target with `harness = false` is then this:
//!
//! ```no_run
//! use std::process::ExitCode;
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use tooz_core::{DriverEntry, MemberId, Result, async_trait};
//! use tooz_testkit::{Fixture, World};
//!
//! struct Mine;
//!
//! #[async_trait]
//! impl Fixture for Mine {
//!     fn name(&self) -> &str {
//!         "mine"
//!     }
//!     fn driver(&self) -> DriverEntry {
//! #       const DRIVER: DriverEntry = tooz_memory::DRIVER;
//!         DRIVER
//!     }
//!     fn needs_server(&self) -> bool {
//!         true
//!     }
//!     async fn world(&self) -> Result<Box<dyn World>> {
//! #       let fresh = "";
//!         let url = format!("{}/{fresh}", tooz_testkit::server_url("mine")?);
//!         Ok(Box::new(MyWorld { url }))
//!     }
//! }
//!
//! struct MyWorld {
//!     url: String,
//! }
//!
//! #[async_trait]
//! impl World for MyWorld {
//!     fn url(&self) -> &str {
//!         &self.url
//!     }
//!     fn ttl(&self) -> Option<Duration> {
//!         Some(Duration::from_secs(2))
//!     }
//!     async fn residue(&self) -> Result<Vec<String>> {
//! #       let left = vec![];
//!         Ok(left) // asked of the server, not of the driver
//!     }
//!     async fn take_session_away(&self, member: &MemberId) -> Result<()> {
//!         Ok(()) // through a connection of the fixture's own
//!     }
//!     async fn remove(&self) -> Result<()> {
//!         Ok(())
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     let matrix = "| setup | lifecycle | …"; // include_str!("../docs/capability-matrix.md")
//!     tooz_testkit::main(vec![Arc::new(Mine)], matrix)
//! }
//! ```
//!
//! The test program starts itself again as the other processes of a case, so its `main` must call
//! [`main`] before anything else.
//!
//! Cases that freeze or kill the setup's server run where `TOOZ_TEST_CONTROL_<SETUP>` names a Unix
//! socket. Each connection to it sends one line, and gets the line `ok` back when that is done:
//! `freeze` (all its processes), `kill` (like a crash: what is on disk stays), `start` (after either:
//! it serves again at its address). `cargo xtask test-backends` provides that for the servers that it
//! starts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a case fails by panicking"
)]

mod area;
mod case;
mod cases;
mod contention;
mod context;
mod control;
mod fixture;
mod matrix;
mod proxy;
mod run;
mod sweep;
mod worker;

pub use area::Area;
pub use case::Case;
pub use fixture::{Fixture, World, server_url};
pub use matrix::Matrix;
pub use run::{check, main, worker};
