//! Many who contend, as [`contention`] has it: in one process, and in several.

use std::time::Duration;

use tokio::task::JoinSet;
use tooz_core::Result;

use crate::contention;
use crate::context::Context;
use crate::worker::Contention;

/// So many coordinators of this process, each with the contention of its number. How often each had
/// what it wanted.
pub(super) async fn coordinators(
    ctx: &Context,
    count: usize,
    bound: Duration,
    contention: impl Fn(usize) -> Contention,
) -> Result<Vec<u64>> {
    let mut contending = JoinSet::new();
    for n in 0..count {
        let coordinator = ctx.start(format!("contender-{n}")).await?;
        let contention = contention(n);
        contending.spawn(async move { contention::contend(&coordinator, &contention).await });
    }
    let mut granted = Vec::new();
    while let Some(had) = ctx.within(bound, "contenders", contending.join_next()).await {
        granted.push(had.expect("no panic")?);
    }
    Ok(granted)
}

/// The same, of so many processes.
pub(super) async fn processes(
    ctx: &Context,
    count: usize,
    bound: Duration,
    contention: impl Fn(usize) -> Contention,
) -> Result<Vec<u64>> {
    let mut workers = Vec::new();
    for n in 0..count {
        workers.push((ctx.worker(&format!("contender-{n}")).await, contention(n)));
    }
    let contending = workers.into_iter().map(|(worker, contention)| {
        tokio::spawn(async move { (worker.contend(contention).await, worker) })
    });
    let mut granted = Vec::new();
    for process in contending.collect::<Vec<_>>() {
        let (had, worker) = ctx.within(bound, "contenders", process).await.expect("no panic");
        granted.push(had?);
        worker.stop_coordinator().await?;
    }
    Ok(granted)
}
