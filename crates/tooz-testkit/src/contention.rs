//! Contention that is judged by a record of its own, not by the library's word.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tooz_core::{Coordinator, Error, ErrorKind, LockGuard, LockSetGuard, Permit, Result};

use crate::worker::{Contention, Wanted};

/// There while somebody holds the place. Made so that it fails if it is there already.
const HELD: &str = "held";
/// The tokens of the place in the order of the grants.
const TOKENS: &str = "tokens";

/// How much longer who had no turn yet goes on, where the backend is slow: all are to have one.
const LAST_TURN: Duration = Duration::from_secs(10);

/// Lets the tasks of one coordinator contend until the time is over. How often they had it.
pub(crate) async fn contend(coordinator: &Coordinator, contention: &Contention) -> Result<u64> {
    let end = Instant::now() + contention.time;
    let folder: Arc<Path> = contention.folder.clone().into();
    let mut tasks = JoinSet::new();
    for _ in 0..contention.tasks {
        let (coordinator, wanted) = (coordinator.clone(), contention.wanted.clone());
        tasks.spawn(contender(coordinator, wanted, folder.clone(), end));
    }
    let mut granted = 0;
    while let Some(task) = tasks.join_next().await {
        granted += task.map_err(|e| violation(format!("a contender panicked: {e}")))??;
    }
    Ok(granted)
}

async fn contender(
    coordinator: Coordinator,
    wanted: Wanted,
    folder: Arc<Path>,
    end: Instant,
) -> Result<u64> {
    let mut granted = 0;
    loop {
        let end = if granted == 0 { end + LAST_TURN } else { end };
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(granted);
        }
        let Some(had) = Had::acquire(&coordinator, &wanted, left).await? else {
            return Ok(granted);
        };
        granted += 1;
        let places = had.places(&wanted)?;
        for (place, token) in &places {
            enter(&folder, place, *token)?;
        }
        // Others get the chance to come in meanwhile.
        tokio::task::yield_now().await;
        for (place, _) in &places {
            let held = folder.join(format!("{HELD}-{place}"));
            std::fs::remove_file(held).map_err(|e| violation(e.to_string()))?;
        }
        // A lock was lost that nobody took.
        had.release().await.map_err(|error| violation(error.to_string()))?;
    }
}

/// What was wanted, while it is had.
enum Had {
    Lock(LockGuard),
    Permit(Permit),
    All(LockSetGuard),
}

impl Had {
    async fn acquire(
        coordinator: &Coordinator,
        wanted: &Wanted,
        time: Duration,
    ) -> Result<Option<Self>> {
        Ok(match wanted {
            Wanted::Lock(name) => {
                coordinator.lock(name)?.try_acquire_for(time).await?.map(Self::Lock)
            }
            Wanted::Permit(name, permits) => {
                let semaphore = coordinator.semaphore(name, *permits)?;
                semaphore.try_acquire_for(time).await?.map(Self::Permit)
            }
            Wanted::All(names) => {
                coordinator.lock_all(names)?.try_acquire_for(time).await?.map(Self::All)
            }
        })
    }

    /// The places that nobody else may be in meanwhile, with their tokens.
    fn places(&self, wanted: &Wanted) -> Result<Vec<(String, u64)>> {
        Ok(match self {
            Self::Lock(guard) => vec![("lock".into(), guard.fencing_token().0)],
            Self::Permit(permit) => {
                let slot = permit.slot();
                if matches!(wanted, Wanted::Permit(_, permits) if slot >= *permits) {
                    return Err(violation(format!("{slot} is none of the slots of {wanted:?}")));
                }
                vec![(slot.to_string(), permit.fencing_token().0)]
            }
            Self::All(guard) => {
                guard.fencing_tokens().map(|(name, token)| (name.to_string(), token.0)).collect()
            }
        })
    }

    async fn release(self) -> Result<()> {
        match self {
            Self::Lock(guard) => guard.release().await,
            Self::Permit(permit) => permit.release().await,
            Self::All(guard) => guard.release().await,
        }
    }
}

fn enter(folder: &Path, place: &str, token: u64) -> Result<()> {
    File::create_new(folder.join(format!("{HELD}-{place}")))
        .map_err(|e| violation(format!("{place}, token {token}: somebody else is inside: {e}")))?;
    let mut tokens = OpenOptions::new()
        .append(true)
        .create(true)
        .open(folder.join(format!("{TOKENS}-{place}")))
        .map_err(|e| violation(e.to_string()))?;
    writeln!(tokens, "{token}").map_err(|e| violation(e.to_string()))
}

/// How many grants were recorded, of all places. The tokens of each must have risen each time.
pub(crate) fn grants_in_order(folder: &Path) -> Result<u64> {
    let mut grants = 0;
    for file in std::fs::read_dir(folder).map_err(|e| violation(e.to_string()))? {
        let file = file.map_err(|e| violation(e.to_string()))?;
        let place = file.file_name();
        if !place.to_string_lossy().starts_with(TOKENS) {
            continue;
        }
        let tokens = std::fs::read_to_string(file.path()).map_err(|e| violation(e.to_string()))?;
        let tokens: Vec<u64> = tokens.lines().map(|line| line.parse().expect("a number")).collect();
        if let Some(pair) = tokens.windows(2).find(|pair| pair[0] >= pair[1]) {
            return Err(violation(format!("{place:?}: {} came after {}", pair[1], pair[0])));
        }
        grants += tokens.len() as u64;
    }
    Ok(grants)
}

fn violation(what: String) -> Error {
    Error::new(ErrorKind::Internal, what)
}
