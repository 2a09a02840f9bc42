//! One of the two writers, a process of its own.
//!
//! It takes the lock, reads the account, and waits until it is told to write: that is where it is
//! stopped. Then it writes at once, without a look at the lock, as one does that was stopped between
//! the look and the write. What it does is a line on standard output each, as JSON.

use std::io::{BufRead as _, Write as _};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::account::Account;

/// What a writer needs to know, in the environment: URLs may have passwords.
pub(super) const VARIABLE: &str = "TOOZ_DEMO_WRITER";

/// What it needs to know.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Task {
    pub(super) url: String,
    pub(super) member: String,
    pub(super) lock: String,
    pub(super) account: Account,
    /// What it deposits.
    pub(super) amount: i64,
    /// Whether it shows its fence.
    pub(super) fenced: bool,
}

/// What it tells.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// It has the lock and has read the account.
    Read { token: u64, balance: i64 },
    /// It was told that this balance is written.
    Wrote { balance: i64 },
    /// It was told that it is stale, and begins again.
    Refused { balance: i64, why: String },
    /// It has released the lock, or learns that it was lost.
    Done { lost: Option<String> },
}

fn report(report: &Report) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(report)?)?;
    Ok(out.flush()?)
}

pub(crate) async fn write() -> Result<()> {
    // Also while it is stopped, it ends with the process that started it.
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    let task = std::env::var(VARIABLE).with_context(|| format!("{VARIABLE} is not set"))?;
    let task: Task = serde_json::from_str(&task)?;
    let coordinator = tooz::connect(&task.url, task.member.as_str()).await?;
    let lock = coordinator.lock(task.lock.as_str())?;
    loop {
        let guard = lock.acquire().await?;
        let fence = task.fenced.then(|| guard.fence());
        let balance = match task.account.read(fence).await? {
            Ok(balance) => balance,
            Err(_) => continue,
        };
        report(&Report::Read { token: guard.fencing_token().0, balance })?;
        std::io::stdin().lock().read_line(&mut String::new())?;

        let balance = balance + task.amount;
        match task.account.write(balance, fence).await? {
            Ok(()) => report(&Report::Wrote { balance })?,
            Err(stale) => {
                report(&Report::Refused { balance, why: stale.to_string() })?;
                continue;
            }
        }
        let lost = guard.release().await.err().map(|error| error.to_string());
        report(&Report::Done { lost })?;
        break;
    }
    // What it still has ends with its session.
    let _ = coordinator.stop().await;
    Ok(())
}
