//! What each worker does, be it a process or a thread.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tooz_core::{Coordinator, DriverEntry, ErrorKind, Heartbeat, Partition, Registry, Result};

use super::gate::Gate;
use super::record::{Writer, now};

pub(crate) const PARTITIONS: u32 = 256;

/// How long a piece of work takes, from the look at the guard to the write.
const WORK: Duration = Duration::from_millis(10);

/// The rest between two of them.
const REST: Duration = Duration::from_millis(40);

#[derive(Clone)]
pub(crate) struct Workplace {
    pub(crate) member: String,
    pub(crate) folder: PathBuf,
    pub(crate) gate: Gate,
    pub(crate) heartbeat: Heartbeat,
}

/// Works what it comes to own until it is sent home.
pub(crate) async fn run(
    driver: DriverEntry,
    url: &str,
    workplace: Workplace,
    mut go_home: oneshot::Receiver<()>,
) -> Result<()> {
    let registry = Registry::new().with(driver)?;
    let builder = registry.builder(url, workplace.member.as_str())?;
    let coordinator = builder.heartbeat(workplace.heartbeat).build()?;
    // A server that is stalled for longer than a start may take is no reason to stay away.
    while let Err(error) = coordinator.start().await {
        if error.kind() != ErrorKind::TimedOut {
            return Err(error);
        }
    }
    if workplace.heartbeat == Heartbeat::Manual {
        tokio::spawn(beat(coordinator.clone()));
    }
    let workers = coordinator.partitioned_group("workers").join().await?;
    let mut partitions = workers.partitions(PARTITIONS);
    let workplace = Arc::new(workplace);
    let mut work = JoinSet::new();
    loop {
        tokio::select! {
            // An error is the end of a worker too: that of a killed thread.
            _ = &mut go_home => break,
            partition = partitions.owned() => {
                let partition = partition.expect("nobody stops the coordinator");
                work.spawn(work_on(partition, workplace.clone()));
            }
            Some(done) = work.join_next() => done.expect("the work can be recorded"),
        }
    }
    // As an application should: finish the work, and only then let the locks go.
    drop(partitions);
    while let Some(done) = work.join_next().await {
        done.expect("the work can be recorded");
    }
    coordinator.stop().await
}

/// A heart that stands still with the worker's thread.
async fn beat(coordinator: Coordinator) {
    loop {
        let pause = match coordinator.heartbeat().await {
            Ok(due) => due,
            Err(error) if error.kind() == ErrorKind::NotRunning => return,
            Err(_) => REST,
        };
        tokio::time::sleep(pause).await;
    }
}

async fn work_on(partition: Partition, at: Arc<Workplace>) {
    let token = partition.fencing_token().0;
    let folder: &Path = &at.folder;
    let mut record = Writer::open(folder, partition.number(), &at.member, token).unwrap();
    while work_once(&partition, &mut record, &at.gate).await {
        tokio::select! {
            _ = partition.revoked() => break,
            () = tokio::time::sleep(REST) => {}
        }
    }
    // What cannot wait: it is ours as long as we hold it, whomever the ring names.
    work_once(&partition, &mut record, &at.gate).await;
}

/// Whether the partition was ours at the beginning.
async fn work_once(partition: &Partition, record: &mut Writer, gate: &Gate) -> bool {
    let checked = now();
    if partition.check().is_err() {
        return false;
    }
    tokio::time::sleep(WORK).await;
    if !gate.pass() {
        return false;
    }
    record.write(checked).unwrap();
    true
}
