//! The worker's side.

use std::collections::{BTreeSet, HashMap};
use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tooz_core::{
    Coordinator, DriverEntry, Error, ErrorKind, Leadership, LockGuard, Mode, Ownership, Permit,
    Registry, Result, Wait,
};

use super::protocol::{Call, Failure, Pause, Reply, Request};
use crate::contention;

/// Makes the test program a worker.
pub(super) const VARIABLE: &str = "TOOZ_TESTKIT_WORKER";

pub(crate) fn is_worker() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// Serves requests until the input ends.
pub(crate) fn serve(drivers: &[DriverEntry]) -> ExitCode {
    // The end of the input reaches no stopped process; this does. It may not be had everywhere.
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
    let registry = registry(drivers).expect("the drivers fit together");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let state = Arc::new(State { registry, coordinator: OnceLock::new(), kept: Mutex::default() });
    runtime.block_on(async {
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let Request { id, call } = serde_json::from_str(&line).expect("a request");
            let state = state.clone();
            tokio::spawn(async move {
                let result = state.answer(call).await.map_err(Failure::from);
                let mut line = serde_json::to_vec(&Reply { id, result }).expect("plain data");
                line.push(b'\n');
                // An error means that the parent is gone, and then the input ends.
                let _ = std::io::stdout().lock().write_all(&line);
                let _ = std::io::stdout().lock().flush();
            });
        }
    });
    // Dies like a killed one: nobody is left who would care for a goodbye.
    std::process::exit(0)
}

/// Setups may share a driver.
fn registry(drivers: &[DriverEntry]) -> Result<Registry> {
    let mut seen = BTreeSet::new();
    let distinct = drivers.iter().filter(|driver| seen.insert(driver.name));
    distinct.copied().try_fold(Registry::new(), Registry::with)
}

struct State {
    registry: Registry,
    coordinator: OnceLock<Coordinator>,
    kept: Mutex<HashMap<String, Arc<Held>>>,
}

enum Held {
    Lock(LockGuard),
    Permit(Permit),
    Term(Leadership),
}

impl Held {
    fn ownership(&self) -> &Ownership {
        match self {
            Self::Lock(guard) => guard,
            Self::Permit(permit) => permit,
            Self::Term(term) => term,
        }
    }

    async fn release(self) -> Result<()> {
        match self {
            Self::Lock(guard) => guard.release().await,
            Self::Permit(permit) => permit.release().await,
            Self::Term(term) => term.resign().await,
        }
    }
}

impl State {
    async fn answer(&self, call: Call) -> Result<Value> {
        match call {
            Call::Start { url, member } => {
                let coordinator = self.registry.builder(&url, member)?.build()?;
                coordinator.start().await?;
                let first = self.coordinator.set(coordinator).is_ok();
                assert!(first, "a worker has one coordinator");
                done()
            }
            Call::Stop => value(self.coordinator().stop().await?),
            Call::Heartbeat => {
                self.coordinator().heartbeat().await?;
                done()
            }
            Call::Acquire { name, shared, time } => {
                let mode = if shared { Mode::Shared } else { Mode::Exclusive };
                let lock = self.coordinator().lock(&name)?;
                let guard = lock.acquire_with(mode, wait(time)).await?;
                self.keep(name, guard.map(Held::Lock))
            }
            Call::Permit { name, permits, time } => {
                let semaphore = self.coordinator().semaphore(&name, permits)?;
                let permit = semaphore.acquire_with(wait(time)).await?;
                let slot = permit.as_ref().map(Permit::slot);
                self.keep(name, permit.map(Held::Permit))?;
                value(slot)
            }
            Call::Campaign { group, time } => {
                let term = self.coordinator().campaign_with(&group, wait(time)).await?;
                self.keep(group, term.map(Held::Term))
            }
            Call::Release { name } => {
                let held = self.kept().remove(&name).expect("it is kept");
                let held = Arc::into_inner(held).expect("nothing else uses it");
                value(match held.release().await {
                    Err(error) if error.kind() == ErrorKind::LockLost => false,
                    released => released.map(|()| true)?,
                })
            }
            Call::Check { name } => value(self.held(&name).ownership().check()?),
            Call::Verify { name } => value(self.held(&name).ownership().verify().await?),
            Call::WatchPause { name } => value(watch_pause(&self.held(&name)).await),
            Call::Join { group, capabilities } => {
                value(self.coordinator().join_group_create(group, &capabilities).await?)
            }
            Call::Leave { group } => value(self.coordinator().leave_group(group).await?),
            Call::Members { group } => {
                let members = self.coordinator().members(group).await?;
                value(members.iter().map(ToString::to_string).collect::<Vec<_>>())
            }
            Call::Contend(contention) => {
                value(contention::contend(self.coordinator(), &contention).await?)
            }
        }
    }

    fn coordinator(&self) -> &Coordinator {
        self.coordinator.get().expect("it was started")
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<String, Arc<Held>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self, name: &str) -> Arc<Held> {
        self.kept().get(name).expect("it is kept").clone()
    }

    fn keep(&self, name: String, held: Option<Held>) -> Result<Value> {
        let token = held.as_ref().map(|held| held.ownership().fencing_token().0);
        if let Some(held) = held {
            let before = self.kept().insert(name, Arc::new(held));
            assert!(before.is_none(), "one guard of a name at a time");
        }
        value(token)
    }
}

/// Watches the guard until the process was stopped and continued.
async fn watch_pause(held: &Arc<Held>) -> Pause {
    let watch = Watch::start(held.clone());
    // Before the pause, so that nothing but the loss has to happen after it.
    let lost = async {
        held.ownership().lost().await;
        Instant::now()
    };
    let mut lost = std::pin::pin!(lost);
    let mut at = None;
    while !watch.is_over() {
        tokio::select! {
            moment = &mut lost, if at.is_none() => at = Some(moment),
            () = tokio::time::sleep(Duration::from_millis(1)) => {}
        }
    }
    let (length, over, check_failed) = watch.end();
    if at.is_none() {
        at = tokio::time::timeout(Duration::from_secs(1), lost).await.ok();
    }
    Pause { length, check_failed, lost_after: at.map(|at| at.saturating_duration_since(over)) }
}

/// A thread that checks a guard all the time, and stops at the first check after a pause.
struct Watch {
    over: Arc<AtomicBool>,
    thread: JoinHandle<(Duration, Instant, bool)>,
}

/// No machine is so busy that a thread does not run for that long.
const PAUSE: Duration = Duration::from_millis(500);

impl Watch {
    fn start(held: Arc<Held>) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let ended = over.clone();
        let thread = std::thread::spawn(move || {
            let mut last = Instant::now();
            let mut failed_before = false;
            loop {
                std::thread::sleep(Duration::from_millis(1));
                let now = Instant::now();
                let failed = held.ownership().check().is_err();
                if now - last > PAUSE {
                    ended.store(true, Relaxed);
                    return (now - last, now, failed);
                }
                // The process may have been stopped just between `now` and the check.
                assert!(!failed_before, "lost without a pause");
                failed_before = failed;
                last = now;
            }
        });
        Self { over, thread }
    }

    fn is_over(&self) -> bool {
        self.over.load(Relaxed) || self.thread.is_finished()
    }

    fn end(self) -> (Duration, Instant, bool) {
        self.thread.join().expect("the guard is not lost before the pause")
    }
}

fn wait(time: Option<Duration>) -> Wait {
    match time {
        None => Wait::Forever,
        Some(Duration::ZERO) => Wait::Try,
        Some(time) => Wait::For(time),
    }
}

fn done() -> Result<Value> {
    Ok(Value::Null)
}

fn value(value: impl Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|e| Error::invalid("no plain data").caused_by(e))
}
