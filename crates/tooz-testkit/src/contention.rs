//! Contention that is judged by a record of its own, not by the library's word.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tooz_core::{Coordinator, Error, ErrorKind, Lock, Result};

use crate::worker::Contention;

/// There while somebody holds the lock. Made so that it fails if it is there already.
const HELD: &str = "held";
/// The tokens in the order of the grants.
const TOKENS: &str = "tokens";

/// How much longer who had no turn yet goes on, where the backend is slow: all are to have one.
const LAST_TURN: Duration = Duration::from_secs(10);

/// Lets the tasks of one coordinator contend until the time is over. How often they had it.
pub(crate) async fn contend(coordinator: &Coordinator, contention: &Contention) -> Result<u64> {
    let end = Instant::now() + contention.time;
    let folder: Arc<Path> = contention.folder.clone().into();
    let mut tasks = JoinSet::new();
    for _ in 0..contention.tasks {
        let lock = coordinator.lock(&contention.name)?;
        tasks.spawn(contender(lock, folder.clone(), end));
    }
    let mut granted = 0;
    while let Some(task) = tasks.join_next().await {
        granted += task.map_err(|e| violation(format!("a contender panicked: {e}")))??;
    }
    Ok(granted)
}

async fn contender(lock: Lock, folder: Arc<Path>, end: Instant) -> Result<u64> {
    let mut granted = 0;
    loop {
        let end = if granted == 0 { end + LAST_TURN } else { end };
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(granted);
        }
        let Some(guard) = lock.try_acquire_for(left).await? else { return Ok(granted) };
        granted += 1;
        enter(&folder, guard.fencing_token().0)?;
        // Others get the chance to come in meanwhile.
        tokio::task::yield_now().await;
        std::fs::remove_file(folder.join(HELD)).map_err(|e| violation(e.to_string()))?;
        // A lock was lost that nobody took.
        guard.release().await.map_err(|error| violation(error.to_string()))?;
    }
}

fn enter(folder: &Path, token: u64) -> Result<()> {
    File::create_new(folder.join(HELD))
        .map_err(|e| violation(format!("token {token}: somebody else is inside: {e}")))?;
    let mut tokens = OpenOptions::new()
        .append(true)
        .create(true)
        .open(folder.join(TOKENS))
        .map_err(|e| violation(e.to_string()))?;
    writeln!(tokens, "{token}").map_err(|e| violation(e.to_string()))
}

/// How many grants were recorded, whose tokens must have risen each time.
pub(crate) fn grants_in_order(folder: &Path) -> Result<u64> {
    let tokens = std::fs::read_to_string(folder.join(TOKENS)).unwrap_or_default();
    let tokens: Vec<u64> = tokens.lines().map(|line| line.parse().expect("a number")).collect();
    if let Some(pair) = tokens.windows(2).find(|pair| pair[0] >= pair[1]) {
        return Err(violation(format!("the token {} came after {}", pair[1], pair[0])));
    }
    Ok(tokens.len() as u64)
}

fn violation(what: String) -> Error {
    Error::new(ErrorKind::Internal, what)
}
