//! One acquisition's turn in the queue before a file: the longest waiter is first.
//!
//! The queue keeps turns in order, and a release from waking more than one. What excludes is the lock
//! of the file itself, so whatever fails here costs no more than the order.

use tooz_core::{Mode, OperationId, Result};
use tracing::debug;

use crate::queue::{Queue, Ticket};

/// The turn of one that may come to wait. It leaves the queue when it is dropped. The directory of
/// the queue stays until the next sweep: to make and remove it costs more than all the rest of a
/// turn.
#[derive(Debug)]
pub(crate) struct Turn(Option<InQueue>);

#[derive(Debug)]
struct InQueue {
    queue: Queue,
    operation: OperationId,
    mode: Mode,
    ticket: Option<Ticket>,
}

impl Turn {
    /// For what is held too shortly to queue for.
    pub(crate) fn without_queue() -> Self {
        Self(None)
    }

    /// In that queue, which is not joined yet.
    pub(crate) fn in_queue(queue: Queue, operation: OperationId, mode: Mode) -> Self {
        Self(Some(InQueue { queue, operation, mode, ticket: None }))
    }

    /// Whether anybody is in the queue; not asked after it is joined.
    pub(crate) fn others_wait(&self) -> bool {
        let Some(InQueue { queue, ticket: None, .. }) = &self.0 else { return false };
        in_order(queue.has_living()).unwrap_or(false)
    }

    /// Joins the queue at its end, unless it has done so, and waits to be first; `false` if `over`
    /// came before. Dropping the future leaves its ticket in the queue.
    pub(crate) async fn wait(&mut self, over: impl Future<Output = ()>) -> bool {
        let Some(InQueue { queue, operation, mode, ticket }) = &mut self.0 else { return true };
        if ticket.is_none() {
            *ticket = in_order(queue.draw(*operation, *mode));
        }
        let Some(ticket) = ticket else { return true };
        in_order(queue.turn(ticket, over).await).unwrap_or(true)
    }

    /// Sends away those before it, who have not taken their turn.
    pub(crate) fn pass_over(&self) {
        if let Some(InQueue { queue, ticket: Some(ticket), .. }) = &self.0 {
            in_order(queue.pass_over(ticket));
        }
    }
}

fn in_order<T>(result: Result<T>) -> Option<T> {
    result.inspect_err(|error| debug!(%error, "turns may be out of order")).ok()
}
