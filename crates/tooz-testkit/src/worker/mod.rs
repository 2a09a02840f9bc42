//! Coordinators in processes of their own: the test program, started again.

mod protocol;
mod serve;

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::oneshot;
use tooz_core::Mode;

pub(crate) use protocol::{Call, Contention, Failure, Pause, Wanted};
use protocol::{Reply, Request};
pub(crate) use serve::{is_worker, serve};

/// A process with one coordinator, which dies with this one.
///
/// Calls may overlap: each is a task over there.
pub(crate) struct Worker {
    child: Child,
    stdin: Arc<tokio::sync::Mutex<ChildStdin>>,
    pending: Arc<Mutex<Pending>>,
}

#[derive(Default)]
struct Pending {
    next: u64,
    /// `None` once the process is gone.
    replies: Option<HashMap<u64, oneshot::Sender<Result<Value, Failure>>>>,
}

impl Worker {
    pub(crate) fn spawn() -> Self {
        let program = std::env::current_exe().expect("the test program knows where it is");
        let mut child = Command::new(program)
            .env(serve::VARIABLE, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the test program can be started again");
        let stdin = child.stdin.take().expect("its input is a pipe");
        let stdout = child.stdout.take().expect("its output is a pipe");
        let pending = Pending { next: 0, replies: Some(HashMap::new()) };
        let pending = Arc::new(Mutex::new(pending));
        tokio::spawn(read(stdout, pending.clone()));
        Self { child, stdin: Arc::new(tokio::sync::Mutex::new(stdin)), pending }
    }

    // ---- What its coordinator does.

    pub(crate) async fn start(&self, url: &str, member: &str) -> Result<(), Failure> {
        self.call(Call::Start { url: url.into(), member: member.into() }).await
    }

    pub(crate) async fn stop_coordinator(&self) -> Result<(), Failure> {
        self.call(Call::Stop).await
    }

    pub(crate) async fn heartbeat(&self) -> Result<(), Failure> {
        self.call(Call::Heartbeat).await
    }

    /// Acquires and keeps the guard under the name of the lock; the token, or `None` if it was not
    /// had in `time`. `None` for the time waits forever.
    pub(crate) async fn acquire(
        &self,
        name: &str,
        mode: Mode,
        time: Option<Duration>,
    ) -> Result<Option<u64>, Failure> {
        self.call(Call::Acquire { name: name.into(), shared: mode == Mode::Shared, time }).await
    }

    /// Waits for an exclusive lock as long as it takes.
    pub(crate) async fn lock(&self, name: &str) -> Result<u64, Failure> {
        let token = self.acquire(name, Mode::Exclusive, None).await?;
        Ok(token.expect("waiting forever ends with a guard"))
    }

    /// Acquires a permit of a semaphore and keeps it under its name: the slot, or `None` if it was
    /// not had in `time`. `None` for the time waits forever.
    pub(crate) async fn permit(
        &self,
        name: &str,
        permits: u32,
        time: Option<Duration>,
    ) -> Result<Option<u32>, Failure> {
        self.call(Call::Permit { name: name.into(), permits, time }).await
    }

    pub(crate) async fn campaign(
        &self,
        group: &str,
        time: Option<Duration>,
    ) -> Result<Option<u64>, Failure> {
        self.call(Call::Campaign { group: group.into(), time }).await
    }

    /// Releases a lock or a term: whether it was still its own.
    pub(crate) async fn release(&self, name: &str) -> Result<bool, Failure> {
        self.call(Call::Release { name: name.into() }).await
    }

    pub(crate) async fn check(&self, name: &str) -> Result<(), Failure> {
        self.call(Call::Check { name: name.into() }).await
    }

    pub(crate) async fn verify(&self, name: &str) -> Result<bool, Failure> {
        self.call(Call::Verify { name: name.into() }).await
    }

    /// What the guard says to the process after it was stopped and continued: see [`Pause`].
    pub(crate) async fn watch_pause(&self, name: &str) -> Result<Pause, Failure> {
        self.call(Call::WatchPause { name: name.into() }).await
    }

    /// Joins a group, and creates it.
    pub(crate) async fn join(&self, group: &str, capabilities: Value) -> Result<(), Failure> {
        self.call(Call::Join { group: group.into(), capabilities }).await
    }

    pub(crate) async fn leave(&self, group: &str) -> Result<(), Failure> {
        self.call(Call::Leave { group: group.into() }).await
    }

    pub(crate) async fn members(&self, group: &str) -> Result<Vec<String>, Failure> {
        self.call(Call::Members { group: group.into() }).await
    }

    pub(crate) async fn contend(&self, contention: Contention) -> Result<u64, Failure> {
        self.call(Call::Contend(contention)).await
    }

    async fn call<T: DeserializeOwned>(&self, call: Call) -> Result<T, Failure> {
        let (reply, answer) = oneshot::channel();
        let request = {
            let mut pending = lock(&self.pending);
            pending.next += 1;
            let id = pending.next;
            let Some(replies) = &mut pending.replies else { return Err(Failure::process_gone()) };
            replies.insert(id, reply);
            Request { id, call }
        };
        let mut line = serde_json::to_vec(&request).expect("requests are plain data");
        line.push(b'\n');
        if self.stdin.lock().await.write_all(&line).await.is_err() {
            return Err(Failure::process_gone());
        }
        let value = answer.await.map_err(|_| Failure::process_gone())??;
        Ok(serde_json::from_value(value).expect("both ends are the same program"))
    }

    // ---- What happens to its process.

    /// Ends it without a last word, and waits until it is gone.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.expect("a child can be killed");
    }

    /// Stops all its threads where they are.
    pub(crate) fn freeze(&self) {
        #[cfg(unix)]
        self.signal(nix::sys::signal::Signal::SIGSTOP);
        #[cfg(not(unix))]
        panic!("this system cannot stop a process");
    }

    /// Lets them go on.
    pub(crate) fn thaw(&self) {
        #[cfg(unix)]
        self.signal(nix::sys::signal::Signal::SIGCONT);
    }

    #[cfg(unix)]
    fn signal(&self, signal: nix::sys::signal::Signal) {
        let id = self.child.id().expect("it runs").try_into().expect("process ids are small");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), signal)
            .expect("a child takes signals");
    }
}

/// Hands the replies to their calls until the process is gone.
async fn read(stdout: ChildStdout, pending: Arc<Mutex<Pending>>) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        // Whatever else a driver prints is passed on.
        let Ok(Reply { id, result }) = serde_json::from_str(&line) else {
            println!("{line}");
            continue;
        };
        let call = lock(&pending).replies.as_mut().and_then(|replies| replies.remove(&id));
        if let Some(call) = call {
            // An error means that nobody waits for it any more.
            drop(call.send(result));
        }
    }
    lock(&pending).replies = None;
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
