//! The background threads that own every connection and every heartbeat.
//!
//! A busy or blocked user runtime cannot starve a heartbeat; a dropped future abandons an
//! operation that the engine still finishes and undoes; a guard can be dropped anywhere; and the
//! API works from any async runtime and from none. The price is one thread hop each way.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::process::Process;
use crate::{DriverEntry, Error, ErrorKind, Result, RunsOn};

/// A handle to one background thread and its current-thread runtime.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    runtime: Handle,
    process: Process,
}

/// One per process, and one more for each driver that blocks. Started on first use, they live as
/// long as the process.
static ENGINES: Mutex<Option<HashMap<&'static str, Engine>>> = Mutex::new(None);

impl Engine {
    /// The engine that runs `driver`.
    pub(crate) fn of(driver: &DriverEntry) -> Result<Self> {
        let name = match driver.runs_on {
            RunsOn::Engine => "engine",
            RunsOn::OwnThread => driver.name,
        };
        let mut engines = ENGINES.lock().unwrap_or_else(PoisonError::into_inner);
        let engines = engines.get_or_insert_default();
        // A parent process's engine has no thread here.
        if let Some(engine) = engines.get(name).filter(|engine| engine.is_here()) {
            return Ok(engine.clone());
        }
        let engine = Self::start(name)?;
        engines.insert(name, engine.clone());
        Ok(engine)
    }

    fn start(name: &str) -> Result<Self> {
        let refuse = |e| {
            Error::new(ErrorKind::Internal, "the engine thread could not be started").caused_by(e)
        };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(refuse)?;
        let handle = runtime.handle().clone();
        std::thread::Builder::new()
            .name(format!("tooz-{name}"))
            .spawn(move || runtime.block_on(std::future::pending::<()>()))
            .map_err(refuse)?;
        Ok(Self { runtime: handle, process: Process::current() })
    }

    /// Whether its thread is one of this process, which may be a fork of the one that started it.
    pub(crate) fn is_here(&self) -> bool {
        self.process.is_current()
    }

    /// Fails in a fork.
    pub(crate) fn check_here(&self) -> Result<()> {
        self.process.check()
    }

    /// Runs `work` to its end, whether or not anybody waits for it. In a fork nothing is run.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        match self.is_here() {
            true => drop(self.runtime.spawn(work)),
            // Not dropped either: what it holds is registered with the parent's poller.
            false => std::mem::forget(work),
        }
    }

    /// Runs `work` to its end and gives its result to the caller. If the caller is gone by then,
    /// the result is dropped on the engine: a result that must not be lost undoes itself in its
    /// `Drop`.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        if let Err(error) = self.check_here() {
            std::mem::forget(work);
            return Err(error);
        }
        let (reply, answer) = oneshot::channel();
        self.spawn(async move {
            // An error means that the caller is gone; the result has been dropped then.
            drop(reply.send(work.await));
        });
        answer.await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Internal, "the operation panicked inside the engine"))
        })
    }
}

/// Undoes something when dropped, unless it was kept: how the work of an abandoned call is undone.
pub(crate) struct Undo(Option<Box<dyn FnOnce() + Send>>);

impl Undo {
    pub(crate) fn with(undo: impl FnOnce() + Send + 'static) -> Self {
        Self(Some(Box::new(undo)))
    }

    pub(crate) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some(undo) = self.0.take() {
            undo();
        }
    }
}
