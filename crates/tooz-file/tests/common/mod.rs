//! What the tests share.

#![allow(
    dead_code,
    clippy::panic,
    clippy::unwrap_used,
    reason = "not each test file uses all; tests may panic"
)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use tooz_core::{Builder, Coordinator, Events, Registry};

/// Longer than anything that is pushed can take, and far shorter than a minute.
pub(crate) const SOON: Duration = Duration::from_secs(5);

pub(crate) fn builder(dir: &Path, member: &str, query: &str) -> Builder {
    let registry = Registry::new().with(tooz_file::DRIVER).unwrap();
    registry.builder(&format!("file://{}{query}", dir.display()), member).unwrap()
}

pub(crate) async fn started(dir: &Path, member: &str) -> Coordinator {
    started_with(dir, member, "").await
}

pub(crate) async fn started_with(dir: &Path, member: &str, query: &str) -> Coordinator {
    let coordinator = builder(dir, member, query).build().unwrap();
    coordinator.start().await.unwrap();
    coordinator
}

/// One that looks by itself only every 20 seconds, so that what it knows sooner it was told.
pub(crate) async fn started_to_be_told(dir: &Path, member: &str) -> Coordinator {
    started_with(dir, member, "?timeout=60").await
}

/// The token that a lock's file shows.
pub(crate) fn token_in(file: &Path) -> u64 {
    std::fs::read_to_string(file).unwrap().lines().next().unwrap().parse().unwrap()
}

/// Fails when it does not come in time.
pub(crate) async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, work).await.unwrap_or_else(|_| panic!("no {what} within {SOON:?}"))
}

/// Waits for the event that `wanted` picks, and passes over others.
pub(crate) async fn event<E: std::fmt::Debug, T>(
    events: &mut Events<E>,
    what: &str,
    mut wanted: impl FnMut(&E) -> Option<T>,
) -> T {
    let mut seen = Vec::new();
    let search = async {
        while let Some(event) = events.next().await {
            if let Some(found) = wanted(&event) {
                return Some(found);
            }
            seen.push(event);
        }
        None
    };
    let found = tokio::time::timeout(SOON, search).await;
    found.ok().flatten().unwrap_or_else(|| panic!("no {what}, but {seen:?}"))
}

/// Waits until so many tickets that wait are in the queues of a directory.
pub(crate) async fn waiting(dir: &Path, number: usize) {
    let shown = async {
        // No event tells that somebody began to wait.
        loop {
            let residue = tooz_file::inspect::residue(dir).unwrap();
            let waits = |line: &&String| line.contains("waiting ticket") && !line.contains("dead");
            if residue.iter().filter(waits).count() == number {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon(&format!("{number} who wait"), shown).await;
}

/// The only file in a directory.
pub(crate) fn only_file(dir: &Path) -> PathBuf {
    let files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.into_iter().next().unwrap()
}

/// Whether a Python process could lock the file: its record locks conflict with our locks.
pub(crate) fn python_could_lock(path: &Path) -> bool {
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(File::open(path).unwrap(), FcntlArg::F_GETLK(&mut lock)).unwrap();
    i32::from(lock.l_type) == libc::F_UNLCK
}
