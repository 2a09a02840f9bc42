//! The driver that ARCHITECTURE.md shows, through the kit.

#[path = "../examples/driver_skeleton.rs"]
#[allow(dead_code, unreachable_pub, reason = "an example is a program of its own")]
mod driver_skeleton;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use driver_skeleton::{DRIVER, LOCKS};
use tooz_core::kit::locked;
use tooz_core::{DriverEntry, Error, MemberId, OperationId, Result, async_trait};
use tooz_testkit::{Fixture, World};

struct Setup;

#[async_trait]
impl Fixture for Setup {
    fn name(&self) -> &str {
        "skeleton"
    }
    fn driver(&self) -> DriverEntry {
        DRIVER
    }
    fn needs_server(&self) -> bool {
        false
    }
    async fn world(&self) -> Result<Box<dyn World>> {
        let name = OperationId::random().to_string();
        Ok(Box::new(SetupWorld { url: format!("skeleton://{name}"), name }))
    }
}

struct SetupWorld {
    url: String,
    name: String,
}

#[async_trait]
impl World for SetupWorld {
    fn url(&self) -> &str {
        &self.url
    }
    fn ttl(&self) -> Option<Duration> {
        None
    }
    async fn residue(&self) -> Result<Vec<String>> {
        let locks = locked(&LOCKS);
        let ours = locks.iter().filter(|((url, _), _)| *url == self.name);
        let held = ours.filter(|(_, lock)| lock.try_lock().is_err());
        Ok(held.map(|((_, name), _)| format!("the lock {name}")).collect())
    }
    async fn take_session_away(&self, _: &MemberId) -> Result<()> {
        Err(Error::not_implemented("taking a session away"))
    }
    async fn remove(&self) -> Result<()> {
        Ok(())
    }
}

const MATRIX: &str = "
| setup | lifecycle | locks | shared-locks | break-lock | semaphores | several | groups | capabilities | events | elections | sessions | fencing | cancellation | processes | faults |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
| skeleton | yes | yes | no: exclusive only | no: left out | yes | yes | no: left out | no: left out | no: left out | no: left out | no: nothing ends one | yes | yes | no: in one process | no: has no connection |
";

fn main() -> ExitCode {
    tooz_testkit::main(vec![Arc::new(Setup)], MATRIX)
}
