//! What the tests share.

#![allow(
    dead_code,
    clippy::panic,
    clippy::unwrap_used,
    reason = "not each test file uses all; tests may panic"
)]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tooz_core::{Coordinator, LockName, Registry};
use tooz_ipc::inspect;
use uuid::Uuid;

/// Far longer than anything can take, also while fifty processes end on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// What a child is to do, and where.
const ORDERS: &str = "TOOZ_IPC_TEST_CHILD";

/// A namespace of its own, removed at the end.
pub(crate) struct Namespace {
    pub(crate) url: String,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        Self { url: Self::random_url() }
    }

    /// One that keeps its files below that directory.
    pub(crate) fn in_directory(dir: &Path) -> Self {
        let url = format!("{}&directory={}", Self::random_url(), dir.display());
        Self { url }
    }

    fn random_url() -> String {
        format!("ipc://?namespace={}", Uuid::new_v4().simple())
    }

    pub(crate) async fn started(&self, member: &str) -> Coordinator {
        started(&self.url, member).await
    }

    pub(crate) fn residue(&self) -> Vec<String> {
        inspect::residue(&self.url).unwrap()
    }

    /// Waits until so many lines of the residue have that text in them.
    pub(crate) async fn shows(&self, what: &str, count: usize) {
        let until = std::time::Instant::now() + SOON;
        loop {
            let residue = self.residue();
            if residue.iter().filter(|line| line.contains(what)).count() == count {
                return;
            }
            assert!(std::time::Instant::now() < until, "not {count} with {what}: {residue:#?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub(crate) fn has_semaphores(&self, lock: &str) -> bool {
        has_semaphores(&self.url, lock)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = inspect::wipe(&self.url) {
            println!("{error}");
        }
    }
}

pub(crate) fn registry() -> Registry {
    Registry::new().with(tooz_ipc::DRIVER).unwrap()
}

pub(crate) async fn started(url: &str, member: &str) -> Coordinator {
    let coordinator = registry().builder(url, member).unwrap().build().unwrap();
    coordinator.start().await.unwrap();
    coordinator
}

/// Whether the kernel has semaphores of that lock: what `ipcs -s` shows.
pub(crate) fn has_semaphores(url: &str, lock: &str) -> bool {
    kernel_has("sem", inspect::lock_key(url, &LockName::from(lock)).unwrap())
}

/// Whether the kernel has the segment of the list of groups: what `ipcs -m` shows.
pub(crate) fn has_group_list(url: &str) -> bool {
    kernel_has("shm", inspect::group_list_key(url).unwrap())
}

/// Whether the kernel lists an object of that key, which it shows as a signed number.
fn kernel_has(kind: &str, key: u32) -> bool {
    let listed = std::fs::read_to_string(Path::new("/proc/sysvipc").join(kind)).unwrap();
    let key = (key as i32).to_string();
    listed.lines().any(|line| line.split_whitespace().next() == Some(key.as_str()))
}

/// Fails when it does not come in time.
pub(crate) async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, work).await.unwrap_or_else(|_| panic!("no {what} within {SOON:?}"))
}

/// This test program, started again with orders in its environment.
pub(crate) struct Process {
    pub(crate) child: Child,
    says: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// The orders come to the test `child` of the program.
    pub(crate) fn start(orders: &[&str]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "child", "--nocapture", "--test-threads=1"]);
        command.env(ORDERS, orders.join("\t")).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let says = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, says }
    }

    pub(crate) async fn says(&mut self, what: &str) {
        let told = async {
            while let Some(line) = self.says.next_line().await.unwrap() {
                if line.ends_with(what) {
                    return;
                }
            }
            panic!("the child ended before it said {what}");
        };
        soon(what, told).await;
    }

    /// Kills it, and waits until it is no more.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// The orders of this program, if it is a child.
pub(crate) fn orders() -> Option<Vec<String>> {
    let orders = std::env::var(ORDERS).ok()?;
    Some(orders.split('\t').map(str::to_owned).collect())
}

pub(crate) fn say(what: &str) {
    // The test harness leaves its own line open.
    println!("\n{what}");
}
