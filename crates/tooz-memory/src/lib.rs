//! The in-process driver of `tooz`: `memory://NAME` and `zake://`.
//!
//! The coordinators of one process that use the same URL share a [`World`]: a little server with
//! sessions that expire, queues, and groups. This driver is for tests: of an application, and of
//! the engine itself, because a [`World`] can be told to misbehave.
//!
//! | option | meaning | default |
//! |---|---|---|
//! | `timeout` | the session's time to live, in seconds | 10 |
//!
//! A world lives as long as the process.

mod config;
mod driver;
mod election;
mod group;
mod keys;
mod lock;
mod session;
mod state;
// What a server would keep, and its rules.
mod store;
// The server that coordinators of one process share, and its faults.
mod world;

use tooz_core::{Coordinator, DriverEntry, Features, MemberId, Registry, Result, RunsOn};

pub use world::World;

/// A started coordinator of `memory://WORLD`: the short way for tests and examples.
///
/// # Errors
/// The same as those of [`Coordinator::start`].
pub async fn start(world: &str, member: impl Into<MemberId>) -> Result<Coordinator> {
    let registry = Registry::new().with(DRIVER)?;
    let coordinator = registry.builder(&format!("memory://{world}"), member)?.build()?;
    coordinator.start().await?;
    Ok(coordinator)
}

/// The driver, for [`Registry::with`](tooz_core::Registry::with).
pub const DRIVER: DriverEntry = DriverEntry {
    name: "memory",
    schemes: &["memory", "zake"],
    characteristics: config::CHARACTERISTICS,
    features: Features::ALL,
    time_to_live: &["timeout"],
    runs_on: RunsOn::Engine,
    open: driver::open,
};
