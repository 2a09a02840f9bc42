//! The heartbeats that keep a session.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::Supervisor;
use crate::engine::Undo;
use crate::{ErrorKind, Heartbeat, Loss, Moment, Result, Session};

/// The manual heartbeats: signs that the application lives.
#[derive(Clone, Copy, Default)]
pub(super) struct Beats {
    begun: u64,
    running: usize,
}

impl Supervisor {
    /// The heart: one session's renewals, until it is lost.
    pub(super) async fn beat(
        self: Arc<Self>,
        session: Arc<dyn Session>,
        released: CancellationToken,
    ) {
        let Some(interval) = session.heartbeat_interval() else { return };
        let mut next = Moment::now() + interval;
        let mut backoff = self.settings.retry.backoff();
        loop {
            tokio::select! {
                () = next.wait() => {}
                _ = session.lease().lost() => return,
                () = released.cancelled() => return,
            }
            let sent = Moment::now();
            if self.beat_once(&*session).await.is_ok() {
                next = sent + interval;
                backoff = self.settings.retry.backoff();
            } else {
                // Well before the deadline, whatever the policy: a pause must not cost the session.
                let end = session.lease().deadline();
                next = backoff.moment_before(end.unwrap_or_else(|| Moment::now() + interval));
            }
        }
    }

    async fn beat_once(&self, session: &dyn Session) -> Result<()> {
        let result = session.heartbeat().await;
        if let Err(error) = &result {
            debug!(backend = self.entry.name, %error, "heartbeat failed");
            match error.kind() {
                ErrorKind::SessionLost => session.lease().lose(Loss::SessionEnded),
                _ => session.lease().suspend(),
            }
        }
        result
    }

    /// One manual heartbeat; returns how long until the next is due.
    pub(crate) async fn heartbeat(self: &Arc<Self>) -> Result<Duration> {
        self.beats.send_modify(|beats| {
            beats.begun += 1;
            beats.running += 1;
        });
        let supervisor = self.clone();
        let _ended = Undo::with(move || supervisor.beats.send_modify(|beats| beats.running -= 1));
        let run = self.run()?;
        let session = run.session(Moment::now(), self.settings.timeout).await?;
        self.beat_once(&*session).await.map_err(|e| run.or_stopped(e))?;
        Ok(session.heartbeat_interval().unwrap_or(self.settings.timeout))
    }

    pub(super) fn beats_begun(&self) -> u64 {
        self.beats.borrow().begun
    }

    /// Whether the application lives: if manual heartbeats stop, it hangs, and then nothing is
    /// restored. `before` heartbeats had begun at the loss.
    pub(super) fn lives(&self, before: u64, beats: Beats) -> bool {
        let by_hand = self.settings.heartbeat == Heartbeat::Manual;
        !by_hand || beats.begun > before || beats.running > 0
    }

    /// Waits for a sign that the application lives.
    pub(super) async fn is_alive(&self, before: u64) {
        let mut beats = self.beats.subscribe();
        // The sender lives in `self`: the wait cannot fail.
        let _ = beats.wait_for(|now| self.lives(before, *now)).await;
    }
}
