//! Workers that are threads of this process, for the driver that knows no other.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use tokio::sync::oneshot;
use tooz_core::{DriverEntry, Heartbeat, MemberId};
use tooz_memory::World;

use super::fire::Fleet;
use super::gate::Gate;
use super::worker::{self, Workplace};

pub(crate) struct Threads {
    driver: DriverEntry,
    url: String,
    world: World,
    folder: PathBuf,
    /// Sent home or killed, and not gone yet.
    ending: Vec<Thread>,
}

pub(crate) struct Thread {
    gate: Gate,
    /// Sending, or dropping, ends it.
    send_home: Option<oneshot::Sender<()>>,
    handle: JoinHandle<tooz_core::Result<()>>,
}

impl Threads {
    pub(crate) fn new(driver: DriverEntry, url: &str, folder: &Path) -> Self {
        let name = url.trim_start_matches("memory://").split('?').next().unwrap();
        let (world, folder) = (World::named(name), folder.to_owned());
        Self { driver, url: url.to_owned(), world, folder, ending: Vec::new() }
    }
}

impl Fleet for Threads {
    type Worker = Thread;
    const CAN_STALL: bool = true;

    fn start(&mut self, member: &str) -> Thread {
        let (send_home, go_home) = oneshot::channel();
        let gate = Gate::default();
        let workplace = Workplace {
            member: member.to_owned(),
            folder: self.folder.clone(),
            gate: gate.clone(),
            heartbeat: Heartbeat::Manual,
        };
        let (driver, url) = (self.driver, self.url.clone());
        let handle = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(worker::run(driver, &url, workplace, go_home))
        });
        Thread { gate, send_home: Some(send_home), handle }
    }

    /// It writes nothing more, its session ends as if by silence, and what is left of it goes.
    fn kill(&mut self, member: &str, mut worker: Thread) {
        worker.gate.kill();
        self.world.expire_session(&MemberId::from(member));
        drop(worker.send_home.take());
        self.ending.push(worker);
    }

    fn send_home(&mut self, mut worker: Thread) {
        drop(worker.send_home.take());
        self.ending.push(worker);
    }

    /// The worker's thread stands still just before a write, and its heart with it.
    fn pause(&mut self, worker: &Thread) {
        worker.gate.shut();
    }

    fn resume(&mut self, worker: &Thread) {
        worker.gate.open();
    }

    fn stall(&mut self, stalled: bool) {
        if stalled { self.world.pause() } else { self.world.resume() }
    }

    fn failed(&mut self) -> Vec<String> {
        let mut failed = Vec::new();
        for worker in self.ending.extract_if(.., |worker| worker.handle.is_finished()) {
            match worker.handle.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => failed.push(format!("a worker failed: {error}")),
                Err(_) => failed.push("a worker panicked, see above".to_owned()),
            }
        }
        failed
    }

    fn is_everyone_home(&self) -> bool {
        self.ending.is_empty()
    }
}
