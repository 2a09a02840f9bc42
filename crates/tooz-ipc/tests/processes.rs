//! Several processes: what the killed leave, and a fire of kills.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Namespace, Process, has_group_list, has_semaphores, orders, say, started};
use tooz_core::{Coordinator, LockGuard};

/// How long the fire lasts, in seconds.
const SOAK_SECONDS: &str = "TOOZ_IPC_SOAK_SECONDS";
/// How many processes are in it.
const PROCESSES: usize = 50;
/// Locks that are taken exclusively, and one that is also shared.
const LOCKS: [&str; 3] = ["a", "b", "shared"];
const SHARED: &str = LOCKS[2];

/// Not a test of its own: what a child does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Some(orders) = orders() else { return };
    let orders: Vec<_> = orders.iter().map(String::as_str).collect();
    match orders[..] {
        ["reads", url] => {
            let coordinator = started(url, "child").await;
            coordinator.create_group("g").await.unwrap();
            let _guard = coordinator.lock("x").unwrap().acquire_shared().await.unwrap();
            say("reads");
            std::future::pending::<()>().await;
        }
        ["soak", url, dir, name] => soak(url, Path::new(dir), name).await,
        _ => panic!("no such orders: {orders:?}"),
    }
}

#[tokio::test]
async fn the_next_cleans_up_what_dead_readers_have_left() {
    let namespace = Namespace::new();
    let mut child = Process::start(&["reads", &namespace.url]);
    child.says("reads").await;
    assert!(namespace.has_semaphores("x") && has_group_list(&namespace.url));
    child.kill().await;
    assert!(namespace.has_semaphores("x"), "no undo may open the gate for readers");
    let next = namespace.started("next").await;
    assert!(!namespace.has_semaphores("x"));
    assert!(next.groups().await.unwrap().contains(&"g".into()));
    next.stop().await.unwrap();
    assert!(!has_group_list(&namespace.url));
    assert_eq!(namespace.residue(), [""; 0]);
}

/// Fifty processes that take locks, exclusively and shared, while one after the other is killed
/// and replaced. Nobody is inside with a holder that lives, all go on, and nothing is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fire_of_kills() {
    let seconds = std::env::var(SOAK_SECONDS).map_or(5, |seconds| seconds.parse().unwrap());
    let (namespace, folder) = (Namespace::new(), tempfile::tempdir().unwrap());
    let dir = folder.path();
    fs::create_dir(dir.join("killed")).unwrap();
    for lock in LOCKS {
        File::create_new(dir.join(format!("inside-{lock}"))).unwrap();
        fs::create_dir(dir.join(format!("readers-{lock}"))).unwrap();
    }
    let path = dir.to_str().unwrap();
    let start = |number: usize| {
        let name = format!("child-{number:06}");
        (Process::start(&["soak", &namespace.url, path, &name]), name)
    };
    let mut children: Vec<_> = (0..PROCESSES).map(start).collect();
    let (until, mut kills) = (Instant::now() + Duration::from_secs(seconds), 0);
    while Instant::now() < until {
        let random = RandomState::new().hash_one(kills);
        // Anywhere in what a child does, its start included.
        tokio::time::sleep(Duration::from_millis(random % 40)).await;
        let victim = &mut children[random as usize / 64 % PROCESSES];
        let ended = victim.0.child.try_wait().unwrap();
        assert!(ended.is_none(), "{} has ended by itself: {ended:?}", victim.1);
        File::create_new(dir.join("killed").join(&victim.1)).unwrap();
        kills += 1;
        std::mem::replace(victim, start(PROCESSES + kills)).0.kill().await;
    }
    File::create_new(dir.join("over")).unwrap();
    for (mut process, name) in children {
        process.says("done").await;
        let status = common::soon("end of a child", process.child.wait()).await.unwrap();
        assert!(status.success(), "{name} {status}");
    }
    let turns = fs::read_to_string(dir.join("turns")).unwrap();
    println!("{kills} kills, {} turns", turns.lines().count());
    for lock in LOCKS {
        assert!(turns.lines().any(|line| line.starts_with(lock)), "nobody has had {lock}");
        assert!(!has_semaphores(&namespace.url, lock), "the semaphores of {lock} are left");
    }
    assert!(!dir.join("violations").exists(), "{}", read(&dir.join("violations")));
    assert_eq!(namespace.residue(), [""; 0]);
    assert!(!has_group_list(&namespace.url), "the list of groups is left");
}

/// What a child does in the fire: takes locks, and looks who else is inside.
async fn soak(url: &str, dir: &Path, name: &str) {
    let coordinator = started(url, name).await;
    coordinator.join_group_create("g", &name).await.unwrap();
    let mut turn = 0_u64;
    while !dir.join("over").exists() {
        let random = RandomState::new().hash_one((name, turn));
        let lock = LOCKS[random as usize % LOCKS.len()];
        turn += 1;
        if lock == SHARED && random >> 32 & 3 != 0 {
            read_inside(&coordinator, dir, name, lock).await;
        } else {
            write_inside(&coordinator, dir, name, lock).await;
        }
    }
    coordinator.stop().await.unwrap();
    say("done");
}

async fn write_inside(coordinator: &Coordinator, dir: &Path, name: &str, lock: &str) {
    let guard = coordinator.lock(lock).unwrap().acquire().await.unwrap();
    let path = dir.join(format!("inside-{lock}"));
    let inside = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let last = read(&path);
    let (last_token, holder) = last.trim().split_once(' ').unwrap_or(("0", ""));
    is_dead(dir, name, lock, holder);
    for reader in fs::read_dir(dir.join(format!("readers-{lock}"))).unwrap() {
        is_dead(dir, name, lock, reader.unwrap().file_name().to_str().unwrap());
    }
    let token = guard.fencing_token().0;
    if token <= last_token.parse().unwrap() {
        violation(dir, &format!("{name} has {lock} with {token} after {last_token}"));
    }
    // In one piece, whenever it is killed.
    let write =
        |holder| inside.write_all_at(format!("{token:020} {holder:16}").as_bytes(), 0).unwrap();
    write(name);
    tokio::time::sleep(Duration::from_micros(200)).await;
    write("");
    leave(dir, lock, guard).await;
}

async fn read_inside(coordinator: &Coordinator, dir: &Path, name: &str, lock: &str) {
    let guard = coordinator.lock(lock).unwrap().acquire_shared().await.unwrap();
    let inside = read(&dir.join(format!("inside-{lock}")));
    is_dead(dir, name, lock, inside.trim().split_once(' ').map_or("", |(_, holder)| holder));
    let mark = dir.join(format!("readers-{lock}")).join(name);
    File::create_new(&mark).unwrap();
    tokio::time::sleep(Duration::from_millis(2)).await;
    fs::remove_file(mark).unwrap();
    leave(dir, lock, guard).await;
}

async fn leave(dir: &Path, lock: &str, guard: LockGuard) {
    let mut turns = OpenOptions::new().append(true).create(true).open(dir.join("turns")).unwrap();
    turns.write_all(format!("{lock}\n").as_bytes()).unwrap();
    guard.release().await.unwrap();
}

/// Who is inside while another has the lock, must have been killed there.
fn is_dead(dir: &Path, name: &str, lock: &str, holder: &str) {
    if !holder.is_empty() && !dir.join("killed").join(holder).exists() {
        violation(dir, &format!("{name} has {lock} with {holder}"));
    }
}

fn violation(dir: &Path, what: &str) {
    let mut file =
        OpenOptions::new().append(true).create(true).open(dir.join("violations")).unwrap();
    file.write_all(format!("{what}\n").as_bytes()).unwrap();
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
