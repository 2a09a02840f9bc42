//! What a coordinator, its locks and its guards share.

use std::pin::Pin;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::supervisor::{Call, Supervisor, stopped};
use crate::{Error, Feature, Result};

/// Counts the coordinators and guards that are left: when the last one is dropped, the coordinator
/// is stopped.
pub(crate) struct Handle {
    pub(crate) supervisor: Arc<Supervisor>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let supervisor = self.supervisor.clone();
        self.supervisor.engine.spawn(async move {
            // An error is NotRunning, or a backend that is gone: nothing is left to do.
            drop(supervisor.stop().await);
        });
    }
}

impl Handle {
    /// Fails before any I/O if the driver does not declare a feature.
    pub(crate) fn needs(&self, feature: Feature, operation: &'static str) -> Result<()> {
        let entry = &self.supervisor.entry;
        if entry.features.contains(feature) {
            return Ok(());
        }
        Err(Error::not_implemented(feature).during(operation).on(entry.name))
    }

    /// Calls the session on the engine.
    pub(crate) async fn call<A, T>(
        &self,
        operation: &'static str,
        arguments: A,
        call: Call<A, T>,
    ) -> Result<T>
    where
        A: Send + Sync + 'static,
        T: Send + 'static,
    {
        let supervisor = self.supervisor.clone();
        self.run(operation, async move { supervisor.call(&arguments, call).await }).await
    }

    /// Runs an operation on the engine.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let supervisor = &self.supervisor;
        let span = supervisor.span(operation);
        supervisor
            .engine
            .run(work.instrument(span))
            .await
            .map_err(|e| supervisor.names(e.during(operation)))
    }

    /// Runs `work` on the engine, and drops it there when the caller no longer waits for it: for
    /// what is made of public operations, each of which bears that. In a box, for it is large, and
    /// on its way to the engine would be on the caller's stack several times.
    pub(crate) async fn while_awaited<T: Send + 'static>(
        &self,
        work: Pin<Box<dyn Future<Output = Result<T>> + Send>>,
    ) -> Result<T> {
        let abandoned = CancellationToken::new();
        let _abandon = abandoned.clone().drop_guard();
        let engine = &self.supervisor.engine;
        let work = async move {
            // Of what was abandoned nobody sees the answer.
            abandoned.run_until_cancelled(work).await.unwrap_or_else(|| Err(stopped()))
        };
        engine.run(work).await
    }
}
