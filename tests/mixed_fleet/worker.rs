//! A process of ours that does what it is told: what `peer.py` is in Rust.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};
use tooz_core::{
    Coordinator, DriverEntry, ErrorKind, Events, GroupEvent, Leadership, LockGuard, Mode,
    Partitioner, Registry, Wait,
};

use super::protocol::Failure;
use crate::random::Random;

/// What a worker can be told.
#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Request {
    Start { url: String, member: String },
    Stop,
    Lock { name: String, wait: bool, shared: bool },
    Unlock { name: String },
    Contend { name: String, folder: PathBuf, seconds: f64, hold: f64, rest: f64 },
    CreateGroup { group: String },
    DeleteGroup { group: String },
    Groups,
    Join { group: String, capabilities: String },
    JoinPlain { group: String },
    Leave { group: String },
    Update { group: String, capabilities: String },
    Members { group: String },
    Capabilities { group: String, member: String },
    Watch { group: String },
    Event { group: String, kind: String, member: String, within: f64 },
    Campaign { group: String, within: f64 },
    StandDown { group: String },
    Leader { group: String },
    Partition { group: String, weight: u32 },
    Place { group: String, members: usize, count: usize, within: f64 },
}

/// Makes a worker spell the names of all locks and groups in another way than it was told: what a
/// driver with a wrong key would do.
pub(crate) const WRONG_KEYS: &str = "TOOZ_MIXED_WRONG_KEYS";

/// Serves until the input ends.
pub(crate) fn serve(driver: DriverEntry) -> ExitCode {
    // The end of the input reaches no stopped process; this does.
    prctl::set_pdeathsig(Signal::SIGKILL).expect("Linux has it");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let wrong = std::env::var_os(WRONG_KEYS).is_some();
    let mut worker = Worker::new(driver);
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let request = serde_json::from_str(&line)
            .map(|request| if wrong { misspelt(request) } else { request });
        let answer = match request.and_then(serde_json::from_value) {
            Ok(request) => runtime.block_on(worker.answer(request)),
            Err(error) => Err(Failure::new("BadRequest", error)),
        };
        let answer = serde_json::to_string(&answer).expect("plain data");
        // An error means that the parent is gone, and then the input ends.
        let _ = writeln!(std::io::stdout(), "{answer}");
    }
    ExitCode::SUCCESS
}

struct Worker {
    driver: DriverEntry,
    coordinator: Option<Coordinator>,
    guards: HashMap<String, LockGuard>,
    terms: HashMap<String, Leadership>,
    watches: HashMap<String, Watch>,
    partitioners: HashMap<String, Partitioner>,
}

/// A watch on a group, with what it has seen.
struct Watch {
    events: Events<GroupEvent>,
    seen: Vec<(&'static str, String)>,
}

type Answer = Result<Value, Failure>;

impl Worker {
    fn new(driver: DriverEntry) -> Self {
        Self {
            driver,
            coordinator: None,
            guards: HashMap::new(),
            terms: HashMap::new(),
            watches: HashMap::new(),
            partitioners: HashMap::new(),
        }
    }

    fn coordinator(&self) -> Result<Coordinator, Failure> {
        self.coordinator.clone().ok_or_else(|| Failure::new("NotRunning", "it was not started"))
    }

    async fn answer(&mut self, request: Request) -> Answer {
        use Request::*;
        if let Start { url, member } = &request {
            let registry = Registry::new().with(self.driver)?;
            let coordinator = registry.builder(url, member.as_str())?.build()?;
            coordinator.start().await?;
            self.coordinator = Some(coordinator);
            return done();
        }
        let coordinator = self.coordinator()?;
        match request {
            Start { .. } => done(),
            Stop => value(coordinator.stop().await?),
            Lock { name, wait, shared } => {
                let mode = if shared { Mode::Shared } else { Mode::Exclusive };
                let wait = if wait { Wait::Forever } else { Wait::Try };
                let guard = coordinator.lock(&name)?.acquire_with(mode, wait).await?;
                let taken = guard.is_some();
                self.guards.extend(guard.map(|guard| (name, guard)));
                value(taken)
            }
            Unlock { name } => {
                let guard = known(self.guards.remove(&name))?;
                value(was_held(guard.release().await)?)
            }
            Contend { name, folder, seconds, hold, rest } => {
                value(contend(&coordinator, &name, &folder, seconds, hold, rest).await?)
            }
            CreateGroup { group } => value(coordinator.create_group(group).await?),
            DeleteGroup { group } => value(coordinator.delete_group(group).await?),
            Groups => {
                let groups = coordinator.groups().await?;
                value(groups.iter().map(ToString::to_string).collect::<Vec<_>>())
            }
            Join { group, capabilities } => {
                value(coordinator.join_group(group, &unpacked(&capabilities)?).await?)
            }
            JoinPlain { group } => value(coordinator.join_group(group, &()).await?),
            Leave { group } => value(coordinator.leave_group(group).await?),
            Update { group, capabilities } => {
                value(coordinator.update_capabilities(group, &unpacked(&capabilities)?).await?)
            }
            Members { group } => {
                let members = coordinator.members(group).await?;
                value(members.iter().map(ToString::to_string).collect::<Vec<_>>())
            }
            Capabilities { group, member } => {
                let member = coordinator.member(group, member).await?;
                value(hex(member.capabilities.as_msgpack()))
            }
            Watch { group } => {
                let mut events = coordinator.watch_group(&group).await?;
                // A member that joins before the snapshot is in it, and joins no more.
                while !matches!(events.next().await, Some(GroupEvent::Snapshot(_)) | None) {}
                self.watches.insert(group, self::Watch { events, seen: Vec::new() });
                done()
            }
            Event { group, kind, member, within } => {
                let watch = known(self.watches.get_mut(&group))?;
                let came = watch.until(&kind, &member);
                value(timeout(Duration::from_secs_f64(within), came).await.is_ok())
            }
            Campaign { group, within } => {
                let wait = Wait::For(Duration::from_secs_f64(within));
                let term = coordinator.campaign_with(&group, wait).await?;
                let leads = term.is_some();
                self.terms.extend(term.map(|term| (group, term)));
                value(leads)
            }
            StandDown { group } => {
                let term = known(self.terms.remove(&group))?;
                value(was_held(term.resign().await)?)
            }
            Leader { group } => {
                value(coordinator.leader(group).await?.map(|leader| leader.to_string()))
            }
            Partition { group, weight } => {
                let joined = coordinator.partitioned_group(&group).weight(weight).join().await?;
                self.partitioners.insert(group, joined);
                done()
            }
            Place { group, members, count, within } => {
                let partitioner = known(self.partitioners.get(&group))?;
                let mut changes = partitioner.changes();
                let complete = async {
                    while partitioner.ring().node_count() != members {
                        changes.next().await;
                    }
                };
                if timeout(Duration::from_secs_f64(within), complete).await.is_err() {
                    let found = partitioner.ring().node_count();
                    return Err(Failure::new("Ring", format!("the ring has {found} members")));
                }
                let owners = |key| partitioner.members_for_object(format!("key-{key}"), 1);
                let text = |owners: Vec<_>| owners.iter().map(ToString::to_string).collect();
                let places: Vec<Vec<String>> = (0..count).map(owners).map(text).collect();
                value(places)
            }
        }
    }
}

impl Watch {
    async fn until(&mut self, kind: &str, member: &str) {
        while !self.seen.iter().any(|(k, m)| *k == kind && m == member) {
            match self.events.next().await {
                Some(GroupEvent::Joined(member)) => {
                    self.seen.push(("joined", member.id.to_string()));
                }
                Some(GroupEvent::Left(member)) => self.seen.push(("left", member.id.to_string())),
                Some(_) => {}
                // The end of the watch: what is waited for never comes.
                None => std::future::pending().await,
            }
        }
    }
}

/// Takes a lock again and again, and says how often; fails if somebody else is inside.
async fn contend(
    coordinator: &Coordinator,
    name: &str,
    folder: &Path,
    seconds: f64,
    hold: f64,
    rest: f64,
) -> Result<u64, Failure> {
    let lock = coordinator.lock(name)?;
    let mut random = Random::seeded(std::process::id().into());
    let inside = folder.join("inside");
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let (mut turns, mut last) = (0, 0);
    while Instant::now() < end {
        let guard = lock.acquire().await?;
        File::create_new(&inside)
            .map_err(|_| Failure::new("Violation", "somebody else is inside"))?;
        let token = guard.fencing_token().0;
        if token <= last {
            return Err(Failure::new("Violation", format!("the token {token} came after {last}")));
        }
        last = token;
        sleep(random.between(Duration::ZERO, Duration::from_secs_f64(hold))).await;
        std::fs::remove_file(&inside).map_err(|e| Failure::new("Violation", e))?;
        if !was_held(guard.release().await)? {
            return Err(Failure::new("Violation", "a lock was lost that nobody took"));
        }
        turns += 1;
        sleep(random.between(Duration::ZERO, Duration::from_secs_f64(rest))).await;
    }
    Ok(turns)
}

fn misspelt(mut request: Value) -> Value {
    for field in ["name", "group"] {
        if let Some(name) = request[field].as_str() {
            request[field] = format!("{name}x").into();
        }
    }
    request
}

/// Whether what was released was still ours.
fn was_held(released: tooz_core::Result<()>) -> tooz_core::Result<bool> {
    match released {
        Err(error) if error.kind() == ErrorKind::LockLost => Ok(false),
        released => released.map(|()| true),
    }
}

fn known<T>(what: Option<T>) -> Result<T, Failure> {
    what.ok_or_else(|| Failure::new("BadRequest", "there is none of that name"))
}

fn done() -> Answer {
    Ok(Value::Null)
}

fn value(value: impl Serialize) -> Answer {
    serde_json::to_value(value).map_err(|e| Failure::new("BadAnswer", e))
}

/// The value whose msgpack is written in hexadecimal digits.
fn unpacked(text: &str) -> Result<rmpv::Value, Failure> {
    let digits = text.as_bytes().chunks(2);
    let byte = |pair| {
        let pair = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(pair, 16).ok()
    };
    let bytes: Option<Vec<u8>> = digits.map(byte).collect();
    let bytes = bytes.ok_or_else(|| Failure::new("BadRequest", "not hexadecimal"))?;
    rmpv::decode::read_value(&mut &bytes[..]).map_err(|e| Failure::new("BadRequest", e))
}

/// Bytes in hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
