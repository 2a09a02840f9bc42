//! One of the demonstration's processes.
//!
//! It joins the group, shares the jobs, campaigns, and takes turns with the lock. It reports
//! all of this to the process that started it, one JSON object per line. When that process writes
//! `stop`, it releases everything and ends; when that process is gone, it ends at once.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tooz::{Coordinator, MemberId, Partitioner};

use super::jobs::jobs_of;
use crate::connect::{Target, bytes};
use crate::output;

/// How long a worker holds the lock, and how long it then lets others take it.
const TURN: Duration = Duration::from_millis(100);
const BREAK: Duration = Duration::from_millis(400);

#[derive(Debug, clap::Args)]
pub(crate) struct WorkerArgs {
    group: OsString,
    lock: OsString,
    /// The file in which each turn with the lock is recorded.
    record: PathBuf,
}

impl WorkerArgs {
    /// The arguments from which these are read.
    pub(super) fn arguments(group: &str, lock: &str, record: PathBuf) -> [OsString; 4] {
        ["demo-worker".into(), group.into(), lock.into(), record.into()]
    }
}

/// What a worker reports.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "lowercase")]
pub(super) enum Report {
    Joined,
    /// It sees this many members, and these jobs are its own.
    Jobs {
        members: usize,
        jobs: Vec<usize>,
    },
    Leads {
        token: u64,
    },
    /// It has the lock.
    Enters {
        token: u64,
    },
    /// It is about to release the lock.
    Leaves,
    Failed {
        error: String,
    },
}

fn report(report: &Report) -> Result<()> {
    output::Output { json: true }.value(&serde_json::to_value(report)?)?;
    Ok(())
}

pub(crate) async fn work(target: &Target, args: WorkerArgs) -> Result<u8> {
    let stop = listen_to_parent()?;
    let result = target.with(async |coordinator| live(coordinator, &args, stop).await).await;
    if let Err(error) = result {
        report(&Report::Failed { error: format!("{error:#}") })?;
        return Ok(1);
    }
    Ok(0)
}

async fn live(coordinator: &Coordinator, args: &WorkerArgs, stop: Stop) -> Result<()> {
    let group = bytes(&args.group);
    let workers = coordinator.partitioned_group(group).join().await?;
    report(&Report::Joined)?;
    tokio::try_join!(
        share_jobs(&workers, coordinator.member_id(), stop.clone()),
        lead(coordinator, group, stop.clone()),
        take_turns(coordinator, args, stop),
    )?;
    coordinator.leave_group(group).await?;
    Ok(())
}

/// Follows the ring of the group, and takes its share of the jobs.
async fn share_jobs(workers: &Partitioner, me: &MemberId, mut stop: Stop) -> Result<()> {
    let mut rings = workers.changes();
    loop {
        let ring = tokio::select! {
            ring = rings.next() => ring.context("the events of the group ended")?,
            () = stop.wanted() => return Ok(()),
        };
        report(&Report::Jobs { members: ring.node_count(), jobs: jobs_of(me, &ring) })?;
    }
}

/// Leads, once it is elected.
async fn lead(coordinator: &Coordinator, group: &[u8], mut stop: Stop) -> Result<()> {
    let term = tokio::select! {
        term = coordinator.campaign(group) => term?,
        () = stop.wanted() => return Ok(()),
    };
    report(&Report::Leads { token: term.fencing_token().0 })?;
    tokio::select! {
        loss = term.lost() => bail!("the term was lost: {loss}"),
        () = stop.wanted() => {}
    }
    term.resign().await?;
    Ok(())
}

/// Holds the lock again and again, and records each turn.
async fn take_turns(coordinator: &Coordinator, args: &WorkerArgs, mut stop: Stop) -> Result<()> {
    let lock = coordinator.lock(bytes(&args.lock))?;
    let me = coordinator.member_id();
    let mut record = File::options().append(true).open(&args.record)?;
    loop {
        let guard = tokio::select! {
            guard = lock.acquire() => guard?,
            () = stop.wanted() => return Ok(()),
        };
        let token = guard.fencing_token();
        // One write each: in append mode, they are in the file in the order in which they were made.
        record.write_all(format!("enter {me} {token}\n").as_bytes())?;
        report(&Report::Enters { token: token.0 })?;
        guard.run(tokio::time::sleep(TURN)).await?;
        record.write_all(format!("leave {me} {token}\n").as_bytes())?;
        report(&Report::Leaves)?;
        guard.release().await?;
        tokio::select! {
            () = tokio::time::sleep(BREAK) => {}
            () = stop.wanted() => return Ok(()),
        }
    }
}

/// The parent's request that this worker ends.
#[derive(Clone)]
struct Stop(watch::Receiver<bool>);

impl Stop {
    async fn wanted(&mut self) {
        // An error means that the listener is gone, and with it the parent.
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}

/// Listens on standard input for `stop`, and ends this process at once when the parent is gone.
fn listen_to_parent() -> Result<Stop> {
    let (sender, receiver) = watch::channel(false);
    let listen = move || {
        for line in io::stdin().lock().lines() {
            match line.as_deref() {
                Ok("stop") => drop(sender.send_replace(true)),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        std::process::exit(1);
    };
    std::thread::Builder::new().name("parent".into()).spawn(listen)?;
    Ok(Stop(receiver))
}
