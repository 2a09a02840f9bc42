//! Several processes: this test program, started again as a child with orders in its environment.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{event, only_file, soon, started, started_to_be_told, token_in, waiting};
use tempfile::tempdir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tooz_core::{GroupEvent, Loss, MemberId};

const ORDERS: &str = "TOOZ_FILE_TEST_CHILD";
const DIR: &str = "TOOZ_FILE_TEST_DIR";
/// The bar for ownership that is tied to a process.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A child and what it says.
struct Process {
    child: Child,
    says: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(dir: &Path, orders: &str) -> Self {
        Self::start_by(Command::new(std::env::current_exe().unwrap()), dir, orders)
    }

    /// By a command that has the program as its last argument so far.
    fn start_by(mut command: Command, dir: &Path, orders: &str) -> Self {
        command.args(["--exact", "child", "--nocapture", "--test-threads=1"]);
        command.env(ORDERS, orders).env(DIR, dir).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let says = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, says }
    }

    async fn says(&mut self, what: &str) {
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

    fn signal(&self, signal: nix::libc::c_int) {
        let pid = self.child.id().unwrap().to_string();
        let signal = signal.to_string();
        let killed = std::process::Command::new("kill").args(["-s", &signal, &pid]).status();
        assert!(killed.unwrap().success());
    }

    /// Stops it, and waits until it has stopped: until its first thread has heard of it, others go
    /// on, and one may well take a lock.
    async fn stop(&self) {
        self.signal(nix::libc::SIGSTOP);
        let stat = format!("/proc/{}/stat", self.child.id().unwrap());
        let stopped = async {
            while !std::fs::read_to_string(&stat).unwrap().contains(") T ") {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        soon("stop", stopped).await;
    }
}

/// Not a test of its own: what a child does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let (Ok(orders), Ok(dir)) = (std::env::var(ORDERS), std::env::var(DIR)) else { return };
    let dir = Path::new(&dir);
    match orders.as_str() {
        "hold all" => {
            let coordinator = started(dir, "child").await;
            coordinator.join_group("g", &1).await.unwrap();
            let _lock = coordinator.lock("x").unwrap().acquire().await.unwrap();
            let _term = coordinator.campaign("g").await.unwrap();
            say("held");
            std::future::pending::<()>().await;
        }
        "hold and tell" => {
            let coordinator = started(dir, "child").await;
            let lock = coordinator.lock("x").unwrap().acquire().await.unwrap();
            say("held");
            let loss = lock.lost().await;
            assert!(lock.check().is_err());
            say(&format!("lost {loss:?}"));
        }
        "wait" => {
            let coordinator = started(dir, "child").await;
            let held = coordinator.lock("x").unwrap().acquire().await.unwrap();
            say("held");
            held.release().await.unwrap();
            say("released");
        }
        "mount over" => mount_over(dir).await,
        "fill the disk" => fill_the_disk(dir).await,
        "contend" => contend(dir).await,
        orders => panic!("no such orders: {orders}"),
    }
}

fn say(what: &str) {
    // The test harness leaves its own line open.
    println!("\n{what}");
}

/// In a mount namespace of its own: mounts something over the directory in which it has a lock.
async fn mount_over(dir: &Path) {
    let coordinator = started_to_be_told(dir, "child").await;
    let held = coordinator.lock("x").unwrap().acquire().await.unwrap();
    mount(dir);
    soon("loss", held.lost()).await;
    let other = started(dir, "other").await;
    let next = soon("turn", async { other.lock("x").unwrap().acquire().await.unwrap() }).await;
    assert!(next.fencing_token() > held.fencing_token());
    say("done");
}

fn mount(dir: &Path) {
    let mut mount = std::process::Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=1m,mode=755", "tooz-test"]).arg(dir);
    assert!(mount.status().unwrap().success());
}

/// In a mount namespace of its own: stands for election with room for half of its name.
async fn fill_the_disk(dir: &Path) {
    mount(dir);
    let coordinator = started(dir, &"m".repeat(3000)).await;
    coordinator.create_group("g").await.unwrap();
    coordinator.join_group("g", &()).await.unwrap();
    let first = coordinator.campaign("g").await.unwrap();
    let token = first.fencing_token();
    first.resign().await.unwrap();
    let filler = dir.join("filler");
    let mut file = File::create(&filler).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    let error = coordinator.campaign("g").await.unwrap_err();
    assert!(error.to_string().contains("no storage space"), "{error}");
    std::fs::remove_file(&filler).unwrap();
    drop(file);
    let second = coordinator.campaign("g").await.unwrap();
    assert!(second.fencing_token() > token);
    say("done");
}

/// Eight contenders that read, look and write a side record while they hold the lock.
async fn contend(dir: &Path) {
    let coordinator = started(dir, &format!("child-{}", std::process::id())).await;
    let record = OpenOptions::new().append(true).open(dir.join("../record")).unwrap();
    let (record, until) = (Arc::new(record), Instant::now() + Duration::from_secs(2));
    let contenders = (0..8).map(|n| {
        let (lock, record, dir) = (coordinator.lock("x").unwrap(), record.clone(), dir.to_owned());
        tokio::spawn(async move {
            let me = format!("{}-{n}", std::process::id());
            while Instant::now() < until {
                let guard = lock.acquire().await.unwrap();
                let inside = dir.join("../inside");
                // Fails if anybody else is inside.
                drop(File::create_new(&inside).unwrap());
                let line = format!("{} {me}\n", guard.fencing_token());
                (&*record).write_all(line.as_bytes()).unwrap();
                std::fs::remove_file(&inside).unwrap();
                guard.release().await.unwrap();
            }
        })
    });
    for contender in contenders.collect::<Vec<_>>() {
        contender.await.unwrap();
    }
    say("done");
}

#[tokio::test]
async fn all_of_a_killed_process_is_gone_at_once() {
    let dir = tempdir().unwrap();
    let a = started(dir.path(), "a").await;
    a.create_group("g").await.unwrap();
    a.join_group("g", &()).await.unwrap();
    let mut events = a.watch_group("g").await.unwrap();
    assert!(soon("snapshot", events.next()).await.is_some());
    let mut leaders = a.watch_leader("g").await.unwrap();
    let mut child = Process::start(dir.path(), "hold all");
    child.says("held").await;
    let child_leads = |leader: &Option<MemberId>| (*leader == Some("child".into())).then_some(());
    event(&mut leaders, "child leads", child_leads).await;
    event(&mut events, "child joined", |event| match event {
        GroupEvent::Joined(member) => (member.id == "child".into()).then_some(()),
        _ => None,
    })
    .await;
    assert!(a.lock("x").unwrap().try_acquire().await.unwrap().is_none());
    let childs_lock = token_in(&dir.path().join("x"));
    let childs_term = token_in(&only_file(&dir.path().join(".tooz/leaders")));
    let (lock, candidate) = (a.lock("x").unwrap(), a.clone());
    let waiting = tokio::spawn(async move { lock.acquire().await.unwrap().fencing_token().0 });
    let candidacy = tokio::spawn(async move { candidate.campaign("g").await.unwrap() });

    let killed = Instant::now();
    child.child.start_kill().unwrap();
    event(&mut events, "child left", |event| match event {
        GroupEvent::Left(member) => (member.id == "child".into()).then_some(()),
        _ => None,
    })
    .await;
    assert!(soon("lock", waiting).await.unwrap() > childs_lock);
    let term = soon("term", candidacy).await.unwrap();
    let a_leads = |leader: &Option<MemberId>| (*leader == Some("a".into())).then_some(());
    event(&mut leaders, "a leads", a_leads).await;
    let took = killed.elapsed();
    println!("all of a killed process was gone after {took:?}");
    assert!(took < AT_ONCE, "{took:?}");
    assert!(term.fencing_token().0 > childs_term);

    // It stands in nobody's way, and is not in the way of its successor.
    let mut successor = Process::start(dir.path(), "hold all");
    drop(term);
    successor.says("held").await;
    assert_eq!(a.members("g").await.unwrap(), ["a".into(), "child".into()].into());
    successor.child.kill().await.unwrap();
    a.leave_group("g").await.unwrap();
    let deleted = async { while a.delete_group("g").await.is_err() {} };
    soon("delete", deleted).await;
}

#[tokio::test]
async fn a_stopped_holder_keeps_its_lock_and_learns_that_it_was_broken() {
    let dir = tempdir().unwrap();
    let a = started(dir.path(), "a").await;
    let mut child = Process::start(dir.path(), "hold and tell");
    child.says("held").await;
    child.stop().await;
    let lock = a.lock("x").unwrap();
    assert!(lock.try_acquire_for(Duration::from_millis(100)).await.unwrap().is_none());
    assert!(lock.break_lock().await.unwrap());
    let held = soon("lock", lock.acquire()).await.unwrap();
    child.signal(nix::libc::SIGCONT);
    child.says(&format!("lost {:?}", Loss::Taken)).await;
    assert!(held.verify().await.unwrap());
}

#[tokio::test]
async fn what_is_mounted_over_is_lost_at_once() {
    apart("mount over").await;
}

#[tokio::test]
async fn nobody_is_kept_from_leading_by_what_a_full_disk_left() {
    apart("fill the disk").await;
}

/// A child with mounts of its own, where that can be had.
async fn apart(orders: &str) {
    let dir = tempdir().unwrap();
    let apart = ["--mount", "--propagation", "private"];
    let tried = std::process::Command::new("unshare").args(apart).arg("true").output();
    if !tried.is_ok_and(|tried| tried.status.success()) {
        println!("skipped: it needs to mount, which this user or container may not");
        return;
    }
    let mut command = Command::new("unshare");
    command.args(apart).arg(std::env::current_exe().unwrap());
    let mut child = Process::start_by(command, dir.path(), orders);
    child.says("done").await;
    child.child.kill().await.unwrap();
}

#[tokio::test]
async fn a_waiter_that_is_stopped_or_killed_keeps_nobody_from_a_free_lock() {
    let dir = tempdir().unwrap();
    let (a, b) = (started(dir.path(), "a").await, started(dir.path(), "b").await);
    for signal in [nix::libc::SIGKILL, nix::libc::SIGSTOP] {
        let held = a.lock("x").unwrap().acquire().await.unwrap();
        let mut child = Process::start(dir.path(), "wait");
        waiting(dir.path(), 1).await;
        let lock = b.lock("x").unwrap();
        let next = tokio::spawn(async move { lock.acquire().await.unwrap() });
        waiting(dir.path(), 2).await;
        match signal {
            nix::libc::SIGSTOP => child.stop().await,
            signal => child.signal(signal),
        }
        held.release().await.unwrap();
        soon("next", next).await.unwrap().release().await.unwrap();
        if signal == nix::libc::SIGSTOP {
            // Nobody waits for its turn a second time, and it has its own when it goes on.
            let (first, second) = (a.lock("x").unwrap(), b.lock("x").unwrap());
            let began = Instant::now();
            first.acquire().await.unwrap().release().await.unwrap();
            second.acquire().await.unwrap().release().await.unwrap();
            assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
            child.signal(nix::libc::SIGCONT);
            child.says("released").await;
        }
        child.child.wait().await.unwrap();
    }
    tooz_file::inspect::sweep(dir.path());
    assert_eq!(std::fs::read_dir(dir.path().join(".tooz/queues")).unwrap().count(), 0);
}

#[tokio::test]
async fn contenders_of_many_processes_never_meet_and_all_get_their_turn() {
    let parent = tempdir().unwrap();
    let dir = parent.path().join("dir");
    std::fs::create_dir(&dir).unwrap();
    let record = parent.path().join("record");
    File::create(&record).unwrap();
    let mut children: Vec<_> = (0..4).map(|_| Process::start(&dir, "contend")).collect();
    for child in &mut children {
        child.says("done").await;
        assert!(child.child.wait().await.unwrap().success());
    }
    let record = std::fs::read_to_string(record).unwrap();
    let turns: Vec<(u64, &str)> = record
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(token, who)| (token.parse().unwrap(), who))
        .collect();
    assert!(turns.is_sorted_by(|one, two| one.0 < two.0), "tokens rise in the order of the turns");
    let mut of_each = std::collections::BTreeMap::<_, usize>::new();
    for (_, who) in &turns {
        *of_each.entry(who).or_default() += 1;
    }
    println!("{} turns of {} contenders: {of_each:?}", turns.len(), of_each.len());
    assert_eq!(of_each.len(), 32);
}
