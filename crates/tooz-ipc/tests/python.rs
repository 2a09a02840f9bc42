//! Beside Python tooz 9.1.
//!
//! It needs an interpreter that has tooz, named by `TOOZ_PYTHON`; without, it says so and does
//! nothing. `python3 -m venv V && V/bin/pip install tooz==9.1.0 && V/bin/pip install --no-binary
//! sysv_ipc sysv_ipc`, then `TOOZ_PYTHON=V/bin/python cargo test -p tooz-ipc --test python`. The
//! `sysv_ipc` that pip gives by itself can only wait for ever.
//!
//! Python has one namespace for the whole host, so the names are new ones each time, and the tests
//! of the list of groups are one: every Python peer that stops removes it.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::process::{Command as Blocking, Stdio};
use std::time::Duration;

use common::{Process, has_semaphores, orders, say, soon, started};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tooz_core::{ErrorKind, Loss};
use uuid::Uuid;

/// What Python has.
const URL: &str = "ipc://";

struct Peer {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Peer {
    async fn start(member: &str) -> Option<Self> {
        let Ok(python) = std::env::var("TOOZ_PYTHON") else {
            println!("not asked for: TOOZ_PYTHON names no interpreter with tooz 9.1");
            return None;
        };
        let can_wait = "import sysv_ipc; assert sysv_ipc.SEMAPHORE_TIMEOUT_SUPPORTED";
        let checked = Blocking::new(&python).args(["-c", can_wait]).status().unwrap();
        assert!(checked.success(), "{python} needs a sysv_ipc that was built from source");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/peer.py");
        let mut child = Command::new(python)
            .arg(script)
            .arg(member)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let orders = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut peer = Self { child, orders, answers };
        // It imports much.
        let started = tokio::time::timeout(Duration::from_secs(60), peer.answers.next_line());
        assert_eq!(started.await.unwrap().unwrap().as_deref(), Some("ok"));
        Some(peer)
    }

    async fn ordered(&mut self, order: &[&str]) {
        self.orders.write_all(format!("{}\n", order.join("\t")).as_bytes()).await.unwrap();
    }

    async fn answers(&mut self) -> Value {
        let answer = soon("answer", self.answers.next_line()).await.unwrap().unwrap();
        let value = answer.strip_prefix("ok ").unwrap_or_else(|| panic!("{answer}"));
        serde_json::from_str(value).unwrap()
    }

    async fn does(&mut self, order: &[&str]) -> Value {
        self.ordered(order).await;
        self.answers().await
    }

    /// Waits until the kernel shows it asleep on the semaphores.
    async fn waits(&self) {
        let syscall = format!("/proc/{}/syscall", self.child.id().unwrap());
        let semop = [libc::SYS_semtimedop, libc::SYS_semop].map(|number| format!("{number} "));
        soon("wait of Python", async {
            loop {
                match std::fs::read_to_string(&syscall) {
                    Ok(call) if semop.iter().any(|number| call.starts_with(number)) => return,
                    Ok(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                    // Hidden on some systems. The tests hold as well if it does not wait yet.
                    Err(_) => return,
                }
            }
        })
        .await;
    }
}

fn new_name() -> String {
    Uuid::new_v4().simple().to_string()
}

/// Not a test of its own: what a child does.
#[tokio::test]
async fn child() {
    let Some(orders) = orders() else { return };
    let coordinator = started(URL, "child").await;
    let lock = coordinator.lock(orders[0].as_str()).unwrap();
    let _guard = lock.acquire().await.unwrap();
    say("held");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn locks_exclude_python_and_are_excluded_by_it() {
    let Some(mut python) = Peer::start("python").await else { return };
    let (rust, name) = (started(URL, "rust").await, new_name());
    let lock = rust.lock(name.as_str()).unwrap();

    // Held by Python: neither mode passes, and each is woken by the release.
    for shared in [false, true] {
        assert_eq!(python.does(&["lock", &name]).await, true);
        assert!(lock.try_acquire().await.unwrap().is_none());
        assert!(lock.try_acquire_shared().await.unwrap().is_none());
        let waiter = lock.clone();
        let waits = tokio::spawn(async move {
            match shared {
                false => waiter.acquire().await.unwrap(),
                true => waiter.acquire_shared().await.unwrap(),
            }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!waits.is_finished());
        assert_eq!(python.does(&["unlock", &name]).await, true);
        soon("turn", waits).await.unwrap().release().await.unwrap();
    }

    // Held by us: Python does not pass, and is woken by the release.
    let exclusive = lock.acquire().await.unwrap();
    assert_eq!(python.does(&["lock", &name]).await, false);
    python.ordered(&["lock", &name, "true"]).await;
    python.waits().await;
    exclusive.release().await.unwrap();
    assert_eq!(python.answers().await, true);
    assert_eq!(python.does(&["unlock", &name]).await, true);

    // Shared by two: Python waits for both.
    let (one, two) = (lock.acquire_shared().await.unwrap(), lock.acquire_shared().await.unwrap());
    assert_eq!(python.does(&["lock", &name]).await, false);
    python.ordered(&["lock", &name, "true"]).await;
    python.waits().await;
    one.release().await.unwrap();
    python.waits().await;
    assert!(two.verify().await.unwrap());
    two.release().await.unwrap();
    assert_eq!(python.answers().await, true);
    assert_eq!(python.does(&["unlock", &name]).await, true);
    assert!(!has_semaphores(URL, &name));
    rust.stop().await.unwrap();
}

#[tokio::test]
async fn the_killed_give_way_to_the_other_side() {
    let Some(mut python) = Peer::start("python").await else { return };
    let (rust, name) = (started(URL, "rust").await, new_name());
    let mut child = Process::start(&[&name]);
    child.says("held").await;
    python.ordered(&["lock", &name, "true"]).await;
    python.waits().await;
    child.kill().await;
    assert_eq!(python.answers().await, true, "the kernel has undone the hold of the child");
    let lock = rust.lock(name.as_str()).unwrap();
    assert!(lock.try_acquire().await.unwrap().is_none(), "Python has semaphores that we made");
    let waits = tokio::spawn(async move { lock.acquire().await.unwrap() });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waits.is_finished());
    python.child.kill().await.unwrap();
    soon("turn", waits).await.unwrap().release().await.unwrap();
    assert!(!has_semaphores(URL, &name));
    rust.stop().await.unwrap();
}

#[tokio::test]
async fn a_lock_that_is_broken_is_lost_to_the_other_side() {
    let Some(mut python) = Peer::start("python").await else { return };
    let (rust, name) = (started(URL, "rust").await, new_name());
    let lock = rust.lock(name.as_str()).unwrap();
    let guard = lock.acquire().await.unwrap();
    assert_eq!(python.does(&["breaks", &name]).await, true);
    assert_eq!(soon("loss", guard.lost()).await, Loss::Taken);
    assert_eq!(guard.release().await.unwrap_err().kind(), ErrorKind::LockLost);
    assert_eq!(python.does(&["lock", &name]).await, true);
    assert!(lock.break_lock().await.unwrap() && !lock.break_lock().await.unwrap());
    assert_eq!(python.does(&["unlock", &name]).await, false, "it is told only now");
    rust.stop().await.unwrap();
}

#[tokio::test]
async fn groups_are_listed_for_python_and_its_own_are_found() {
    let Some(mut python) = Peer::start("python").await else { return };
    let rust = started(URL, "rust").await;
    let (ours, theirs) = (new_name(), new_name());

    rust.create_group(ours.as_str()).await.unwrap();
    assert_eq!(python.does(&["has", &ours]).await, true);
    python.does(&["create", &theirs]).await;
    assert_eq!(rust.members(theirs.as_str()).await.unwrap().len(), 0);
    assert!(rust.groups().await.unwrap().contains(&theirs.as_str().into()));
    let again = rust.create_group(theirs.as_str()).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::GroupAlreadyExists);

    // Python sees no members: what it deletes is gone without any, and stays with one.
    rust.join_group(theirs.as_str(), &json!({})).await.unwrap();
    for group in [&ours, &theirs] {
        python.does(&["delete", group]).await;
    }
    let groups = rust.groups().await.unwrap();
    assert!(!groups.contains(&ours.as_str().into()), "{groups:?}");
    assert!(groups.contains(&theirs.as_str().into()), "{groups:?}");
    assert_eq!(python.does(&["has", &theirs]).await, true, "it is listed again");

    // Every Python coordinator that stops removes the list: the next finds ours all the same.
    python.does(&["stop"]).await;
    let mut python = Peer::start("next").await.unwrap();
    soon("list", async {
        while python.does(&["has", &theirs]).await != true {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;

    rust.leave_group(theirs.as_str()).await.unwrap();
    rust.delete_group(theirs.as_str()).await.unwrap();
    assert_eq!(python.does(&["has", &theirs]).await, false);
    rust.stop().await.unwrap();
    assert!(common::has_group_list(URL), "a living Python has it");
    python.does(&["stop"]).await;
}
