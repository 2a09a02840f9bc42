//! Waiting in the queue of a lock, which is on the server: see `scripts/lock.lua`.

use std::time::Duration;

use tokio::sync::mpsc;
use tooz_core::kit::random_part;
use tooz_core::{Moment, OperationId, WaitLimit};

use crate::state::{State, Wake};

/// How long a waiter has to answer once it was given the lock: `ANSWER` in `scripts/lock.lua`.
const ANSWER: Duration = Duration::from_millis(700);

/// What a clock's tick and the round trip to the server may cost.
const SLACK: Duration = Duration::from_millis(5);

/// An entry of ours in the queue.
pub(crate) struct QueueEntry {
    /// Where it stands.
    pub(crate) score: Vec<u8>,
    /// How many are before it.
    pub(crate) before: u32,
    /// How long what is in the way lives unless it is renewed; `None` if for ever.
    pub(crate) ttl: Option<Duration>,
    /// Whether one of ours has it, who wakes us.
    pub(crate) is_ours: bool,
}

/// Hears what wakes an acquisition, until it is dropped.
#[derive(Debug)]
pub(crate) struct Waiter<'a> {
    state: &'a State,
    operation: String,
    wakes: mpsc::UnboundedReceiver<Wake>,
}

impl<'a> Waiter<'a> {
    pub(crate) fn new(state: &'a State, operation: OperationId) -> Self {
        let (sender, wakes) = mpsc::unbounded_channel();
        let operation = operation.to_string();
        state.waiters.insert(operation.clone(), sender);
        Self { state, operation, wakes }
    }

    /// Waits until it is time to look again, or `wait` is over.
    pub(crate) async fn wait(&mut self, entry: &QueueEntry, wait: &WaitLimit) {
        let mut until = entry.look_again();
        loop {
            tokio::select! {
                wake = self.wakes.recv() => match wake {
                    Some(Wake::Overdue) => until = Moment::now() + ANSWER + SLACK * 4,
                    // The sender is removed by the drop alone.
                    Some(Wake::Now) | None => return,
                },
                () = until.wait() => return,
                () = wait.over() => return,
            }
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.state.waiters.remove(&self.operation);
    }
}

impl QueueEntry {
    /// When to look again if nothing is pushed. The first in the queue looks when the holder's time
    /// is over, the others a little later each, should those before them be dead. A peer of another
    /// kind releases silently: then the first looks several times a second, and the others ever
    /// more rarely.
    fn look_again(&self) -> Moment {
        let step = Duration::from_millis(u64::from(self.before.min(4)) * 150);
        let jitter = Duration::from_millis(if self.before < 4 { 10 } else { 150 });
        let end = self.ttl.map(|ttl| ttl + SLACK + step + random_part(jitter));
        let silent = match self.before {
            0 => Duration::from_millis(100) + random_part(Duration::from_millis(100)),
            before => Duration::from_secs(u64::from(before)),
        };
        Moment::now()
            + match end {
                Some(end) if self.is_ours => end,
                Some(end) => end.min(silent),
                None => silent,
            }
    }
}
